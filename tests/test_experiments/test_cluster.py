# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Jobs of this machine; tests/robustness/test_slurm.py has those of Slurm."""
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import cloudpickle
import pytest
from conftest import is_running

from autonl_mm.experiments import cluster
from autonl_mm.experiments.cluster import Cluster

SCRIPT = """
    import os, sys, time
    print(*sys.argv[1:], os.environ['OMP_NUM_THREADS'],
          os.environ.get('CUDA_VISIBLE_DEVICES', 'unset'), flush=True)
    print('to stderr', file=sys.stderr)
    with open('pids', 'a') as file:
        print(os.getpid(), os.getppid(), file=file)
    if sys.argv[1] == 'lost' and '--resume' not in sys.argv:
        time.sleep(60)
    if sys.argv[1] == 'fails':
        sys.exit(3)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = tmp_path / 'script.py'
    path.write_text(textwrap.dedent(SCRIPT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    return path


def test_output_status_and_seconds(script, tmp_path, monkeypatch):
    log = tmp_path / 'out/train.log'
    seconds = Cluster().run([script, 'a b', 'c'], log, 3)
    assert 0 < seconds < 30
    assert sorted(log.read_text().splitlines()) == ['a b c 3 unset', 'to stderr']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2')
    Cluster().run([script, 'x'], log, 1)
    assert 'x 1 2' in log.read_text() and 'a b' not in log.read_text()
    with pytest.raises(RuntimeError, match=r'script.py failed, see .*train\.log'):
        Cluster().run([script, 'fails'], log, 1)


@pytest.mark.parametrize('note, words', [
    ('{', 'is not JSON'), ('[1]', r'it is \[1\], expected a dict'),
    ('{}', 'job_id is missing'), ('{"job_id": 7}', 'job_id is 7, expected text')])
def test_a_broken_note_of_a_job(note, words, script, tmp_path):
    where = Cluster()
    where.kind = 'slurm'  # which is asked only for jobs that a note names
    (tmp_path / 'train.job.json').write_text(note)
    with pytest.raises(ValueError, match=rf'^\S*train\.job\.json .*{words}'):
        where.run([script], tmp_path / 'train.log')


def wait_for(path, lines):
    end = time.monotonic() + 60
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < end
        time.sleep(0.1)
    return [line.split() for line in path.read_text().splitlines()]


def kill(pid):
    try:
        os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_a_job_that_is_lost_is_submitted_again(script, tmp_path):
    """Its processes are killed, as by a machine that goes down."""
    log = tmp_path / 'train.log'

    def end():
        (process, job), = wait_for(tmp_path / 'pids', 1)
        # the controller, its job, the command
        controller = subprocess.run(['ps', '-o', 'ppid=', '-p', job],
                                    capture_output=True, text=True).stdout
        for pid in (controller, job, process):
            kill(pid)

    thread = threading.Thread(target=end)
    thread.start()
    Cluster().run([script, 'lost'], log, 1, again=['--resume'])
    thread.join()
    text = log.read_text()
    assert text.index('lost 1') < text.index('lost --resume 1')  # appended


@pytest.mark.parametrize('handler', [signal.default_int_handler, signal.SIG_IGN],
                         ids=['foreground', 'background'])
def test_an_interruption_ends_the_jobs(handler, script, tmp_path):
    """SIGINT is ignored in what a script runs in the background."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        interrupt(script, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.long
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_jobs_end_with_the_tool(number, script, tmp_path):
    code = ('from pathlib import Path; '
            'from autonl_mm.experiments.cluster import Cluster; '
            f'Cluster().run([{str(script)!r}, "lost"], Path("train.log"), 1)')
    tool = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path)
    (process, _), = wait_for(tmp_path / 'pids', 1)
    tool.send_signal(number)
    tool.wait()
    end_of(process)


def interrupt(script, tmp_path):
    where, errors = Cluster(), []

    def run():
        try:
            where.run([script, 'lost'], tmp_path / 'train.log', 1)
        except RuntimeError as e:
            errors.append(str(e))

    thread = threading.Thread(target=run)
    thread.start()
    (process, _), = wait_for(tmp_path / 'pids', 1)
    where.cancel()
    thread.join(30)
    assert 'does not wait for job' in errors[0]
    end_of(process)


def end_of(process):
    end = time.monotonic() + 30
    while is_running(process) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_running(process)


def test_what_a_job_imports(script, tmp_path):
    """Its function comes by its code: neither this package nor torch is needed."""
    job = cluster.command_job([sys.executable, '-c', 'pass'], 'log', {}, 'w')
    pickled = tmp_path / 'job.pkl'
    pickled.write_bytes(cloudpickle.dumps(job))
    code = ('import pickle, sys; job = pickle.load(open("job.pkl", "rb")); '
            'assert job()[0] == 0; assert "torch" not in sys.modules; '
            'assert "autonl_mm" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)


@pytest.mark.parametrize('job_id, known', [
    ('12', True), ('../x', False), ('12/../../x', False), ('', False)])
def test_the_job_of_a_note(job_id, known, tmp_path):
    """Its result is unpickled: no note leads to a file elsewhere."""
    where = Cluster()
    where.kind = 'slurm'  # which this machine need not have
    for name in ('jobs/12/12', 'jobs/12', 'x', 'jobs/', 'jobs/None'):
        path = tmp_path / f'{name}_0_result.pkl'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    note = tmp_path / 'train.job.json'
    note.write_text(json.dumps(dict(job_id=job_id)))
    job = where._known(note, tmp_path)
    assert (job is not None) == known
    assert not known or job.job_id == '12'


def test_bad_options(monkeypatch):
    with pytest.raises(ValueError, match=r'--cluster-options: .*gpu_count'):
        Cluster('local', dict(gpu_count=3))
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(RuntimeError, match='--cluster slurm: '):
        Cluster('slurm')
