# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Reading of the values that mmengine logged in a run."""
import json
from pathlib import Path
from typing import Dict, List, Tuple


def read_scalars(work_dir: Path) -> Tuple[List[dict], List[dict], Path]:
    """Read the training and evaluation records of a run.

    A resumed run has one folder for each start. Records of a later start replace
    those of earlier ones from its first step on.

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
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for target, is_train in ((train, True), (evaluation, False)):
            own = {r['step']: r for r in records if ('loss' in r) == is_train}
            # these steps of an earlier start were repeated
            for step in [k for k in target if own and k >= min(own)]:
                del target[step]
            target.update(own)
    return ([train[k] for k in sorted(train)],
            [evaluation[k] for k in sorted(evaluation)], files[-1].parents[1])


def metric_of(records: List[dict], metric: str = '') -> str:
    """Name of an evaluation metric: the given one, or the first.

    Args:
        records (list[dict]): Evaluation records.
        metric (str): The metric; empty for the first that was logged. Defaults
            to ''.

    Returns:
        str: The name.

    Raises:
        ValueError: If the metric was not logged.
    """
    names = [
        k for k in records[0] if k not in ('step', 'time', 'data_time')
    ]
    if metric and metric not in names:
        raise ValueError(f'metric {metric!r} was not logged, expected one of '
                         f'{names}')
    return metric or names[0]
