# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Commands as jobs of submitit: processes of this machine, or jobs of Slurm."""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import submitit
from mmengine.config import DictAction
from mmengine.logging import print_log
from submitit.core.utils import UncompletedJobError

from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.text_files import check_json, read_json

CLUSTERS = ('local', 'slurm')
# Minutes after which a job ends, by default
LIMITS = dict(local=30 * 24 * 60, slurm=24 * 60)
# Seconds between looks at a job, and between questions to Slurm
POLL, ASK = 1, 30
# Seconds in which the file of a finished job reaches this machine
ARRIVAL = 60
# Submissions of a job that its machine or its time limit ends
ATTEMPTS = 4
# Statuses of a command that a signal ended
ENDED = (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the options for the number of parallel training runs and for their place.

    Args:
        parser (ArgumentParser): The tool's parser.
    """
    parser.add_argument(
        '--jobs',
        type=int,
        default=2,
        help='number of training runs at the same time; runs on this machine share '
        'its cores')
    parser.add_argument(
        '--cluster',
        choices=CLUSTERS,
        default='local',
        help='run trainings as processes of this machine (local) or as jobs of Slurm')
    parser.add_argument(
        '--cluster-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='parameters of a job, named as in submitit, such as '
        'slurm_partition=gpu timeout_min=600 gpus_per_node=1 cpus_per_task=8')


class Cluster:
    """Runs commands as jobs, and waits for them.

    Args:
        kind (str): ``'local'`` or ``'slurm'``.
        options (dict): Parameters of submitit's executor.

    Raises:
        ValueError: If submitit does not know an option.
        RuntimeError: If there is no Slurm.
    """

    def __init__(self, kind: str = 'local', options: Optional[dict] = None):
        self.kind = kind
        self.options = {'timeout_min': LIMITS[kind], **(options or {})}
        self.running: Dict[int, submitit.Job] = {}
        self.lock = threading.Lock()
        self.over = threading.Event()
        self._executor(Path('.'), 1)  # raises now, not after the first training

    def _executor(self, folder: Path, threads: Optional[int]) -> submitit.AutoExecutor:
        try:
            executor = submitit.AutoExecutor(
                str(folder.resolve() / 'jobs'), cluster=self.kind)
        except RuntimeError as e:
            raise RuntimeError(f'--cluster {self.kind}: {e}') from None
        if self.kind == 'slurm':
            executor.update_parameters(name='autonl_mm', cpus_per_task=threads or 1)
        try:
            executor.update_parameters(**self.options)
        except (NameError, TypeError, ValueError) as e:
            raise ValueError(f'--cluster-options: {e}') from None
        return executor

    def run(self, command: Sequence, log: Path, threads: Optional[int] = None,
            again: Sequence[str] = (), begun: bool = False) -> float:
        """Run a Python script as a job, and wait for its end.

        A job that is lost because its machine or its time limit ended is submitted
        again. A job that a signal ended is submitted again too. If this process is
        killed, its jobs on this machine end. Slurm's jobs continue, and the same call
        waits for them.

        Args:
            command (Sequence): Script and arguments.
            log (Path): The file for its output. Slurm's machines must see it.
            threads (int, optional): Number of threads. Defaults to None, all cores, or
                the cores of a Slurm job.
            again (Sequence[str]): Arguments that are appended when the command is
                submitted again. Defaults to none.
            begun (bool): Whether an earlier call submitted the command. Defaults to
                False.

        Returns:
            float: Seconds of the run, without the time in a queue and without earlier
            calls.

        Raises:
            RuntimeError: If the command fails, or the job was lost several times; names
                the log.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        note = log.with_suffix('.job.json')
        seconds = 0.0
        for attempt in range(ATTEMPTS):
            job = self._known(note, log.parent) if attempt == 0 else None
            if job is None:
                goes_on = begun or attempt > 0
                arguments = [sys.executable, *map(str, command),
                             *(again if goes_on else ())]
                job = self._executor(log.parent, threads).submit(command_job(
                    arguments, str(log.resolve()), self._changes(threads),
                    'a' if goes_on else 'w',
                    os.getpid() if self.kind == 'local' else None))
                if self.kind == 'slurm':
                    atomic_write(note, json.dumps(dict(job_id=job.job_id)))
            with self.lock:
                self.running[id(job)] = job
            try:
                outcome = self._wait(job)
            finally:
                with self.lock:
                    del self.running[id(job)]
            note.unlink(missing_ok=True)
            if outcome is None:
                continue  # lost
            code, duration = outcome
            seconds += duration
            if code in ENDED:
                continue  # it may have saved a checkpoint
            if code:
                raise RuntimeError(f'{command[0]} failed, see {log}')
            return seconds
        raise RuntimeError(f'{command[0]} was ended {ATTEMPTS} times by its machine or '
                           f'by the time limit, see {log} and {log.parent / "jobs"}')

    def _changes(self, threads: Optional[int]) -> Dict[str, Optional[str]]:
        """Environment variables of the command that differ from its job."""
        changes = {}
        if self.kind == 'local':  # submitit would hide all GPUs
            changes['CUDA_VISIBLE_DEVICES'] = os.environ.get('CUDA_VISIBLE_DEVICES')
        if threads or self.kind == 'slurm':
            changes['OMP_NUM_THREADS'] = str(
                self.options.get('cpus_per_task', threads or 1)
                if self.kind == 'slurm' else threads)
        return changes

    def _known(self, note: Path, folder: Path) -> Optional[submitit.Job]:
        """The job of an earlier call, if Slurm still has it or it has a result."""
        if self.kind != 'slurm' or not note.exists():
            return None
        noted = read_json(note)
        check_json(noted, dict(job_id=str), f'{note} is not the note of a job',
                   'remove it')
        job_id = noted['job_id']
        if not re.fullmatch(r'\d+', job_id):  # names a file that is unpickled
            print_log(f'ignored: job_id in {note} is {job_id!r}, expected a number')
            return None
        job = submitit.SlurmJob(folder.resolve() / 'jobs', job_id)
        if job.paths.result_pickle.exists() or is_queued(job.job_id):
            return job
        return None

    def _wait(self, job: submitit.Job) -> Optional[Tuple[int, float]]:
        """Status and seconds of the command; None if the job was lost."""
        asked = time.monotonic()
        while not job.paths.result_pickle.exists():
            if self.over.wait(POLL):
                raise RuntimeError(f'the tool does not wait for job {job.job_id} any '
                                   'more')
            if self.kind == 'local':
                # The job is the controller; it writes the file before it ends.
                if job.done() and not job.paths.result_pickle.exists():
                    return None
            elif time.monotonic() - asked > ASK:
                # sacct, which submitit asks, needs a data base; squeue does not.
                asked = time.monotonic()
                if not is_queued(job.job_id) and not _arrives(job.paths.result_pickle):
                    return None
        try:
            return job.result()
        except UncompletedJobError:
            return None

    def cancel(self) -> None:
        """Stop waiting, and end the jobs of this machine. Slurm's jobs continue."""
        self.over.set()
        with self.lock:
            jobs = list(self.running.values())
        for job in jobs:
            # Not by job.cancel: background jobs of a shell script ignore SIGINT.
            if self.kind == 'local' and not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)  # its controller


def command_job(arguments: List[str], log: str, changes: Dict[str, Optional[str]],
                mode: str, owner: Optional[int] = None
                ) -> Callable[[], Tuple[int, float]]:
    """A function that runs a command in a job.

    It is a local function, which pickle sends by its code and not by its name. A job
    then imports neither this package nor torch.

    Args:
        arguments (list[str]): The command.
        log (str): The file for its output.
        changes (dict[str, str | None]): Environment variables; None removes a variable.
        mode (str): ``'w'`` to replace the log, ``'a'`` to append.
        owner (int, optional): Id of a process of this machine; the command ends when
            this process ends. Defaults to None.

    Returns:
        Callable: Returns status and seconds.
    """

    def end(number: int, frame) -> None:
        raise SystemExit(128 + number)

    def run() -> Tuple[int, float]:
        signal.signal(signal.SIGTERM, end)  # submitit ignores it
        env = {k: v for k, v in os.environ.items() if k not in changes}
        env.update({k: v for k, v in changes.items() if v is not None})
        start = time.time()
        with open(log, mode) as file:
            process = subprocess.Popen(
                arguments, stdout=file, stderr=subprocess.STDOUT, env=env)
            try:
                while True:
                    try:
                        code = process.wait(1 if owner else None)
                        break
                    except subprocess.TimeoutExpired:
                        os.kill(owner, 0)  # raises ProcessLookupError
            finally:
                if process.poll() is None:  # a signal ends the job
                    process.terminate()
                    process.wait()
        return code, time.time() - start

    return run


def is_queued(job_id: str) -> bool:
    """Whether a job waits or runs in Slurm.

    Args:
        job_id (str): Id of the job.
    """
    result = subprocess.run(['squeue', '-h', '-j', job_id, '-o', '%T'],
                            capture_output=True, text=True)
    if result.returncode and 'Invalid job id' not in result.stderr:
        return True  # the controller does not answer: ask again later
    over = {'', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT', 'NODE_FAIL',
            'OUT_OF_MEMORY', 'BOOT_FAIL', 'DEADLINE'}
    return result.stdout.strip() not in over


def _arrives(path: Path) -> bool:
    """Whether a file appears on a slow file system within :data:`ARRIVAL`."""
    end = time.monotonic() + ARRIVAL
    while not path.exists() and time.monotonic() < end:
        time.sleep(POLL)
    return path.exists()
