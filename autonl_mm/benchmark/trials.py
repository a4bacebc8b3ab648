# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Many training runs of one comparison, each done once."""
import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from mmengine.config import DictAction
from tqdm import tqdm

from .records import metric_of, read_scalars


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison.

    Args:
        parser (ArgumentParser): The tool's parser.
    """
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument(
        '--seeds', type=int, default=3, help='training runs of each network')
    parser.add_argument(
        '--jobs',
        type=int,
        default=2,
        help='training runs at a time, each on its share of the cores')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='settings of the training runs')


def run(command: Sequence, log: Path, threads: Optional[int] = None) -> float:
    """Run a tool, its output into a file.

    Args:
        command (Sequence): Script and arguments.
        log (Path): The file.
        threads (int, optional): Threads of the run. Defaults to None, all.

    Returns:
        float: Seconds it took.

    Raises:
        RuntimeError: If it fails; names the log.
    """
    env = dict(os.environ)
    if threads:
        env['OMP_NUM_THREADS'] = str(threads)
    start = time.time()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as f:
        code = subprocess.run([sys.executable, *map(str, command)],
                              stdout=f, stderr=subprocess.STDOUT,
                              env=env).returncode
    if code:
        raise RuntimeError(f'{command[0]} failed, see {log}')
    return time.time() - start


def train(tool: Path,
          config: Path,
          out: Path,
          options: dict,
          jobs: int,
          prepare: Optional[Callable[[], None]] = None,
          **key) -> dict:
    """Train once; what was trained before is not trained again.

    Args:
        tool (Path): ``tools/train.py``.
        config (Path): The config.
        out (Path): Work dir, in which ``result.json`` keeps the result.
        options (dict): Settings that override the config's.
        jobs (int): Runs at a time, each on its share of the cores.
        prepare (Callable, optional): Called before the run, with ``out``
            there. Defaults to None.
        **key: What the run is one of, kept with its result.

    Returns:
        dict: ``key``, the name and ``value`` of the last evaluation's first
        ``metric``, and ``seconds``.

    Raises:
        ValueError: If ``out`` holds a run of another key.
        RuntimeError: If the run fails.
    """
    record = out / 'result.json'
    if record.exists():
        result = json.loads(record.read_text())
        if {k: result.get(k) for k in key} == key:
            return result
        raise ValueError(f'{out} holds a run of another network: give '
                         'another --work-dir or remove it')
    out.mkdir(parents=True, exist_ok=True)
    if prepare:
        prepare()
    options = {**options, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    seconds = run([
        tool, config, '--work-dir', out, '--cfg-options',
        *(f'{k}={v}' for k, v in options.items())
    ], out / 'train.log', max(1, (os.cpu_count() or 1) // jobs))
    _, evaluation, _ = read_scalars(out)
    metric = metric_of(evaluation)
    result = dict(
        key, metric=metric, value=evaluation[-1][metric], seconds=seconds)
    record.write_text(json.dumps(result, indent=1))
    return result


def at_a_time(jobs: int, function: Callable, items: Sequence) -> List:
    """``function`` of every item, in order, ``jobs`` of them at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(tqdm(pool.map(function, items), total=len(items),
                         desc='training runs'))


def summary(results: Sequence[dict], jobs: int) -> str:
    """What was run, in one line.

    Args:
        results (Sequence[dict]): As :func:`train` returns them.
        jobs (int): Runs at a time.
    """
    minutes = sum(r['seconds'] for r in results) / 60 / jobs
    return (f'metric {results[0]["metric"]}; {len(results)} training runs, '
            f'{minutes:.0f} min with {jobs} at a time')
