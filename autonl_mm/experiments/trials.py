# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Sets of training runs for a comparison; finished runs are not repeated."""
import argparse
import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from mmengine.config import Config, DictAction
from tqdm import tqdm

from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.cfg_options import check_options
from autonl_mm.runs.scalars import metric_of, read_scalars
from autonl_mm.runs.text_files import check_json, read_json

from . import cluster
from .cluster import Cluster

BEGUN, RESULT = 'begun.txt', 'result.json'


def file_stem(text: str) -> str:
    """The type of an option that takes a file's name without ending.

    Raises:
        ArgumentTypeError: If the name is empty or has a folder.
    """
    if not text or Path(text).name != text:
        raise argparse.ArgumentTypeError(
            f'expected the name of a file without folder and ending, got {text!r}')
    return text


def add_args(parser: argparse.ArgumentParser, report: str) -> None:
    """Add the options of a comparison of training runs.

    Args:
        parser (ArgumentParser): The tool's parser.
        report (str): Name of the result's files, without ending.
    """
    parser.add_argument(
        '--work-dir', type=Path, required=True, help='folder for all runs')
    parser.add_argument(
        '--seeds', type=int, default=3, help='number of training runs per network')
    cluster.add_args(parser)
    parser.add_argument(
        '--report', type=file_stem, default=report, metavar='NAME',
        help="name of the result's files in the work dir, without ending; with "
        'different names several comparisons can share their training runs; default '
        f'{report}')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings of the training runs: key=value')


def threads_of(jobs: int, where: Cluster) -> Optional[int]:
    """Threads of each of several parallel training runs.

    Args:
        jobs (int): Number of runs at the same time.
        where (Cluster): The cluster that runs them.

    Returns:
        int, optional: An equal part of this machine's cores; None with Slurm, whose
        jobs have their own cores.
    """
    return max(1, (os.cpu_count() or 1) // jobs) if where.kind == 'local' else None


def last_evaluation(out: Path) -> dict:
    """The usual metric of a run's last evaluation.

    Args:
        out (Path): The work dir.

    Returns:
        dict: The name of the metric, ``metric``, and its ``value``.
    """
    _, evaluation, _ = read_scalars(out)
    metric = metric_of(evaluation)
    return dict(metric=metric, value=evaluation[-1][metric])


def training_loss(out: Path) -> dict:
    """The mean loss of the second half of a run that was not evaluated.

    Records that are not finite are left out, unless the run ends with one.

    Args:
        out (Path): The work dir.

    Returns:
        dict: ``metric``, which is ``'loss'``, and ``value``, which is nan for a run
        that diverged.
    """
    records, _, _ = read_scalars(out)
    losses = [r['loss'] for r in records[len(records) // 2:]]
    finite = [loss for loss in losses if isfinite(loss)]
    return dict(metric='loss', value=statistics.mean(finite)
                if isfinite(losses[-1]) else nan)


@dataclass(frozen=True)
class Trial:
    """A training run of a comparison.

    Args:
        config (Path): The config.
        out (Path): The work dir, with the result in ``result.json``.
        key (dict): Values that identify the run, kept with its result.
        options (dict): Settings that override the config's settings.
        files (dict): Further settings, which are paths of files. The contents of these
            files are in the key, so their paths may change between calls. Defaults to
            an empty dict.
        prepare (Callable, optional): Called before the run, when ``out`` exists.
            Defaults to None.
        read (Callable): From the work dir of the finished run to its ``metric`` and
            ``value``. Defaults to :func:`last_evaluation`.
    """
    config: Path
    out: Path
    key: dict
    options: dict
    files: dict = field(default_factory=dict)
    prepare: Optional[Callable[[], None]] = None
    read: Callable[[Path], dict] = last_evaluation

    @property
    def settings(self) -> List[str]:
        """Settings that identify the run, as ``key=value``."""
        options = {**self.options, 'default_hooks.checkpoint.max_keep_ckpts': 1}
        return [f'{k}={v}' for k, v in options.items()]


def train_all(tool: Path, trials: Sequence[Trial], jobs: int,
              where: Cluster) -> List[dict]:
    """Train all runs that are not finished.

    A run that an earlier call began is resumed.

    Args:
        tool (Path): ``tools/train.py``.
        trials (Sequence[Trial]): The runs.
        jobs (int): Number of runs at the same time, which share the cores.
        where (Cluster): The cluster that runs them. If a run fails, the other running
            runs are finished. An interruption ends the jobs on this machine.

    Returns:
        list[dict]: For each run its ``key``, ``metric``, ``value`` and ``seconds``,
        without the time of earlier calls.

    Raises:
        ValueError: If nothing reads a setting, or if a work dir holds a finished run
            with another key, config or other settings, or a broken result. Nothing is
            trained then.
        RuntimeError: If a run fails.
    """
    cfgs = {config: Config.fromfile(config)
            for config in {trial.config for trial in trials}}
    for trial in trials:
        check_options(cfgs[trial.config], {**trial.options, **trial.files})
    identities = [f'{trial.key}\n{trial.settings}\n{cfgs[trial.config].to_dict()}\n'
                  for trial in trials]
    for trial, identity in zip(trials, identities):
        if not (trial.out / RESULT).exists():
            continue
        if not is_begun(trial.out, identity):
            raise ValueError(
                f'{trial.out} holds a run of another network, with another config or '
                'other settings: remove it or use another --work-dir')
        read_result(trial.out)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(tqdm(
                pool.map(lambda trial, identity: _train(
                    tool, trial, identity, jobs, where), trials, identities),
                total=len(trials), desc='training runs'))
        except BaseException as e:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(e, Exception):
                where.cancel()
            raise


def is_begun(out: Path, identity: str) -> bool:
    """Whether a run was begun in a work dir. It may be finished.

    Args:
        out (Path): The work dir.
        identity (str): Key, settings and config of the run, as in :data:`BEGUN`.
    """
    begun = out / BEGUN
    return begun.exists() and begun.read_text(encoding='utf-8') == identity


def read_result(out: Path) -> dict:
    """The result of a finished run, see :func:`train_all`.

    Args:
        out (Path): The work dir.

    Raises:
        ValueError: If the file is no result; names the file and the key.
    """
    result = read_json(out / RESULT)
    check_json(result, dict({str: object}, metric=str, value=float, seconds=float),
               f'{out / RESULT} is not the result of a run',
               f'remove {out}, and it is trained again')
    return result


def _train(tool: Path, trial: Trial, identity: str, jobs: int, where: Cluster) -> dict:
    out = trial.out
    record = out / RESULT
    if record.exists():
        return read_result(out)
    out.mkdir(parents=True, exist_ok=True)
    if trial.prepare:
        trial.prepare()
    resume = is_begun(out, identity)
    if not resume:
        atomic_write(out / BEGUN, identity)
    files = [f'{k}={v}' for k, v in trial.files.items()]
    seconds = where.run(
        [tool, trial.config, '--work-dir', out, '--cfg-options', *files,
         *trial.settings],
        out / 'train.log', threads_of(jobs, where), again=['--resume'], begun=resume)
    result = dict(trial.key, **trial.read(out), seconds=seconds)
    atomic_write(record, json.dumps(result, indent=1))
    return result


def summary(results: Sequence[dict], jobs: int) -> str:
    """Summary of the training runs.

    Args:
        results (Sequence[dict]): Results of :func:`train_all`.
        jobs (int): Number of runs at the same time.

    Returns:
        str: One line.
    """
    minutes = sum(r['seconds'] for r in results) / 60 / jobs
    return (f'metric {results[0]["metric"]}; {len(results)} training runs, '
            f'{minutes:.0f} min with {jobs} at the same time')
