# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""tools/dist_train.sh on two machines of two ranks each, which talk over gloo.

The machines are network namespaces with an address each. Making them needs root and
``ip`` (Debian: iproute2).
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_ranks
from mmengine.config import Config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which('ip'),
        reason='network namespaces need root and the command ip')
]
TIMEOUT = 20  # seconds that ranks wait for each other
# Saves the gates of every rank, so that they can be compared
MODULE = """\
import os
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveGates(Hook):
    def after_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        state = model.supernet.gate_state.state_dict()
        name = f'rank{os.environ["RANK"]}.pth'
        torch.save(state, os.path.join(runner.work_dir, name))
"""


class Machines:
    """Two network namespaces, joined by a cable.

    Args:
        folder (Path): For the processes' output.
    """
    ADDRESSES = ('10.213.7.1', '10.213.7.2')

    def __init__(self, folder):
        self.folder = folder
        self.names = [f'autonl{i}-{os.getpid()}' for i in range(2)]
        self.processes = []

    def __enter__(self):
        for name in self.names:
            ip('netns', 'add', name)
        ip('link', 'add', 'cable0', 'netns', self.names[0], 'type', 'veth',
           'peer', 'name', 'cable1', 'netns', self.names[1])
        for i, (name, address) in enumerate(zip(self.names, self.ADDRESSES)):
            ip('-n', name, 'address', 'add', f'{address}/24', 'dev', f'cable{i}')
            for device in ('lo', f'cable{i}'):
                ip('-n', name, 'link', 'set', device, 'up')
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for name in self.names:
            ip('netns', 'del', name)

    def start(self, config, *options):
        """Start the same training on both."""
        for i, name in enumerate(self.names):
            env = dict(
                os.environ, NNODES='2', NODE_RANK=str(i), PORT='29507',
                MASTER_ADDR=self.ADDRESSES[0], GLOO_SOCKET_IFNAME=f'cable{i}',
                OMP_NUM_THREADS='1',
                PATH=os.pathsep.join([str(Path(sys.executable).parent),
                                      os.environ['PATH']]),
                PYTHONPATH=str(Path(config).parent))
            with open(self.log(i), 'w') as log:
                self.processes.append(subprocess.Popen(
                    ['ip', 'netns', 'exec', name, 'bash', 'tools/dist_train.sh',
                     str(config), '2', '--dist-timeout', str(TIMEOUT), *options],
                    cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True))

    def log(self, i):
        """The output of one machine."""
        return self.folder / f'machine{i}.log'

    def wait(self, seconds):
        """Exit codes of both."""
        end = time.monotonic() + seconds
        return [p.wait(max(1, end - time.monotonic())) for p in self.processes]

    def cut(self):
        """Pull the cable."""
        ip('-n', self.names[1], 'link', 'set', 'cable1', 'down')


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True)


@pytest.fixture
def config(tiny_search, tmp_path):
    """A search of 300 iterations, of 4 images for each of four ranks."""
    cfg = Config.fromfile(tiny_search)
    cfg.train_cfg = dict(by_epoch=False, max_iters=300, val_interval=150)
    cfg.train_dataloader.update(
        batch_size=4, num_workers=0, persistent_workers=False,
        sampler=dict(type='InfiniteSampler', shuffle=True))
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=20, max_keep_ckpts=2)
    cfg.log_processor = dict(by_epoch=False)
    cfg.custom_hooks = cfg.custom_hooks[:1]
    cfg.dump(tmp_path / 'one_machine.py')
    (tmp_path / 'save_gates.py').write_text(MODULE)
    cfg.custom_imports.imports.append('save_gates')
    cfg.custom_hooks.append(dict(type='SaveGates'))
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def test_all_ranks_hold_the_same_gates(config, tmp_path):
    with Machines(tmp_path) as machines:
        machines.start(config, '--work-dir', str(tmp_path / 'run'))
        codes = machines.wait(600)
    output = machines.log(0).read_text()
    assert codes == [0, 0], output[-3000:]
    assert 'trying 12 subnets' in output
    one, *others = (torch.load(tmp_path / f'run/rank{i}.pth') for i in range(4))
    for other in others:
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
    assert one['threshold'].any() and one['importance_sum'].any()


def test_a_machine_that_is_cut_off(config, tmp_path):
    work_dir = tmp_path / 'run'
    with Machines(tmp_path) as machines:
        machines.start(config, '--work-dir', str(work_dir))
        end = time.monotonic() + 300
        while not (work_dir / 'iter_60.pth').exists():
            assert time.monotonic() < end, machines.log(0).read_text()[-3000:]
            time.sleep(0.1)
        machines.cut()
        start = time.monotonic()
        codes = machines.wait(300)
        seconds = time.monotonic() - start
    output = machines.log(0).read_text()
    assert all(codes) and seconds < 3 * TIMEOUT, output[-3000:]
    line, = {line for line in output.splitlines()
             if line.startswith('train.py: rank 0 ends')}
    assert '--resume continues' in line
    last = max(int(n) for n in re.findall(r'iter_(\d+)\.pth', ' '.join(
        p.name for p in work_dir.iterdir())))
    assert 60 <= last < 300

    # on one machine, with as many images in a step
    resumed, *_ = run_ranks(
        2, 'tools/train.py', tmp_path / 'one_machine.py', '--launcher', 'pytorch',
        '--work-dir', work_dir, '--resume', '--cfg-options',
        'train_dataloader.batch_size=8')
    assert (work_dir / 'iter_300.pth').exists(), resumed.stdout[-3000:]
