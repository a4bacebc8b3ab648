# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Sets of training runs for a comparison; finished runs are not repeated."""
import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from mmengine.config import Config, DictAction
from tqdm import tqdm

from autonl_mm.checkpoint import write_whole
from autonl_mm.text_files import read_json

from . import cluster
from .cluster import Cluster
from .records import metric_of, read_scalars


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison of training runs.

    Args:
        parser (ArgumentParser): The tool's parser.
    """
    parser.add_argument(
        '--work-dir', type=Path, required=True, help='folder for all runs')
    parser.add_argument(
        '--seeds', type=int, default=3, help='training runs of each network')
    parser.add_argument(
        '--jobs',
        type=int,
        default=2,
        help='training runs at the same time; on this machine they share the cores')
    cluster.add_args(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings of the training runs: key=value')


def threads_of(jobs: int, where: Cluster) -> Optional[int]:
    """Threads of each of several training runs.

    Args:
        jobs (int): Number of runs at the same time.
        where (Cluster): Where they run.

    Returns:
        int, optional: An equal part of this machine's cores; None on a cluster, whose
        jobs have their own.
    """
    return max(1, (os.cpu_count() or 1) // jobs) if where.kind == 'local' else None


def train(tool: Path,
          config: Path,
          out: Path,
          options: dict,
          jobs: int,
          where: Cluster,
          prepare: Optional[Callable[[], None]] = None,
          **key) -> dict:
    """Train once, or return the result of a finished run.

    A run that an earlier call began with the same config and options is resumed.

    Args:
        tool (Path): ``tools/train.py``.
        config (Path): The config.
        out (Path): The work dir. The result is kept there in ``result.json``.
        options (dict): Settings that override the config's.
        jobs (int): Number of runs at the same time, which share the cores.
        where (Cluster): Where it runs.
        prepare (Callable, optional): Called before the run, when ``out`` exists.
            Defaults to None.
        **key: Values that identify the run, kept with its result.

    Returns:
        dict: ``key``; name (``metric``) and ``value`` of the first metric of the
        last evaluation; ``seconds``, without those of earlier calls.

    Raises:
        ValueError: If ``out`` holds a run with another key.
        RuntimeError: If the run fails.
    """
    record = out / 'result.json'
    if record.exists():
        result = read_json(record)
        if {k: result.get(k) for k in key} == key:
            return result
        raise ValueError(f'{out} holds another run: remove it or use another '
                         '--work-dir')
    out.mkdir(parents=True, exist_ok=True)
    if prepare:
        prepare()
    options = {**options, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    settings = [f'{k}={v}' for k, v in options.items()]
    text = f'{key}\n{settings}\n{Config.fromfile(config).to_dict()}\n'
    begun = out / 'begun.txt'
    resume = begun.exists() and begun.read_text(encoding='utf-8') == text
    if not resume:
        write_whole(begun, text)
    seconds = where.run(
        [tool, config, '--work-dir', out, '--cfg-options', *settings],
        out / 'train.log', threads_of(jobs, where), again=['--resume'], begun=resume)
    _, evaluation, _ = read_scalars(out)
    metric = metric_of(evaluation)
    result = dict(
        key, metric=metric, value=evaluation[-1][metric], seconds=seconds)
    write_whole(record, json.dumps(result, indent=1))
    return result


def at_a_time(jobs: int, function: Callable, items: Sequence, where: Cluster) -> List:
    """Call a function for every item, several at the same time.

    Args:
        jobs (int): Number of calls at the same time.
        where (Cluster): What they use. If one fails, those that run end first; at an
            interruption its jobs on this machine are ended.
        function (Callable): Called with one item.
        items (Sequence): The items.

    Returns:
        list: The results, in the order of the items.
    """
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(tqdm(pool.map(function, items), total=len(items),
                             desc='training runs'))
        except BaseException as e:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(e, Exception):
                where.cancel()
            raise


def summary(results: Sequence[dict], jobs: int) -> str:
    """Summary of the training runs.

    Args:
        results (Sequence[dict]): Results of :func:`train`.
        jobs (int): Number of runs at the same time.

    Returns:
        str: One line.
    """
    minutes = sum(r['seconds'] for r in results) / 60 / jobs
    return (f'metric {results[0]["metric"]}; {len(results)} training runs, '
            f'{minutes:.0f} min with {jobs} at the same time')
