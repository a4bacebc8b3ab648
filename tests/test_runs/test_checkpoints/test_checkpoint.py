# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import contextlib
import hashlib
import os
import os.path as osp
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import mmengine.fileio as fileio
import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import run_tool
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import CheckpointLoader, Runner, save_checkpoint
from mmengine.runner import load_checkpoint as load_into_model

from autonl_mm import checkpoint
from autonl_mm.runs import atomic_files as writing
from autonl_mm.runs.checkpoints import (
    BrokenCheckpointError,
    MismatchError,
    UnsafeCheckpointError,
    allow_list,
    find_resumable,
    for_predictions,
    load_checkpoint,
    patches,
    resumable,
)

checkpoint.install()


def plain_load(path):
    """Loads without protection: the reference, and proof that files are unsafe."""
    return torch.load(path, weights_only=False)


class Call:
    """Pickled as a call; of anything, so of what pickle must not find."""

    def __init__(self, func, *args):
        self.func, self.args = func, args

    def __call__(self):  # lets pickle take it for a function
        raise NotImplementedError

    def __reduce__(self):
        return self.func, self.args


def save(obj, path, fmt='zip', **kwargs):
    torch.save(obj, path, _use_new_zipfile_serialization=fmt == 'zip', **kwargs)
    return str(path)


# A training run: model, EMA, optimizer, schedule, message hub.


class ToyModel(BaseModel):

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.backbone(torch.stack(inputs)).square().mean())


class ToyDataset(torch.utils.data.Dataset):
    metainfo = dict(palette=np.arange(3), empty=np.array([]), classes=('a', 'b'))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.full((2, ), float(index)))


def build_runner(work_dir, max_epochs, max_keep_ckpts=-1, **kwargs):
    return Runner(
        ToyModel(),
        str(work_dir),
        train_dataloader=dict(
            dataset=ToyDataset(),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='pseudo_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='ExponentialLR', gamma=0.5),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='autonl_mm.SafeCheckpointHook', interval=1,
                max_keep_ckpts=max_keep_ckpts)),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'checkpoint_{osp.basename(work_dir)}_{max_epochs}',
        randomness=dict(seed=0),
        **kwargs)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a finished run of two epochs."""
    work_dir = tmp_path_factory.mktemp('trained')
    build_runner(work_dir, 2).train()
    return work_dir


@pytest.fixture
def work_dir(trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'run')
    return tmp_path / 'run'


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, HistoryBuffer):
        assert_same(a.data, b.data)
    elif isinstance(a, (torch.Tensor, np.ndarray)):
        assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    else:
        assert a == b


def test_loads_what_a_runner_saved(trained):
    path = trained / 'epoch_2.pth'
    loaded = load_checkpoint(path)
    assert_same(loaded, plain_load(path))
    losses = loaded['message_hub']['log_scalars']['train/loss']
    assert type(losses) is HistoryBuffer and len(losses.data[0]) == 4
    assert losses.mean() == losses.statistics('mean')
    assert {'ema_state_dict', 'optimizer', 'param_schedulers'} <= set(loaded)


def test_resume_goes_on_as_if_nothing_happened(work_dir):
    through = load_checkpoint(work_dir / 'epoch_2.pth')
    os.remove(work_dir / 'epoch_2.pth')
    path = str(work_dir / 'epoch_1.pth')
    build_runner(work_dir, 2, load_from=path, resume=True).train()
    resumed = load_checkpoint(work_dir / 'epoch_2.pth')
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(resumed[key], through[key])
    losses, expected = (content['message_hub']['log_scalars']['train/loss']
                        for content in (resumed, through))
    assert_same(losses, expected)


# Files that would run code.


def evil_objects(sentinel):
    command = f'touch {sentinel}'
    source = f'open({str(sentinel)!r}, "w")'
    shell = Call(os.system, command)
    # getattr leads from any class to everything
    space = Call(getattr, Call(getattr, HistoryBuffer, '__init__'), '__globals__')
    builtin = Call(Call(getattr, space, 'get'), '__builtins__')
    run = Call(Call(getattr, builtin, 'get'), 'eval')
    poisoned = HistoryBuffer([1.], [1])
    poisoned.trap = shell
    scalar = np.float64().__reduce__()[0]
    return dict(
        system=shell,
        eval=Call(eval, source),
        popen=Call(subprocess.Popen, ['touch', str(sentinel)]),
        partial=Call(partial(os.system, command)),
        getattr=Call(run, source),
        in_array=np.array([shell], dtype=object),
        in_scalar=Call(scalar, np.dtype('O'), shell),
        in_history=poisoned)


EVIL = ['system', 'eval', 'popen', 'partial', 'getattr', 'in_array', 'in_scalar',
        'in_history']


@pytest.mark.parametrize('fmt', ['zip', 'legacy'])
@pytest.mark.parametrize('kind', EVIL)
def test_evil_is_refused(tmp_path, kind, fmt):
    sentinel = tmp_path / 'ran'
    content = dict(state_dict=dict(w=torch.ones(1)), meta=evil_objects(sentinel)[kind])
    path = save(content, tmp_path / 'evil.pth', fmt)
    with pytest.raises(UnsafeCheckpointError) as info:
        load_checkpoint(path)
    assert path in str(info.value) and 'weights_only' not in str(info.value)
    assert not sentinel.exists()
    with contextlib.suppress(TypeError):  # numpy's, of in_scalar, when it has run
        result = plain_load(path)
    if kind == 'popen':
        result['meta'].wait()
    assert sentinel.exists(), 'the file is harmless and proves nothing'


def test_getattr_stands_for_statistics_methods_only():
    for name in ('current', 'max', 'mean', 'min'):
        method = allow_list.method(allow_list.History, name)
        assert method is getattr(HistoryBuffer, name)

    class Impostor(allow_list.History):
        pass

    buffer = allow_list.History
    for owner, name in [(buffer, '__init__'), (buffer, '__class__'),
                        (buffer, 'data'), (buffer, 'update'),
                        (buffer, 'register_statistics'), (HistoryBuffer, 'mean'),
                        (HistoryBuffer(), 'mean'), (Impostor, 'mean'),
                        (HistoryBuffer.mean, '__globals__'), (os, 'system'),
                        (np.ndarray, 'max'), (torch.Tensor, 'mean')]:
        with pytest.raises(pickle.UnpicklingError, match='getattr'):
            allow_list.method(owner, name)


@pytest.mark.parametrize('owner, name, reason', [
    (HistoryBuffer, '__init__', 'getattr.*__init__'),
    (torch.Size, '__reduce_ex__', 'getattr.*__reduce_ex__'),
    (torch.Tensor, '__reduce_ex__', 'torch.Tensor'),  # may not even be named
])
def test_file_gets_no_other_attribute(tmp_path, owner, name, reason):
    path = save(Call(getattr, owner, name), tmp_path / 'evil.pth')
    with pytest.raises(UnsafeCheckpointError, match=reason):
        load_checkpoint(path)


def test_torchscript_and_tar_are_refused(tmp_path):
    """Formats that torch up to 2.5 opened even with weights_only=True."""
    script = str(tmp_path / 'script.pth')
    torch.jit.script(torch.nn.Linear(1, 1)).save(script)
    with pytest.raises(UnsafeCheckpointError, match=r'script\.pth.*TorchScript'):
        load_checkpoint(script)

    sentinel = tmp_path / 'ran'
    tar = str(tmp_path / 'old.pth')
    with tarfile.open(tar, 'w', format=tarfile.PAX_FORMAT) as archive:
        for name in ('storages', 'tensors', 'pickle'):
            part = tmp_path / name
            part.write_bytes(
                pickle.dumps(Call(os.system, f'touch {sentinel}'), protocol=2))
            archive.add(part, name)
    with pytest.raises(UnsafeCheckpointError, match=r'old\.pth.*tar'):
        load_checkpoint(tar)
    assert not sentinel.exists()
    with contextlib.suppress(EOFError):
        plain_load(tar)
    assert sentinel.exists()


@pytest.mark.parametrize('protocol', range(6))
def test_evil_bare_pickle_is_refused(tmp_path, protocol):
    sentinel, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    path.write_bytes(
        pickle.dumps(Call(os.system, f'touch {sentinel}'), protocol=protocol))
    with pytest.raises((UnsafeCheckpointError, BrokenCheckpointError),
                       match=r'evil\.pth'):
        load_checkpoint(path)
    assert not sentinel.exists()
    with contextlib.suppress(RuntimeError):
        plain_load(path)
    assert sentinel.exists()


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_evil_checkpoint_of_newer_protocol_is_refused(tmp_path, protocol):
    sentinel = tmp_path / 'ran'
    path = save(Call(os.system, f'touch {sentinel}'), tmp_path / 'evil.pth',
                pickle_protocol=protocol)
    with pytest.raises(UnsafeCheckpointError):
        load_checkpoint(path)
    assert not sentinel.exists()
    plain_load(path)
    assert sentinel.exists()


def test_someone_elses_allow_list(tmp_path):
    """Clearing torch's list does not remove ours."""
    path = save(HistoryBuffer([1.], [1]), tmp_path / 'a.pth')
    torch.serialization.clear_safe_globals()
    assert load_checkpoint(path).max() == 1
    assert getattr not in torch.serialization.get_safe_globals()


# Broken files.


@pytest.mark.parametrize('fmt', ['zip', 'legacy'])
@pytest.mark.parametrize('length', ['0', '1', '10', 'size // 2', 'size - 1'])
def test_truncated(tmp_path, fmt, length):
    path = save(dict(w=torch.zeros(10000)), tmp_path / 'cut.pth', fmt)
    assert resumable.is_complete(path)
    size = osp.getsize(path)
    length = eval(length, dict(size=size))
    os.truncate(path, length)
    with pytest.raises(BrokenCheckpointError) as info:
        load_checkpoint(path)
    assert f'{path} ({length} bytes)' in str(info.value)
    assert not resumable.is_complete(path)


@pytest.mark.parametrize('content', [b'\0' * 1000, b'<!doctype html>' * 9,
                                     b'\x80\x02', b'PK\x03\x04 and no more'])
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / 'odd.pth'
    path.write_bytes(content)
    with pytest.raises(BrokenCheckpointError, match=r'odd\.pth'):
        load_checkpoint(path)
    assert not resumable.is_complete(str(path))


def test_missing(tmp_path):
    for path in (tmp_path / 'none.pth', tmp_path, 'pavi://some/model.pth'):
        for load in load_checkpoint, CheckpointLoader.load_checkpoint:
            with pytest.raises(FileNotFoundError, match=str(path)):
                load(str(path))


def test_errors_that_are_not_of_the_file(tmp_path):
    path = save(torch.ones(1), tmp_path / 'a.pth')
    with pytest.raises(Exception) as info:
        load_checkpoint(path, map_location='nonsense')
    assert not isinstance(info.value, (BrokenCheckpointError, UnsafeCheckpointError))


# mmengine's ways to a file.


class Handler(SimpleHTTPRequestHandler):
    """Breaks off in the middle of files in the folder ``broken``."""

    def copyfile(self, source, outputfile):
        content = source.read()
        if self.path.startswith('/broken/'):
            content = content[:len(content) // 2]
        outputfile.write(content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/served; torch.hub keeps its files in tmp_path/hub."""
    root = tmp_path / 'served'
    root.mkdir()
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    httpd = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=root))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{httpd.server_port}', root
    httpd.shutdown()
    httpd.server_close()


def test_http(server, tmp_path):
    url, root = server
    content = dict(state_dict=dict(w=torch.ones(1)), log=HistoryBuffer([1.], [1]))
    save(content, root / 'good.pth')
    for _ in range(2):  # the second time out of the cache
        assert_same(CheckpointLoader.load_checkpoint(f'{url}/good.pth'), content)
        (root / 'good.pth').unlink(missing_ok=True)
    assert len(list((tmp_path / 'hub/checkpoints').glob('*-good.pth'))) == 1

    sentinel = tmp_path / 'ran'
    save(Call(os.system, f'touch {sentinel}'), root / 'evil.pth')
    with pytest.raises(UnsafeCheckpointError, match=r'hub/checkpoints/\w+-evil\.pth'):
        load_into_model(ToyModel(), f'{url}/evil.pth')
    assert not sentinel.exists()


def test_http_files_of_one_name(server, monkeypatch):
    url, root = server
    for number, folder in enumerate('ab'):
        (root / folder).mkdir()
        save(number, root / folder / 'same.pth')
    urls = [f'{url}/{rest}' for rest in ('a/same.pth', 'b/same.pth', 'b/same.pth?v=2')]
    for name in ('get_external_models', 'get_torchvision_models'):
        monkeypatch.setattr(mmengine_checkpoint, name, lambda: dict(net=urls[1]))
    load = CheckpointLoader.load_checkpoint
    for _ in range(2):
        assert [load(u) for u in urls] == [0, 1, 1]
        assert load('open-mmlab://net') == load('torchvision://net') == 1
        shutil.rmtree(root / 'a', ignore_errors=True)
    save(2, root / 'b/same.pth')
    assert [load(u) for u in (*urls, f'{url}/b/same.pth?v=3')] == [0, 1, 1, 2]


@pytest.mark.parametrize('name', ['a-{}.pth', 'a_20261130-{}.pth', 'a-{}.pth.tar'])
def test_http_digest_in_a_name(name, server, tmp_path):
    """As torch, timm and OpenMMLab name their files."""
    url, root = server
    save(1, root / 'net.pth')
    content = (root / 'net.pth').read_bytes()
    right = hashlib.sha256(content).hexdigest()
    for digest in (right[:8], right[:10], '20261130'):  # the last is a date
        (root / name.format(digest)).write_bytes(content)
        assert patches.load_url(f'{url}/{name.format(digest)}') == 1
    wrong = name.format('0123abcd')
    (root / wrong).write_bytes(content)
    for _ in range(2):
        with pytest.raises(BrokenCheckpointError,
                           match=f'{url}/{wrong} .*0123abcd.*{right}'):
            CheckpointLoader.load_checkpoint(f'{url}/{wrong}')
    assert len(os.listdir(tmp_path / 'hub/checkpoints')) == 3
    # kept files are checked again: a disk or a user may have changed them
    for path in (tmp_path / 'hub/checkpoints').glob(f'*{right[:8]}*'):
        path.write_bytes(b'another file')
        with pytest.raises(BrokenCheckpointError, match=f'{path.name} is not the file'):
            patches.load_url(f'{url}/{path.name.partition("-")[2]}')
    assert patches.load_url(f'{url}/{wrong}', file_name='b.pth') == 1


def test_http_by_hand(server):
    """Where there is no connection, the message says which file to put where."""
    url, _ = server
    for missing in (f'{url}/net.pth', 'http://127.0.0.1:1/net.pth'):
        with pytest.raises(OSError, match=f'{missing} cannot be downloaded .*') as info:
            CheckpointLoader.load_checkpoint(missing)
        save(1, Path(str(info.value).rpartition('save it as ')[2]))
        assert CheckpointLoader.load_checkpoint(missing) == 1


@pytest.mark.parametrize('fmt', ['zip', 'legacy', 'safetensors'])
def test_http_that_breaks_off(fmt, server, tmp_path):
    url, root = server
    (root / 'broken').mkdir()
    name = 'net.safetensors' if fmt == 'safetensors' else 'net.pth'
    state = dict(w=torch.arange(999.))
    if fmt == 'safetensors':
        safetensors.torch.save_file(state, root / 'broken' / name)
    else:
        save(dict(state_dict=state), root / 'broken' / name, fmt)
    with pytest.raises(BrokenCheckpointError, match=name):
        CheckpointLoader.load_checkpoint(f'{url}/broken/{name}')
    assert not os.listdir(tmp_path / 'hub/checkpoints')


@pytest.mark.parametrize('scheme', ['open-mmlab', 'openmmlab', 'mmcls',
                                    'torchvision', 'local file'])
def test_model_zoo_names(server, tmp_path, monkeypatch, scheme):
    url, root = server
    sentinel = tmp_path / 'ran'
    save(Call(os.system, f'touch {sentinel}'), root / 'evil.pth')
    save(dict(state_dict={'backbone.w': torch.ones(1)}), root / 'good.pth')
    urls = dict(good=f'{url}/good.pth', evil=f'{url}/evil.pth')
    if scheme == 'local file':  # of mmengine's home folder
        scheme, urls = 'open-mmlab', dict(good='good.pth', evil='evil.pth')
    monkeypatch.setenv('MMENGINE_HOME', str(root))
    for name in ('get_external_models', 'get_mmcls_models', 'get_torchvision_models'):
        monkeypatch.setattr(mmengine_checkpoint, name, lambda: urls)
    loaded = CheckpointLoader.load_checkpoint(f'{scheme}://good')
    key = 'w' if scheme == 'mmcls' else 'backbone.w'
    assert loaded['state_dict'][key] == 1
    with pytest.raises(UnsafeCheckpointError):
        CheckpointLoader.load_checkpoint(f'{scheme}://evil')
    assert not sentinel.exists()


@pytest.mark.parametrize('url', ['s3://bucket/{}', 'a:petrel://bucket/{}'])
def test_object_storage(tmp_path, monkeypatch, url):

    class Storage(fileio.LocalBackend):  # Petrel's needs its package

        @contextlib.contextmanager
        def get_local_path(self, filepath):
            yield str(tmp_path / osp.basename(filepath))

    monkeypatch.setitem(fileio.backends.backends, 'petrel', Storage)
    sentinel = tmp_path / 'ran'
    save(Call(os.system, f'touch {sentinel}'), tmp_path / 'evil.pth')
    save(dict(a=1), tmp_path / 'good.pth')
    load = CheckpointLoader.load_checkpoint
    assert load(url.format('good.pth')) == dict(a=1)
    with pytest.raises(UnsafeCheckpointError):
        load(url.format('evil.pth'))
    assert not sentinel.exists()


def test_every_scheme_is_ours():
    """A loader of mmengine that was not replaced may load without protection."""
    ours = {prefix for prefix, load in CheckpointLoader._schemes.items()
            if load.__module__ == patches.__name__}
    via_load_url = {'http://', 'https://', 'torchvision://', 'modelzoo://', 'mmcls://'}
    assert set(CheckpointLoader._schemes) == ours | via_load_url
    assert mmengine_checkpoint.load_url is patches.load_url


# Saving and going on.


def test_every_local_backend_is_atomic(tmp_path):
    atomic = writing.AtomicLocalBackend
    path = str(tmp_path / 'a.pth')
    backends = [
        fileio.get_file_backend(path),
        fileio.get_file_backend(backend_args=dict(backend='local')),
        fileio.FileClient.infer_client(None, path).client,
        fileio.FileClient.infer_client(dict(backend='disk')).client
    ]
    for backend in backends:
        assert type(backend) is atomic and backend.name == 'LocalBackend'
        backend.put(b'1', tmp_path / 'new/folder/a')
        assert backend.get(tmp_path / 'new/folder/a') == b'1'
        backend.put_text('ä', tmp_path / 'b')
        assert backend.get_text(tmp_path / 'b') == 'ä'
    assert sorted(os.listdir(tmp_path)) == ['b', 'new']
    for kwargs in (dict(), dict(file_client_args=dict(backend='disk')),
                   dict(backend_args=dict(backend='local'))):
        save_checkpoint(dict(a=kwargs), path, **kwargs)
        assert load_checkpoint(path) == dict(a=kwargs)


def test_backend_writes_through_links_and_into_devices(tmp_path, monkeypatch):
    backend = writing.AtomicLocalBackend()
    (tmp_path / 'link').symlink_to(tmp_path / 'file')
    backend.put(b'1', tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'file').read_bytes() == b'1'
    os.mkfifo(tmp_path / 'pipe')
    end = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    backend.put(b'2', tmp_path / 'pipe')
    assert os.read(end, 9) == b'2'
    os.close(end)
    monkeypatch.chdir(tmp_path)
    backend.put(b'3', 'bare')
    assert (tmp_path / 'bare').read_bytes() == b'3'


def run_and_die(work_dir, victim):
    """Runs in a separate process, which is killed during its second save."""
    calls = []

    def die(*args):
        calls.append(args)
        if len(calls) < 2:
            return original(*args)
        if victim == 'fsync':  # with half of it on the disk
            os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    original = getattr(os, victim)
    setattr(os, victim, die)
    build_runner(work_dir, 3, max_keep_ckpts=1).train()


def test_a_second_run_within_a_second(tmp_path, monkeypatch):
    """It has the name of the first run, and so its numbers of kept checkpoints."""
    monkeypatch.setattr('mmengine.runner.runner.time', SimpleNamespace(
        time=lambda: 1e9, strftime=time.strftime, localtime=time.localtime))
    for _ in range(2):
        build_runner(tmp_path, 2, max_keep_ckpts=2).train()
        assert sorted(p.name for p in tmp_path.glob('*.pth')) == [
            'epoch_1.pth', 'epoch_2.pth']


@pytest.mark.parametrize('victim', ['fsync', 'replace', 'remove'])
def test_killed_while_saving(tmp_path, victim):
    """Even if only one checkpoint is kept."""
    work_dir = tmp_path / 'run'
    script = tmp_path / 'die.py'
    script.write_text(f'import sys\nsys.path[:0] = {sys.path!r}\n'
                      f'from {__name__.split(".")[-1]} import run_and_die\n'
                      f'run_and_die({str(work_dir)!r}, {victim!r})\n')
    process = run_tool(script, check=False, cwd=osp.dirname(__file__))
    assert process.returncode == -signal.SIGKILL, process.stdout
    path = find_resumable(work_dir)
    epoch = 3 if victim == 'remove' else 1
    assert path == str(work_dir / f'epoch_{epoch}.pth')
    assert load_checkpoint(path)['meta']['epoch'] == epoch
    if victim == 'remove':
        return

    assert len(list(work_dir.glob('epoch_2.pth.*.tmp'))) == 1
    build_runner(work_dir, 2, max_keep_ckpts=1, load_from=path, resume=True).train()
    assert find_resumable(work_dir) == str(work_dir / 'epoch_2.pth')
    left = [name for name in os.listdir(work_dir) if '.pth' in name]
    assert left == ['epoch_2.pth']


def note(work_dir, text):
    (work_dir / 'last_checkpoint').write_bytes(text)


def test_find_resumable(work_dir):
    """mmengine noted a path in a folder that has since been copied."""
    assert find_resumable(work_dir) == str(work_dir / 'epoch_2.pth')
    assert find_resumable(str(work_dir)) == str(work_dir / 'epoch_2.pth')


def test_find_resumable_after_a_move(trained, tmp_path):
    work_dir = tmp_path / 'before'
    shutil.copytree(trained, work_dir)
    note(work_dir, str(work_dir / 'epoch_1.pth').encode())
    os.utime(work_dir / 'epoch_2.pth', (0, 0))
    os.rename(work_dir, tmp_path / 'after')
    found = find_resumable(tmp_path / 'after')
    assert found == str(tmp_path / 'after/epoch_1.pth')


@pytest.mark.parametrize('text', [
    None, b'', b'\n', b'\xff\0\xfe', b'x' * 5000, b'/gone/epoch_9.pth', b'/', b'.'
])
def test_find_resumable_without_a_usable_note(work_dir, monkeypatch, tmp_path, text):
    monkeypatch.chdir(tmp_path)
    save(1, 'epoch_99.pth')  # must not be taken from the current folder
    os.remove(work_dir / 'last_checkpoint')
    if text is not None:
        note(work_dir, text)
    save(1, work_dir / 'epoch_10.pth')
    os.utime(work_dir / 'epoch_10.pth', (0, 0))  # numbers count, not text order
    save(1, work_dir / 'best_acc_epoch_11.pth')
    (work_dir / 'epoch_12.pth.0.tmp').write_bytes(b'')
    (work_dir / 'epoch_13.pth').write_bytes(b'')
    (work_dir / 'epoch_14.pth').mkdir()
    assert find_resumable(work_dir) == str(work_dir / 'epoch_10.pth')


def test_find_resumable_when_the_noted_one_is_cut(work_dir):
    os.truncate(work_dir / 'epoch_2.pth', 1000)
    assert find_resumable(work_dir) == str(work_dir / 'epoch_1.pth')
    os.truncate(work_dir / 'epoch_1.pth', 1000)
    assert find_resumable(work_dir) is None


def test_find_resumable_prefers_what_is_really_later(work_dir):
    noted = work_dir / 'epoch_2.pth'
    time = osp.getmtime(noted)

    def add(name, seconds):
        save(1, work_dir / name)
        os.utime(work_dir / name, (time + seconds, time + seconds))
        return str(work_dir / name)

    add('epoch_8.pth', -100)  # of a run before this one
    add('epoch_1.pth', 100)  # copied later
    add('iter_900.pth', 100)  # not comparable
    assert find_resumable(work_dir) == str(noted)
    third = add('epoch_3.pth', 100)
    assert find_resumable(work_dir) == third
    os.truncate(add('epoch_4.pth', 200), 100)
    assert find_resumable(work_dir) == third


def test_find_resumable_elsewhere(trained, tmp_path):
    """CheckpointHook can be told another folder, in which it makes one for the run."""
    work_dir, out_dir = tmp_path / 'run', tmp_path / 'out'
    work_dir.mkdir()
    shutil.copytree(trained, out_dir / 'run')
    for name, found in (('epoch_1.pth', 'epoch_2.pth'), ('mine.pth', 'mine.pth')):
        if name == found:
            os.rename(out_dir / 'run/epoch_1.pth', out_dir / 'run' / name)
        note(work_dir, str(out_dir / 'run' / name).encode())
        assert find_resumable(work_dir, out_dir) == str(out_dir / 'run' / found)
    newest = out_dir / 'run/epoch_2.pth'
    shutil.copy(newest, out_dir / 'run/epoch_3.pth')
    newest.write_bytes(newest.read_bytes()[:100])
    for noted in (str(newest), ''):
        note(work_dir, noted.encode())
        assert find_resumable(work_dir, out_dir) == str(out_dir / 'run/epoch_3.pth')
    note(work_dir, b's3://bucket/run/epoch_1.pth')
    assert find_resumable(work_dir, 's3://bucket') == 's3://bucket/run/epoch_1.pth'


@pytest.mark.parametrize('path', [
    '@/other/epoch_7.pth', '@/out/run/epoch_7.pth', 's3://bucket/run/epoch_7.pth',
    'https://host/run/epoch_7.pth', '@/run/../run2/epoch_7.pth', '@/run2/epoch_7.pth'])
def test_find_resumable_keeps_to_the_folders_of_the_run(path, work_dir, tmp_path,
                                                        monkeypatch):
    """A note that names a whole checkpoint of something else."""
    said = []
    monkeypatch.setattr(resumable, 'print_log', lambda line, *args: said.append(line))
    for name in ('other', 'out/run', 'run2'):
        (tmp_path / name).mkdir(parents=True)
        save(1, tmp_path / name / 'epoch_7.pth')
    path = path.replace('@', str(tmp_path))
    note(work_dir, path.encode())
    assert find_resumable(work_dir) == str(work_dir / 'epoch_2.pth')
    line, = said
    assert f"{work_dir}/last_checkpoint names '{path}', which is neither in" in line


def test_find_resumable_finds_nothing(tmp_path):
    assert find_resumable(tmp_path) is None
    assert find_resumable(tmp_path / 'none') is None


def test_find_resumable_takes_the_old_format(tmp_path):
    path = save(torch.zeros(1000), tmp_path / 'iter_1.pth', 'legacy')
    assert find_resumable(tmp_path) == path
    os.truncate(path, 2000)
    assert find_resumable(tmp_path) is None


def test_one_cycle_scheduler(tmp_path):
    """Its state holds a function of its class; that class stays a name."""
    from mmengine.optim.scheduler import OneCycleLR
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = OneCycleLR(optimizer, eta_max=1., total_steps=9)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(param_schedulers=[scheduler.state_dict()]), path)
    state, = load_checkpoint(path)['param_schedulers']
    assert state['anneal_func'] is OneCycleLR._annealing_cos
    scheduler.load_state_dict(state)
    for owner, name in ((allow_list.ONE_CYCLE, '__init__'),
                        (OneCycleLR, '_annealing_cos')):
        with pytest.raises(pickle.UnpicklingError):
            allow_list.method(owner, name)
    with pytest.raises(pickle.UnpicklingError):
        allow_list.ONE_CYCLE(optimizer)


class Classifier(BaseModel):
    """A backbone and a head, as classifiers have them."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.backbone = BaseModule()
        self.backbone.conv = torch.nn.Conv2d(3, width, 3)
        self.backbone.norm = torch.nn.BatchNorm2d(width)
        self.head = torch.nn.Linear(width, classes)

    def forward(self):
        pass


@pytest.fixture
def classifier(tmp_path):
    """Path and tensors of a classifier's checkpoint."""
    model = Classifier()
    with torch.no_grad():
        model.backbone.norm.weight.uniform_()
    path = tmp_path / 'classifier.pth'
    save_checkpoint(dict(state_dict=model.state_dict()), str(path))
    return path, model.state_dict()


@pytest.fixture
def said(monkeypatch):
    """What loading logs; mmengine's loggers write past pytest's captures."""
    lines = []
    monkeypatch.setattr(patches, 'print_log', lambda line, *args: lines.append(line))
    return lines


def pretrained(path, prefix, width=8):
    module = Classifier(width).backbone
    module.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    module._is_init = False
    module.init_weights()
    return module


def test_pretrained_with_prefix_says_how_much(classifier, said):
    path, state = classifier
    module = pretrained(path, 'backbone.')
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[f'backbone.{name}'])
    # 2 of the convolution, 4 of the norm beside its counter
    assert 'loaded 6 of 6 tensors of BaseModule' in said


def test_load_from_counts_what_fits(classifier, said):
    """A classifier of other classes: all but its head."""
    path, state = classifier
    model = Classifier(classes=3)
    load_into_model(model, str(path))
    assert 'loaded 6 of 8 tensors of Classifier' in said
    assert torch.equal(model.backbone.conv.weight, state['backbone.conv.weight'])


def test_nothing_loaded_is_an_error(classifier):
    path, _ = classifier
    with pytest.raises(ValueError) as error:
        pretrained(path, None)  # the classifier's prefix forgotten
    for word in ('none of the 6 tensors', 'conv.weight', 'backbone.conv.weight',
                 "prefix='backbone.'"):
        assert word in str(error.value)
    with pytest.raises(ValueError, match='none of the 6 tensors'):
        pretrained(path, 'backbone.', width=4)  # of another shape


def test_wrong_prefix_names_those_there_are(classifier):
    path, _ = classifier
    with pytest.raises(ValueError) as error:
        pretrained(path, 'encoder.')
    for word in (str(path), "'encoder.'", 'backbone., head.'):
        assert word in str(error.value)


def test_renamed_while_loading_counts(tmp_path, said):
    """Some modules rename old names in their own hook."""

    class Renaming(torch.nn.Linear):

        def _load_from_state_dict(self, state, prefix, *args):
            state[f'{prefix}weight'] = state.pop(f'{prefix}w')
            state[f'{prefix}bias'] = state.pop(f'{prefix}b')
            super()._load_from_state_dict(state, prefix, *args)

    module = Renaming(2, 2)
    mmengine_checkpoint.load_state_dict(
        module, dict(w=torch.ones(2, 2), b=torch.ones(2)))
    assert module.weight.eq(1).all()
    assert 'loaded 2 of 2 tensors of Renaming' in said


def filled(state, classes=10, **parts):
    """A classifier with more parts, filled for predictions."""
    model = Classifier(classes=classes)
    for name, part in parts.items():
        setattr(model, name, part)
    with for_predictions('x.pth'):
        mmengine_checkpoint.load_state_dict(model, state)
    return model


def test_predictions_need_all_tensors(classifier, said):
    path, state = classifier
    with pytest.raises(MismatchError) as error:
        filled(state, classes=3)
    for word in ('x.pth has weights of another network than Classifier',
                 '2 of 8 tensors', 'head.weight, head.bias', 'trained with'):
        assert word in str(error.value)
    # after the block, as for fine-tuning
    load_into_model(Classifier(classes=3), str(path))
    assert said == ['loaded 6 of 8 tensors of Classifier', 'not in the checkpoint with '
                    'the same shape, so they start anew: 2 tensors of head']


@pytest.mark.parametrize('name', ['auxiliary_head', 'teacher', 'loss_cls', 'other'])
def test_predictions_without_parts_for_training(name, classifier):
    _, state = classifier
    part = torch.nn.Linear(2, 2)
    if name == 'other':
        with pytest.raises(MismatchError, match=r'2 of 10 tensors.*other\.weight'):
            filled(state, other=part)
    else:
        model = filled(state, **{name: part})
        assert torch.equal(model.head.weight, state['head.weight'])
    # in the checkpoint only, a part is of another task or of training
    filled({**state, f'{name}.weight': torch.ones(2)})


def test_predictions_by_a_teacher(classifier):
    """mmdet's semi-supervised detectors predict with one of their two models."""
    class Semi(Classifier):
        semi_test_cfg = dict(predict_on='teacher')

    model = Semi()
    model.teacher = torch.nn.Linear(2, 2)
    with for_predictions('x.pth'):
        mmengine_checkpoint.load_state_dict(model, model.teacher.state_dict(
            prefix='teacher.'))
        with pytest.raises(MismatchError, match=r'teacher\.weight'):
            mmengine_checkpoint.load_state_dict(model, classifier[1])


def test_predictions_of_a_deeper_network(classifier):
    """All tensors of the model are in it."""
    _, state = classifier
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    state = {**state, **layers.state_dict(prefix='layers.')}
    filled(state, layers=layers)
    with pytest.raises(MismatchError, match='2 tensors of layers that the model does '
                       r'not have \(layers.1.weight'):
        filled(state, layers=layers[:1])
