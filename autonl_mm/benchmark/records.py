# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What mmengine logged of a run, read back."""
import json
from pathlib import Path
from typing import Dict, List, Tuple


def read_scalars(work_dir: Path) -> Tuple[List[dict], List[dict], Path]:
    """The newest run's training and evaluation records.

    A run that was resumed has one folder a start; what a later start logged
    replaces what earlier ones logged from its first step on.

    Args:
        work_dir (Path): The work dir.

    Returns:
        tuple: Training records, evaluation records, the newest run's folder.

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
            # what an earlier start logged from there on was done anew
            for step in [k for k in target if own and k >= min(own)]:
                del target[step]
            target.update(own)
    return ([train[k] for k in sorted(train)],
            [evaluation[k] for k in sorted(evaluation)], files[-1].parents[1])


def metric_of(records: List[dict], metric: str = '') -> str:
    """The evaluation metric to show: the one asked for, or the first.

    Args:
        records (list[dict]): Evaluation records.
        metric (str): The one asked for; may be empty. Defaults to ''.

    Raises:
        ValueError: If it was not logged.
    """
    names = [
        k for k in records[0] if k not in ('step', 'time', 'data_time')
    ]
    if metric and metric not in names:
        raise ValueError(f'metric {metric!r} was not logged, there are '
                         f'{names}')
    return metric or names[0]
