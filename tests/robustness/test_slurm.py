# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Jobs of a real Slurm, of this machine alone, which slurm.sh starts.

Debian's packages slurm-wlm and munge, and root, are needed.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import ROOT, call_main, free_port, load_tool

from autonl_mm.experiments import cluster
from autonl_mm.experiments.cluster import Cluster

pytestmark = pytest.mark.slow
NEEDED = ('slurmctld', 'slurmd', 'munged', 'sbatch', 'squeue')


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    """Environment of commands of a running Slurm."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.getuid():
        pytest.skip('needs slurm-wlm, munge and root; missing: '
                    + (', '.join(missing) or 'root'))
    folder = tmp_path_factory.mktemp('slurm')
    # The path of a socket has at most 107 characters.
    link = f'/tmp/slurm-tests-{os.getpid()}'
    os.rename(folder, link)
    process = subprocess.Popen(
        ['bash', str(ROOT / 'tests/robustness/slurm.sh'), link], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, CTLD_PORT=free_port(), SLURMD_PORT=free_port()))
    try:
        assert process.stdout.readline() == 'ready\n'
        yield dict(
            SLURM_CONF=f'{link}/slurm.conf', PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1',
            PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']]))
    finally:
        process.stdin.close()
        process.wait(60)
        shutil.rmtree(link)


@pytest.fixture
def on_slurm(slurm, monkeypatch, tmp_path):
    """This process talks to Slurm, and looks often."""
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, 'ASK', 2)
    monkeypatch.setattr(cluster, 'ARRIVAL', 5)
    monkeypatch.chdir(tmp_path)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def queue():
    return subprocess.run(['squeue', '-h', '-o', '%i'], capture_output=True, text=True,
                          check=True).stdout.split()


SCRIPT = """
    import os, signal, sys, time
    print(*sys.argv[1:], os.environ['SLURM_JOB_ID'], flush=True)
    with open('runs', 'a') as file:
        print(os.environ['SLURM_JOB_ID'], *sys.argv[1:], file=file)
    if 'fails' in sys.argv:
        sys.exit(3)
    while not os.path.exists('go on') and '--resume' not in sys.argv:
        time.sleep(0.1)
"""


@pytest.fixture
def script(tmp_path, on_slurm):
    path = tmp_path / 'script.py'
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_train_in_two_ranks(slurm, tiny_search, tmp_path):
    """tools/slurm_train.sh, on GPUs that Slurm counts but nobody has."""
    result = subprocess.run(
        ['bash', str(ROOT / 'tools/slurm_train.sh'), 'tests', 'search',
         str(tiny_search), str(tmp_path), '--cfg-options', 'train_cfg.max_epochs=2',
         'param_scheduler.1.end=2'],
        env=dict(os.environ, **slurm, GPUS='2', GPUS_PER_NODE='2', CPUS_PER_TASK='1',
                 MASTER_PORT=free_port(), MASTER_ADDR='127.0.0.1'),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-4000:]
    # each rank saw half of the 24 images, four at a time
    assert 'Epoch(train) [2][3/3]' in result.stdout
    assert (tmp_path / 'arch.txt').exists() and (tmp_path / 'epoch_2.pth').exists()


def test_a_command(script, tmp_path):
    (tmp_path / 'go on').touch()
    where = Cluster('slurm', dict(slurm_partition='tests'))
    assert where.run([script, 'a'], tmp_path / 'out/train.log') < 60
    assert (tmp_path / 'out/train.log').read_text().startswith('a ')
    assert not (tmp_path / 'out/train.job.json').exists()
    with pytest.raises(RuntimeError, match=r'failed, see .*train\.log'):
        where.run([script, 'fails'], tmp_path / 'out/train.log')


@pytest.mark.parametrize('how', ['cancelled', 'killed'])
def test_a_job_that_is_ended_is_submitted_again(how, script, tmp_path):
    log, runs = tmp_path / 'train.log', tmp_path / 'runs'
    pid = os.fork()
    if pid == 0:  # ends the first job
        wait_for(runs.exists)
        job = runs.read_text().split()[0]
        options = ['--signal=KILL'] if how == 'killed' else []
        subprocess.run(['scancel', *options, job])
        os._exit(0)
    Cluster('slurm').run([script, 'x'], log, again=['--resume'])
    os.waitpid(pid, 0)
    first, second = runs.read_text().splitlines()
    assert first.endswith(' x') and second.endswith(' x --resume')
    assert not queue()


WAITS = """
    import sys
    from pathlib import Path
    from autonl_mm.experiments.cluster import Cluster
    Cluster('slurm').run([sys.argv[1], 'x'], Path(sys.argv[2]))
"""


def test_a_tool_that_is_killed_finds_its_job_again(script, tmp_path):
    log, runs = tmp_path / 'train.log', tmp_path / 'runs'
    waits = tmp_path / 'waits.py'
    waits.write_text(textwrap.dedent(WAITS))
    tool = subprocess.Popen([sys.executable, waits, script, log])
    wait_for(runs.exists)
    tool.send_signal(signal.SIGKILL)
    tool.wait()
    assert len(queue()) == 1
    tool = subprocess.Popen([sys.executable, waits, script, log])
    time.sleep(15)
    assert tool.poll() is None and len(queue()) == 1
    (tmp_path / 'go on').touch()
    assert tool.wait(120) == 0
    assert len(runs.read_text().splitlines()) == 1


def test_a_comparison(tiny_search, searched, tmp_path, on_slurm, monkeypatch, capsys,
                      scope):
    """compare_random.py with all trainings as jobs, three at a time."""
    tool = load_tool('tools/benchmarks/compare_random.py')
    arguments = [
        tiny_search, '--work-dir', tmp_path / 'runs', '--num-random', '2', '--seeds',
        '1', '--tolerance', '0.5', '--arch', searched[0] / 'arch.txt', '--jobs', '3',
        '--cluster', 'slurm', '--cluster-options', 'slurm_partition=tests',
        'cpus_per_task=1', '--cfg-options',
        'train_cfg.max_epochs=1', 'param_scheduler.total_steps=1',
        'train_cfg.val_interval=1']
    call_main(monkeypatch, tool, *arguments)
    assert 'training runs' in capsys.readouterr().out
    results = [json.loads(p.read_text())
               for p in (tmp_path / 'runs').glob('*-seed0/result.json')]
    assert len(results) >= 4 and all(r['seconds'] > 0 for r in results)
    assert not queue()
