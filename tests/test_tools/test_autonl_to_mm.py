# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""From the releases' files to a checkpoint, and to an evaluation."""
import hashlib
import io
import pickle
import re
import sys
import types
import zipfile

import cv2
import numpy as np
import pytest
import release_networks as reference
import torch
from conftest import ROOT, load_tool, run_tool
from mmengine.config import Config
from release_crops import normalize, tf_reference, torch_reference

from autonl_mm import count_macs
from autonl_mm.arch import ArchSpec
from autonl_mm.models import AutoNL

ROWS = [(1, 16, 1, 3, 0, 1, 0), (3, 24, 2, 5, 0.25, 2, 0.5)]
ARCH = ArchSpec.from_text(reference.notation(ROWS, 32))
AVERAGE = '/ExponentialMovingAverage'


autonl_to_mm = load_tool('tools/model_converters/autonl_to_mm.py')


def known(release, seed=0):
    """Random weights by a release's names, as arrays."""
    weights = reference.Weights(seed)
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32))
    getattr(reference, f'{release}_release')(x, ROWS, weights, 32, 1000)
    return weights.known


@pytest.fixture
def files(tmp_path):
    """Folder with arch.txt, weights.pt, full.pt, weights.npz, full.npz."""
    (tmp_path / 'arch.txt').write_text(ARCH.to_text())
    raw = {k: torch.from_numpy(v) for k, v in known('torch', 1).items()}
    shadow = {k: torch.from_numpy(v) for k, v in known('torch').items()}
    torch.save(shadow, tmp_path / 'weights.pt')
    torch.save(
        dict(
            model={f'module.{k}': v for k, v in raw.items()},
            optimizer=dict(state={0: dict(square_avg=torch.ones(3))}),
            ema=dict(shadow=shadow, info={}, param=dict(momentum=0.99)),
            last_epoch=349), tmp_path / 'full.pt')
    variables = known('tf')
    np.savez(tmp_path / 'weights.npz', **variables)
    full = known('tf', 1)
    full.update({k + AVERAGE: v for k, v in variables.items()})
    full.update({f'{k}/RMSProp': v * 0 for k, v in variables.items()})
    np.savez(tmp_path / 'full.npz', global_step=np.int64(9), **full)
    return tmp_path


@pytest.fixture
def fake_tensorflow(monkeypatch):
    """A tensorflow whose reader reads ``<prefix>.index`` as an archive.

    ``<prefix>.data-00000-of-00001`` must be there and not be empty.
    """
    tf = types.ModuleType('tensorflow')

    class Reader:

        def __init__(self, prefix):
            self.prefix = prefix
            with np.load(f'{prefix}.index') as archive:
                self.values = dict(archive)

        def get_variable_to_shape_map(self):
            return {k: list(v.shape) for k, v in self.values.items()}

        def get_tensor(self, name):
            with open(f'{self.prefix}.data-00000-of-00001') as file:
                if not file.read():
                    raise IndexError('Read less bytes than requested')
            return self.values[name]

    tf.train = types.SimpleNamespace(load_checkpoint=Reader)
    monkeypatch.setitem(sys.modules, 'tensorflow', tf)


def tf_checkpoint(folder, source):
    folder.mkdir()
    (folder / 'bestmodel.ckpt.index').write_bytes(source.read_bytes())
    (folder / 'bestmodel.ckpt.data-00000-of-00001').write_text('data')
    return folder / 'bestmodel.ckpt'


def convert(capsys, src, dst, *args, arch=None):
    autonl_to_mm.main([
        str(src), str(dst), '--arch', str(arch or src.parent / 'arch.txt'),
        *args
    ])
    return capsys.readouterr().out


def load_state(path):
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint['meta']['arch'] == ARCH.to_text()
    return checkpoint['state_dict']


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('release, extension, source', [
    ('torch', 'pt', 'auto'), ('torch', 'pt', 'torch'),
    ('tf', 'npz', 'auto'), ('tf', 'npz', 'tf')])
def test_files(release, extension, source, files, capsys):
    dst = files / 'out/dst.pth'  # the folder is made
    src = files / f'full.{extension}'
    out = convert(capsys, src, dst, '--source', source)
    state = load_state(dst)
    built = AutoNL(ARCH, out_indices=(-1, )).state_dict()
    assert {k[len('backbone.'):]: v.shape for k, v in state.items()
            if k.startswith('backbone.')} == {
                k: v.shape for k, v in built.items()
            }
    assert state['head.fc.weight'].shape == (1000, 32)

    # averages are what the file of averages alone has
    convert(capsys, files / f'weights.{extension}', files / 'average.pth')
    assert_equal(state, load_state(files / 'average.pth'))
    convert(capsys, src, files / 'raw.pth', '--no-ema')
    raw = load_state(files / 'raw.pth')
    assert not torch.equal(raw['head.fc.bias'], state['head.fc.bias'])

    # the line of counts
    line = out.splitlines()[-1]
    tensors = len(known(release))
    assert f'{release} release, moving averages' in line
    assert f'{tensors} tensors used' in line
    assert f'{len(state)} written' in line
    assert f'{count_macs(ARCH, 224).total:,} MACs' in line
    digest = hashlib.sha256(dst.read_bytes()).hexdigest()
    assert line.endswith(f'sha256 {digest}')
    if release == 'tf':
        assert f'{2 * tensors + 1} left out' in line
        assert f'left out: optimiser, {tensors} (' in out
        assert 'left out: global step, 1 (global_step)' in out
    else:
        assert f'{tensors + 1} left out' in line
        assert 'optimiser, 1 (optimizer.state.0.square_avg)' in out
    assert f'left out: replaced by its moving average, {tensors} (' in out


def test_parameters_are_counted(files, capsys):
    out = convert(capsys, files / 'weights.pt', files / 'dst.pth')
    params = sum(p.numel() for p in AutoNL(ARCH, out_indices=(-1, )).parameters())
    assert f'{params + 33 * 1000:,} parameters' in out


def test_as_a_script(files, capsys):
    out = run_tool('tools/model_converters/autonl_to_mm.py',
                   files / 'weights.pt', files / 'dst.pth', '--arch',
                   files / 'arch.txt').stdout
    # after what mmengine logs
    assert any(line.startswith(f'{files / "dst.pth"}: torch release')
               for line in out.splitlines())
    message = refused(capsys, files / 'weights.pt', files / 'dst2.pth', arch='s')
    assert message.startswith('autonl_to_mm.py: the weights do not fit')


def test_same_weights_same_hash(files, capsys):
    outs = [
        convert(capsys, files / 'full.npz', files / f'{name}.pth').split()[-1]
        for name in 'ab'
    ]
    assert outs[0] == outs[1]


@pytest.mark.parametrize('name', ['', 'bestmodel.ckpt', 'bestmodel.ckpt.index',
                                  'bestmodel.ckpt.data-00000-of-00001'])
@pytest.mark.parametrize('source', ['auto', 'tf'])
def test_tf_checkpoint(name, source, files, capsys, fake_tensorflow):
    prefix = tf_checkpoint(files / 'release', files / 'full.npz')
    convert(capsys, prefix.parent / name if name else prefix.parent,
            files / 'a.pth', '--source', source, arch=files / 'arch.txt')
    convert(capsys, files / 'full.npz', files / 'b.pth')
    assert_equal(load_state(files / 'a.pth'), load_state(files / 'b.pth'))


def refused(capsys, src, dst, *args, **kwargs):
    """The message of a conversion that must leave no file."""
    before = sorted(dst.parent.iterdir())
    with pytest.raises(SystemExit) as info:
        convert(capsys, src, dst, *args, **kwargs)
    message = str(info.value)
    assert message.startswith('autonl_to_mm.py: ')
    assert sorted(dst.parent.iterdir()) == before and not dst.exists()
    return message


def test_without_tensorflow(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    prefix = tf_checkpoint(files / 'release', files / 'full.npz')
    message = refused(capsys, prefix, files / 'dst.pth',
                      arch=files / 'arch.txt')
    assert "pip install -e '.[tensorflow]'" in message
    assert '.npz' in message
    assert (ROOT / re.search(r'tools/\S+README.md', message)[0]).exists()


def test_truncated_tf_checkpoint(files, capsys, fake_tensorflow):
    prefix = tf_checkpoint(files / 'release', files / 'full.npz')
    (files / 'release/bestmodel.ckpt.data-00000-of-00001').write_text('')
    message = refused(capsys, prefix, files / 'dst.pth',
                      arch=files / 'arch.txt')
    assert 'truncated or incomplete (Read less bytes' in message


def test_folder_of_several_checkpoints(files, capsys, fake_tensorflow):
    prefix = tf_checkpoint(files / 'release', files / 'full.npz')
    (files / 'release/other.ckpt.index').write_text('')
    message = refused(capsys, prefix.parent, files / 'dst.pth',
                      arch=files / 'arch.txt')
    assert '2 TensorFlow checkpoints' in message and 'name the file' in message


@pytest.mark.parametrize('name', ['full.pt', 'full.npz'])
@pytest.mark.parametrize('part', [0, 0.3, 0.9])
def test_truncated_file(name, part, files, capsys):
    content = (files / name).read_bytes()
    (files / name).write_bytes(content[:int(part * len(content))])
    message = refused(capsys, files / name, files / 'dst.pth')
    assert name in message and 'truncated' in message


@pytest.mark.parametrize('name', ['full.pt', 'full.npz'])
def test_damaged_file(name, files, capsys):
    content = bytearray((files / name).read_bytes())
    with zipfile.ZipFile(files / name) as archive:
        info = max(archive.infolist(), key=lambda i: i.file_size)
    # not a bit of a tensor may differ unnoticed
    middle = info.header_offset + info.file_size // 2
    content[middle] ^= 255
    (files / name).write_bytes(content)
    message = refused(capsys, files / name, files / 'dst.pth')
    assert f'the checksum of {info.filename} in it is wrong' in message


@pytest.mark.parametrize('name', ['bomb.npz', 'bomb.pt'])
def test_bombs_are_not_unpacked(name, files, capsys, monkeypatch):
    """Nothing of the archive is read, neither by zipfile nor by numpy."""
    member = dict(npz='x.npy', pt='a/data/0')[name.partition('.')[2]]
    with zipfile.ZipFile(files / name, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(2**25))
    monkeypatch.setattr(zipfile.ZipExtFile, 'read', None)
    message = refused(capsys, files / name, files / 'dst.pth')
    assert f'{name} ' in message and 'declare 33,554,432 bytes' in message


@pytest.mark.parametrize('length', [10**6, 10**13, 2**70])
def test_array_larger_than_its_file(length, files, capsys):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, dict(descr='<f4', fortran_order=False, shape=(length, )))
    with zipfile.ZipFile(files / 'a.npz', 'w') as archive:
        archive.writestr('x.npy', header.getvalue() + bytes(16))
    message = refused(capsys, files / 'a.npz', files / 'dst.pth')
    assert 'a.npz (' in message and 'truncated' in message


def change_npz(path, change):
    with np.load(path) as archive:
        variables = dict(archive)
    change(variables)
    np.savez(path, **variables)


def change_pt(path, change):
    state = torch.load(path)
    change(state)
    torch.save(state, path)


LAST = dict(npz='single-path/mnas_net_model/mnas_head/dense/kernel',
            pt='classifier.1.weight')


@pytest.mark.parametrize('extension', LAST)
def test_permuted_tensor(extension, files, capsys):
    """Other wrong tensors, and an arch of other blocks, are in test_select.py."""
    path, name = files / f'weights.{extension}', LAST[extension]
    dict(npz=change_npz, pt=change_pt)[extension](
        path, lambda weights: weights.update({name: weights[name].T}))
    message = refused(capsys, path, files / 'dst.pth')
    assert 'of another shape: ' in message and name in message
    assert '(1000, 32)' in message and '(32, 1000)' in message


def test_unknown_arch_and_missing_file(files, capsys):
    message = refused(capsys, files / 'weights.pt', files / 'dst.pth',
                      arch='xl')
    assert "arch 'xl' is unknown" in message
    message = refused(capsys, files / 'none.pt', files / 'dst.pth')
    assert 'does not exist' in message and 'prefix' in message


@pytest.mark.parametrize('source, name, word', [
    ('tf', 'weights.pt', 'archive of plain arrays'),
    ('torch', 'weights.npz', 'not a checkpoint')])
def test_source_that_it_is_not(source, name, word, files, capsys):
    message = refused(capsys, files / name, files / 'dst.pth', '--source',
                      source)
    assert word in message


def test_destination_is_checked(files, capsys):
    before = (files / 'weights.pt').read_bytes()
    with pytest.raises(SystemExit, match='is the source file'):
        convert(capsys, files / 'weights.pt', files / 'weights.pt')
    with pytest.raises(SystemExit, match='is a folder'):
        convert(capsys, files / 'weights.pt', files)
    assert (files / 'weights.pt').read_bytes() == before


class Evil:

    def __reduce__(self):
        return open, (Evil.path, 'w')


def test_code_in_a_file_is_not_run(files, capsys):
    Evil.path = str(files / 'evil')
    state = torch.load(files / 'full.pt')
    state['meters'] = Evil()
    torch.save(state, files / 'evil.pt', pickle_module=pickle)
    message = refused(capsys, files / 'evil.pt', files / 'dst.pth')
    assert 'could run code' in message and 'open' in message
    assert not (files / 'evil').exists()


def test_objects_in_an_archive_are_not_unpickled(files, capsys):
    Evil.path = str(files / 'evil')
    change_npz(files / 'weights.npz', lambda w: w.update(
        x=np.array([Evil()], dtype=object)))
    message = refused(capsys, files / 'weights.npz', files / 'dst.pth')
    assert 'allow_pickle=False' in message
    assert not (files / 'evil').exists()


def test_no_state_dict(files, capsys):
    torch.save([torch.ones(2)], files / 'list.pt')
    assert 'has a list' in refused(capsys, files / 'list.pt',
                                     files / 'dst.pth')


@pytest.mark.parametrize('release', ['tf', 'torch'])
def test_two_commands(release, files, capsys):
    """Convert, evaluate, on a folder as ImageNet's."""
    source = files / dict(tf='full.npz', torch='full.pt')[release]
    dst = files / 'weights.pth'
    convert(capsys, source, dst)
    rng = np.random.default_rng(0)
    val = files / 'imagenet/val'
    for i in range(1000):
        (val / f'n{i:08}').mkdir(parents=True)
    images = []
    for label in (3, 500, 999):
        img = rng.integers(0, 256, (50, 70, 3), np.uint8)
        cv2.imwrite(str(val / f'n{label:08}/x.png'), img)
        images.append((label, img[..., ::-1]))
    cfg = ROOT / f'configs/mmpretrain/autonl-s_3rdparty-{release}_in1k.py'
    assert Config.fromfile(cfg).model.backbone.arch == 's'
    run_tool('tools/test.py', cfg, dst, '--work-dir', files / 'work', '--out',
             files / 'pred.pkl', '--cfg-options',
             f'model.backbone.arch={files / "arch.txt"}',
             'model.backbone.out_indices=(-1,)', 'model.head.in_channels=32',
             f'test_dataloader.dataset.data_root={files / "imagenet"}',
             'test_dataloader.num_workers=0', 'test_dataloader.batch_size=2',
             'test_dataloader.persistent_workers=False')
    with open(files / 'pred.pkl', 'rb') as file:
        predictions = pickle.load(file)

    # the release's network on the release's crops
    weights = reference.Weights(known=known(release))
    crop = dict(tf=tf_reference, torch=torch_reference)[release]
    for (label, img), got in zip(images, predictions):
        logits = getattr(reference, f'{release}_release')(
            normalize(crop(img))[None], ROWS, weights, 32, 1000)[0]
        expected = np.exp(logits - logits.max())
        expected /= expected.sum()
        assert int(got['gt_label']) == label
        assert np.abs(got['pred_score'].numpy() - expected).max() < 1e-4 * \
            expected.max()
