# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Reading of the values that mmengine logged in a run, and formatting of metrics."""
import json
from numbers import Real
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from .text_files import check_json

# Keys of an evaluation's record that are not metrics
TIMES = ('step', 'time', 'data_time')


def read_scalars(work_dir: Path) -> Tuple[List[dict], List[dict], Path]:
    """Read the training and evaluation records of a run.

    A resumed run has one folder for each start. Records of a later start replace the
    records of earlier starts from its first step on. Records of neither kind, such as
    a search's gates, are left out.

    Args:
        work_dir (Path): The work dir.

    Returns:
        tuple: Training records, evaluation records, and the folder of the latest
        start.

    Raises:
        FileNotFoundError: If nothing was logged there.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'{work_dir} has no */vis_data/scalars.json: expected the work '
            'dir of a training run with a LocalVisBackend')
    train: Dict[int, dict] = {}
    evaluation: Dict[int, dict] = {}
    for path in files:
        records = list(_read_records(path))
        for target, kind in ((train, 'loss'), (evaluation, 'metric')):
            own = {r['step']: r for r in records if _kind(r) == kind}
            # these steps of an earlier start were repeated
            for step in [k for k in target if own and k >= min(own)]:
                del target[step]
            target.update(own)
    return ([train[k] for k in sorted(train)],
            [evaluation[k] for k in sorted(evaluation)], files[-1].parents[1])


def _read_records(path: Path) -> Iterator[dict]:
    """Records of a file; a kill or a full disk may cut the last record."""
    lines = path.read_text(errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines):
                raise ValueError(f'line {number} of {path} is not JSON, expected '
                                 "mmengine's log of scalars") from None
            continue
        if isinstance(record, dict) and 'step' in record:
            check_json(record, {'step': int, 'loss?': float, str: object},
                       f"line {number} of {path} is not mmengine's log of scalars",
                       'remove the line')
            yield record


def _kind(record: dict) -> str:
    """'loss' for a record of training, 'metric' for a record of an evaluation."""
    if 'loss' in record:
        return 'loss'
    others = [k for k in record if k not in TIMES and not k.startswith('gates/')]
    return 'metric' if others else 'other'


def format_metrics(metrics: Dict[str, Any]) -> str:
    """Names and values of an evaluation's metrics, in a line.

    Args:
        metrics (dict): The runner's metrics. mmseg's values are numbers of numpy.
            mmpretrain also has lists, which are left out.
    """
    return ', '.join(f'{name} {float(value):.4g}' for name, value in metrics.items()
                     if isinstance(value, Real) or getattr(value, 'ndim', None) == 0)


def metric_of(records: List[dict], metric: str = '') -> str:
    """Name of an evaluation metric: the given metric, or the usual metric.

    Args:
        records (list[dict]): Evaluation records.
        metric (str): The metric; empty for the mIoU of a segmentor, or else the
            first logged metric. Defaults to ''.

    Returns:
        str: The name.

    Raises:
        ValueError: If the metric was not logged.
    """
    names = [k for k in records[0] if k not in TIMES]
    if metric and metric not in names:
        raise ValueError(f'metric {metric!r} was not logged, expected one of '
                         f'{names}')
    # mmseg logs the accuracy of pixels first.
    return metric or ('mIoU' if 'mIoU' in names else names[0])
