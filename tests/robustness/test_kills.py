# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Processes that are killed at random moments lose nothing.

The kills are SIGKILL, which no process can prepare for. A failure prints the seed with
which it can be repeated.
"""
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.config import Config

from autonl_mm import ArchSpec
from autonl_mm.deploy import load
from autonl_mm.runs.checkpoints import find_resumable, load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
# Of all tests of this file together
KILLS = int(os.environ.get('ROBUSTNESS_KILLS', 200))


def run_killed(seconds, script, *arguments, env=None):
    """Run a tool and kill it after some seconds.

    Returns:
        bool: Whether it ended before.

    Raises:
        AssertionError: If it failed.
    """
    try:
        result = run_tool(script, *arguments, check=False, timeout=seconds, env=env)
    except subprocess.TimeoutExpired:
        return False
    assert result.returncode == 0, result.stdout[-4000:]
    return True


def progress(work_dir):
    """Iterations in the newest checkpoint, after what is there was read."""
    for path in work_dir.glob('gates/*.json'):
        json.loads(path.read_text())
    if (work_dir / 'arch.txt').exists():
        ArchSpec.from_file(work_dir / 'arch.txt')
    newest = find_resumable(work_dir)
    return load_checkpoint(newest)['meta']['iter'] if newest else 0


def state(path):
    checkpoint = load_checkpoint(path)
    return checkpoint['state_dict'], {
        f'{i} {name}': value for i, values in checkpoint['optimizer']['state'].items()
        for name, value in values.items()}


@pytest.fixture(params=['search', 'iterations', 'epochs'])
def training(request, tiny_search, tmp_path):
    """A config, its last checkpoint, and whether it is promised to be bit-equal."""
    cfg = Config.fromfile(tiny_search)
    if request.param == 'epochs':
        cfg = Config.fromfile(cfg.retrain_base)
        cfg.model.backbone.update(arch=[
            'r1_k3_s11_e1_i16_o16', 'r1_k3_s22_e3_i16_o24_nonlocal0.25-1', 'head32'])
        cfg.train_cfg.max_epochs = cfg.param_scheduler.total_steps = 6
    if request.param == 'iterations':
        cfg.train_cfg = dict(by_epoch=False, max_iters=36, val_interval=12)
        cfg.custom_hooks = cfg.custom_hooks[:1]
        cfg.train_dataloader.sampler.type = 'InfiniteSampler'
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=6)
        cfg.log_processor = dict(by_epoch=False)
    cfg.dump(tmp_path / 'config.py')
    last = 'iter_36.pth' if request.param == 'iterations' else 'epoch_6.pth'
    return tmp_path / 'config.py', last, request.param != 'epochs'


def test_runs(training, rng, tmp_path, record_property):
    """A search, a search that counts iterations, and a training."""
    config, last, exact = training
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    run_tool('tools/train.py', config, '--work-dir', whole)
    kills = done = ended = 0
    arguments = 'tools/train.py', config, '--work-dir', run, '--resume'
    while kills < KILLS // 5:
        # from the start of the process to its end
        if run_killed(rng.uniform(0.5, 9), *arguments):
            ended += 1
            if exact:
                for one, two in zip(state(whole / last), state(run / last)):
                    assert one.keys() == two.keys()
                    assert all(torch.equal(one[k], two[k]) for k in one)
            names = {p.name for p in run.iterdir() if p.is_file()}
            assert names <= {p.name for p in whole.iterdir()}, 'something was left'
            for path in run.glob('*.pth'):
                path.unlink()
            (run / 'last_checkpoint').unlink()
            done = 0
            continue
        kills += 1
        now = progress(run) if run.exists() else 0
        assert now >= done, f'{done} iterations were done, now {now}'
        done = now
    equal = ', bit-equal' if exact else ''
    record_property(
        'figure', f'{kills} kills, nothing lost; {ended} runs came to their end{equal}')


SAVE = """\
import sys, torch
from autonl_mm import checkpoint
checkpoint.install()
from mmengine.runner.checkpoint import save_checkpoint
number = 0
while True:
    number += 1
    save_checkpoint(dict(number=number, weight=torch.full((1000, 1000), number)),
                    sys.argv[1])
    print(number, flush=True)
"""


def test_saving(rng, tmp_path):
    """The file is whole at any moment, and not older than what was reported."""
    (tmp_path / 'save.py').write_text(SAVE)
    for _ in range(KILLS // 10):
        path = tmp_path / 'checkpoint.pth'
        path.unlink(missing_ok=True)
        with open(tmp_path / 'log', 'w') as log:
            process = subprocess.Popen([sys.executable, 'save.py', str(path)],
                                       cwd=tmp_path, stdout=log, env=dict(
                                           os.environ, PYTHONPATH=str(ROOT)))
            try:
                process.wait(rng.uniform(8, 12))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        lines = (tmp_path / 'log').read_text().splitlines()
        reported = [int(line) for line in lines if line.isdigit()]
        if path.exists():
            saved = load_checkpoint(str(path))
            assert (saved['weight'] == saved['number']).all()
            last = reported[-1] if reported else 0
            assert saved['number'] in (last, last + 1)
        else:
            assert not reported


def test_exporting(rng, tiny_search, searched, tmp_path, record_property):
    """The ONNX file is whole or not there."""
    cfg = Config.fromfile(Config.fromfile(tiny_search).retrain_base)
    cfg.model.backbone.arch = str(searched[0] / 'arch.txt')
    cfg.train_cfg.max_epochs = cfg.param_scheduler.total_steps = 1
    cfg.dump(tmp_path / 'config.py')
    run_tool('tools/train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'run')
    out = tmp_path / 'network.onnx'
    arguments = ('tools/deployment/export.py', tmp_path / 'config.py',
                 tmp_path / 'run/epoch_1.pth', '--out', out, '--input-shape', '32')
    start = time.time()
    run_tool(*arguments)
    seconds = time.time() - start
    ended = 0
    for _ in range(KILLS // 5):
        out.unlink(missing_ok=True)
        ended += run_killed(rng.uniform(0, seconds), *arguments)
        if out.exists():
            load(out)
    record_property(
        'figure', f'{KILLS // 5} kills, of which {ended} came after the end')


def test_compiling(rng, tmp_path):
    """Operators whose compilation was killed are compiled by the next process."""
    env = dict(os.environ, XDG_CACHE_HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    command = [sys.executable, '-m', 'autonl_mm.ops']
    for _ in range(KILLS // 10):
        process = subprocess.Popen(command, env=env)
        try:
            process.wait(rng.uniform(3, 25))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run(command, env=env, check=True, timeout=600)
    left = [p.name for p in Path(tmp_path).rglob('*') if p.is_file()]
    assert sum(name.endswith('.so') for name in left) == 1, left
    assert not any(re.search(r'\.(o|tmp|part)\b', name) for name in left), left
