# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Ranks that stand still, and ranks whose launcher is gone."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, free_port
from mmengine.config import Config

pytestmark = pytest.mark.slow
TIMEOUT = 15  # seconds that ranks wait for each other


@pytest.fixture
def config(tiny_search, tmp_path):
    """A training that takes minutes."""
    cfg = Config.fromfile(tiny_search)
    cfg.train_cfg.max_epochs = cfg.param_scheduler[1].end = 1000
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def start(command, log, **env):
    with open(log, 'w') as file:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT),
                     PATH=os.pathsep.join([os.path.dirname(sys.executable),
                                           os.environ['PATH']]), **env))


def wait_for(condition, seconds, *logs):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, ''.join(log.read_text()[-3000:] for log in logs)
        time.sleep(0.1)


def test_a_rank_that_stands_still(config, tmp_path):
    """The other ends with a message after the time that was set."""
    work_dir, port = tmp_path / 'run', free_port()
    logs = [tmp_path / f'rank{i}.log' for i in range(2)]
    ranks = [
        start([sys.executable, 'tools/train.py', config, '--work-dir', work_dir,
               '--launcher', 'pytorch', '--dist-timeout', str(TIMEOUT)], logs[i],
              RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE='2', MASTER_PORT=port,
              MASTER_ADDR='127.0.0.1') for i in range(2)]
    try:
        wait_for((work_dir / 'epoch_2.pth').exists, 180, *logs)
        ranks[1].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        code = ranks[0].wait(10 * TIMEOUT)
        seconds = time.monotonic() - stopped
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    line = logs[0].read_text().strip().splitlines()[-1]
    assert code == 1 and line.startswith('train.py: rank 0 ends'), line
    assert '--dist-timeout' in line and seconds < 2 * TIMEOUT + 10


def test_ranks_whose_launcher_is_gone(config, tmp_path):
    """They end, whatever kills the launcher."""
    log = tmp_path / 'log'
    launcher = start(
        ['bash', 'tools/dist_train.sh', config, '2', '--work-dir', tmp_path / 'run'],
        log, PORT=free_port())

    def ranks():
        out = subprocess.run(['pgrep', '-f', f'train.py {config} --launcher'],
                             capture_output=True, text=True).stdout
        return [int(pid) for pid in re.findall(r'\d+', out) if int(pid) != launcher.pid]

    try:
        wait_for((tmp_path / 'run/epoch_1.pth').exists, 180, log)
        assert len(ranks()) >= 2
        launcher.kill()
        launcher.wait()
        wait_for(lambda: not ranks(), 60, log)
    finally:
        launcher.kill()
        for pid in ranks():
            os.kill(pid, signal.SIGKILL)
