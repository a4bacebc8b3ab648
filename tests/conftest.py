# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import contextlib
import functools
import gc
import importlib.util
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from scripts import run_script, server, spare_mmengine
from search_spaces import TINY_SPACE

from autonl_mm.experiments.cluster import Cluster

ROOT = Path(__file__).resolve().parents[1]
# Tests need no GPU, and one would change them: a fork of a process that has asked for
# one cannot use it, two ranks cannot share it, and its kernels are not deterministic.
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
# The maintained forks' mmengine looks for mmseg's configs in a distribution
# that is called otherwise there.
FORKS = any(d.name == 'onedl-mmengine' for d in distributions())

# What is imported stays, see below.
gc.disable()
# Two threads that wait for each other are slower than one on busy cores.
torch.set_num_threads(1)
spare_mmengine()
# Before any process is started: what the server imports cannot change then.
server()
settings.register_profile('tests', max_examples=20, deadline=None)
settings.load_profile('tests')


def pytest_collection_finish():
    """What is imported by now stays: no collection of garbage looks through it."""
    gc.freeze()
    gc.enable()


# 4 blocks, 64 head channels: every part of AutoNL, a hundredth of its size
TINY_ARCH = """\
r1_k3_s11_e1_i8_o8
r1_k3_s22_e3_i8_o16_nonlocal0.25-1
r1_k5_s22_e3_i16_o24_se0.5_nonlocal0.25-2
r1_k3_s11_e3_i24_o24
head64
"""


def pytest_terminal_summary(terminalreporter):
    """Print what tests recorded as a figure, such as the seed they had."""
    # those of the teardown, which has all; '' is their category
    lines = [f'{report.nodeid}: {value}'
             for report in terminalreporter.getreports('') if report.when == 'teardown'
             for name, value in report.user_properties if name == 'figure']
    if lines:
        terminalreporter.section('figures')
        terminalreporter.line('\n'.join(lines))


def is_running(pid):
    """Whether a process has not ended; also if nothing asks for its status any more."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')')[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):  # it ended before or while reading
        return False


@pytest.fixture
def rng(request, record_property):
    """Random numbers of the test's own; ``ROBUSTNESS_SEED`` repeats them."""
    seed = os.environ.get('ROBUSTNESS_SEED') or random.randrange(10**6)
    print(f'ROBUSTNESS_SEED={seed}')  # for a test that fails
    record_property('figure', f'ROBUSTNESS_SEED={seed}')
    return random.Random(f'{seed} {request.node.name}')


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    """One thread a process: tests start processes of their own."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


@pytest.fixture
def scope():
    """Restore the default scope that a config's test sets."""
    before = DefaultScope.get_current_instance()
    yield
    if before is not None:
        init_default_scope(before.scope_name)


@pytest.fixture
def tiny_arch(tmp_path):
    """Path of a notation file with a tiny network."""
    path = tmp_path / 'tiny_arch.txt'
    path.write_text(TINY_ARCH)
    return path


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
    """Folder train/{a,b}, val/{a,b} of 32x32 images, a dark and b bright."""
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for part, count in dict(train=16, val=8).items():
        for name, level in dict(a=60, b=180).items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(level, 30, (32, 32, 3)).clip(0, 255)
                cv2.imwrite(str(folder / f'{i}.jpg'), noise.astype(np.uint8))
    return root


@pytest.fixture(scope='session')
def tiny_search(image_folder, tmp_path_factory):
    """Config of a search of 6 epochs, of seconds, on a tiny space.

    Its ``retrain_base`` lies beside it.
    """
    folder = tmp_path_factory.mktemp('tiny_search')
    configs = ROOT / 'configs/mmpretrain'
    search = Config.fromfile(configs / 'autonl-supernet_1xb32_cifar10.py')
    search.model.target = 500e3
    search.param_scheduler[1].end = 6
    search.train_cfg.max_epochs = 6
    search.custom_hooks[0].update(candidates=12, num_samples=16)
    search.model.model.backbone.update(space=TINY_SPACE, num_classes=2)
    retrain = Config.fromfile(search.retrain_base)
    search.retrain_base = str(folder / 'retrain.py')
    for cfg, model in ((search, search.model.model), (retrain, retrain.model)):
        model.head.update(in_channels=32, num_classes=2)
        cfg.data_preprocessor.num_classes = 2
        cfg.default_hooks.logger.interval = 1
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.batch_size = 4
            loader.dataset.update(data_root=str(image_folder), holdout=8)
    search.dump(folder / 'search.py')
    retrain.dump(search.retrain_base)
    return folder / 'search.py'


def tiny_training(data_root, batch_size, max_epochs):
    """Config that trains a tiny classifier of two classes on a folder of images."""
    cfg = Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py')
    cfg.model.backbone.update(arch=TINY_ARCH.splitlines(), out_indices=(-1, ))
    cfg.model.head.update(in_channels=64, num_classes=2)
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data_root)
    cfg.train_dataloader.dataset.pipeline[1].crop_size = 32
    cfg.train_cfg.max_epochs = cfg.param_scheduler.total_steps = max_epochs
    return cfg


def tiny_cifar(image_folder):
    """The CIFAR-10 config with a tiny network, for a folder of two classes."""
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/autonl-s_2xb128_cifar10.py')
    cfg.model.backbone.update(arch=TINY_ARCH.splitlines(), out_indices=(4, ))
    cfg.model.head.update(in_channels=64, num_classes=2)
    cfg.data_preprocessor.num_classes = 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(image_folder), holdout=8)
    return cfg


@pytest.fixture(scope='session')
def searched(tiny_search, tmp_path_factory):
    """Work dir and output of a search of 6 epochs.

    The processes of one run of the tests share it.
    """
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    work_dir, output = folder / 'searched', folder / 'searched.txt'
    with FileLock(f'{work_dir}.lock'):
        if not output.exists():
            result = run_tool('tools/train.py', tiny_search, '--work-dir', work_dir,
                              '--cfg-options',
                              'default_hooks.checkpoint.max_keep_ckpts=6',
                              env=dict(OMP_NUM_THREADS='1'))
            output.write_text(result.stdout)
    return work_dir, output.read_text()


def free_port():
    """A port for two processes to meet at."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def run_tool(*args, check=True, cwd=ROOT, env=None, timeout=300, fresh=False):
    """Run a tool of the project in its own process, a fork of one that has imported
    the libraries.

    Args:
        *args: Script (from the project's root) and its arguments.
        check (bool): Whether a failure fails the test.
        cwd (Path): Working folder.
        env (dict, optional): More environment variables.
        timeout (int): Seconds.
        fresh (bool): Whether in a fresh interpreter, for tests of what can be
            imported.

    Returns:
        CompletedProcess: With ``stdout``, which has stderr in it.
    """
    script, *rest = [str(a) for a in args]
    script = str(ROOT / script)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    env = {**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), **(env or {})}
    if script.endswith('.sh') or fresh:
        python = [] if script.endswith('.sh') else [sys.executable]
        result = subprocess.run(
            [*python, script, *rest],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout)
    else:
        result = run_script(script, rest, cwd, env, timeout)
    if check:
        assert result.returncode == 0, result.stdout[-4000:]
    return result


def run_ranks(num_ranks, *args):
    """Run a script as the ranks of one distributed run, as torchrun starts them.

    Args:
        num_ranks (int): Number of ranks.
        *args: As for :func:`run_tool`; a tool needs ``--launcher pytorch``.

    Returns:
        list[CompletedProcess]: One for each rank.
    """
    env = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(),
               WORLD_SIZE=str(num_ranks))
    with ThreadPoolExecutor(num_ranks) as pool:
        ranks = [
            pool.submit(run_tool, *args, check=False,
                        env=dict(env, RANK=str(i), LOCAL_RANK=str(i)))
            for i in range(num_ranks)
        ]
        results = [rank.result() for rank in ranks]
    for result in results:
        assert result.returncode == 0, result.stdout[-4000:]
    return results


@pytest.fixture
def forked_trials(monkeypatch):
    """Let a comparison's trainings run as :func:`run_tool` runs tools.

    That they run as jobs of submitit is tested in test_cluster.py.
    """

    def run(self, command, log, threads=None, again=(), begun=False):
        script, *arguments = map(str, command)
        start = time.time()
        result = run_script(script, arguments, os.getcwd(),
                            dict(os.environ, PYTHONPATH=str(ROOT)), 300)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(result.stdout)
        if result.returncode:
            raise RuntimeError(f'{script} failed, see {log}')
        return time.time() - start

    monkeypatch.setattr(Cluster, 'run', run)


@functools.cache
def load_tool(path):
    """Import a tool; the same module for the same path.

    Args:
        path (str): From the project's root, such as ``tools/train.py``.

    Returns:
        module: Named as the file, without its extension.
    """
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_main(monkeypatch, tool, *args):
    """Run a loaded tool's main function in this process."""
    monkeypatch.setattr(sys, 'argv', [tool.__name__, *map(str, args)])
    tool.main()


@contextlib.contextmanager
def known_to_forks(tool):
    """Let the server's forks find what a loaded tool sends them by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, tool.__name__, tool)
        patch.syspath_prepend(str(Path(tool.__file__).parent))
        server()  # before the tool asks for its processes
        yield patch


def main_error(monkeypatch, tool, *args):
    """The message that a loaded tool ends with; it starts with its name."""
    with pytest.raises(SystemExit) as error:
        call_main(monkeypatch, tool, *args)
    # a string is printed, and the status is 1
    assert error.value.code.startswith(f'{tool.__name__}.py: ')
    return error.value.code


def write_snippet(path, text):
    """Write a README's config where it can be read.

    Args:
        path (Path): The file.
        text (str): The config.
    """
    path.write_text(text)
    if FORKS and 'mmseg::' in text:
        with pytest.raises(ModuleNotFoundError, match='mmsegmentation'):
            Config.fromfile(path)
        import mmseg
        base = Path(mmseg.__file__).parent / '.mim/configs'
        path.write_text(text.replace('mmseg::', f'{base}/'))


def without_downloads(cfg):
    """Let the backbone of a config start without the weights that would be fetched."""
    backbone = cfg.model.backbone
    if (backbone.get('init_cfg') or {}).get('type') == 'Pretrained':  # ResNet-50
        backbone.init_cfg = None
    if (backbone.get('backbone') or {}).get('pretrained'):  # timm, when it is built
        backbone.backbone.pretrained = False


def check_swap(path):
    """A config whose backbone was swapped builds and runs.

    Args:
        path (Path): The config.
    """
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    assert type(model.backbone).__name__ == 'AutoNL'
    with torch.no_grad():
        feats = model.extract_feat(torch.zeros(1, 3, 64, 64))
    assert all(torch.isfinite(f).all() for f in feats)
