# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Say in one line how a training run went, print and draw its curve.

Reads what mmengine logged to the work dir, whatever the codebase.
"""
import argparse
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Dict, List, Tuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt


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


def metric_of(records: List[dict], metric: str) -> str:
    """The evaluation metric to show: the one asked for, or the first."""
    names = [
        k for k in records[0] if k not in ('step', 'time', 'data_time')
    ]
    if metric and metric not in names:
        raise ValueError(f'metric {metric!r} was not logged, there are '
                         f'{names}')
    return metric or names[0]


def draw(train: List[dict], evaluation: List[dict], metric: str, out: Path,
         title: str) -> None:
    """Draw loss by iteration and the metric by evaluation into ``out``."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot([r.get('iter', r['step']) for r in train],
              [r['loss'] for r in train])
    left.set(xlabel='iteration', ylabel='training loss')
    right.plot([r['step'] for r in evaluation],
               [r[metric] for r in evaluation],
               marker='o')
    right.set(xlabel='epoch or iteration', ylabel=metric)
    for ax in (left, right):
        ax.grid(alpha=0.3)
    fig.suptitle(title)
    fig.tight_layout()
    fig.savefig(out, dpi=110)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--metric', default='', help='default: the first')
    args = parser.parse_args()
    try:
        train, evaluation, run = read_scalars(args.work_dir)
        if not evaluation or not train:
            raise ValueError(f'{args.work_dir} has logged no '
                             f'{"evaluation" if train else "training"} yet')
        metric = metric_of(evaluation, args.metric)
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'summarize_run.py: {e}')
    plot = args.work_dir / 'curve.png'
    draw(train, evaluation, metric, plot, args.work_dir.name)

    print(f'| step | {metric} |\n|---|---|')
    for record in evaluation:
        print(f'| {record["step"]} | {record[metric]:.4g} |')

    config = next(args.work_dir.glob('*.py'), None)
    last = args.work_dir / 'last_checkpoint'
    log = run / f'{run.name}.log'
    # mmengine names a run's folder by the time it starts
    start = datetime.strptime(run.name, '%Y%m%d_%H%M%S').timestamp()
    seconds = log.stat().st_mtime - start
    checkpoint = os.path.relpath(last.read_text()) if last.exists() else 'none'
    print(f'\n{config.stem if config else args.work_dir.name}: '
          f'{metric} {evaluation[-1][metric]:.4g} after '
          f'{timedelta(seconds=round(seconds))} '
          f'(checkpoint {checkpoint}, plot {plot})')


if __name__ == '__main__':
    main()
