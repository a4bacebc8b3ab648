# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Summarise training runs, print their evaluations and plot their curves.

The tool reads mmengine's logs in the work dirs of any codebase. Several runs become
columns of one table and lines of one plot.
"""
import argparse
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import List, NamedTuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from autonl_mm.runs import outputs
from autonl_mm.runs.scalars import metric_of, read_scalars
from autonl_mm.runs.tables import markdown_table


class Run(NamedTuple):
    """The logs of a training run."""
    work_dir: Path
    train: List[dict]
    evaluation: List[dict]
    folder: Path

    @classmethod
    def of(cls, work_dir: Path) -> 'Run':
        """Read the logs in a work dir.

        Raises:
            FileNotFoundError: If there are no logs.
            ValueError: If no training or no evaluation was logged.
        """
        train, evaluation, folder = read_scalars(work_dir)
        if not evaluation or not train:
            raise ValueError(f'{work_dir} has logged no '
                             f'{"evaluation" if train else "training"} yet')
        return cls(work_dir, train, evaluation, folder)

    def with_metric(self, metric: str) -> 'Run':
        """The run without the evaluations that lack a metric."""
        return self._replace(
            evaluation=[r for r in self.evaluation if metric in r])

    def summary(self, metric: str, plot: Path) -> str:
        """Last metric, duration, checkpoint and plot of the run, in one line."""
        config = next(self.work_dir.glob('*.py'), None)
        last = self.work_dir / 'last_checkpoint'
        log = self.folder / f'{self.folder.name}.log'
        # mmengine names a run's folder by the time it starts
        start = datetime.strptime(self.folder.name, '%Y%m%d_%H%M%S')
        seconds = log.stat().st_mtime - start.timestamp()
        checkpoint = os.path.relpath(last.read_text()) if last.exists() else 'none'
        return (f'{config.stem if config else self.work_dir.name}: '
                f'{metric} {self.evaluation[-1][metric]:.4g} after '
                f'{timedelta(seconds=round(seconds))} '
                f'(checkpoint {checkpoint}, plot {plot})')


def plot_curves(runs: List[Run], metric: str, out: Path) -> None:
    """Plot the loss by iteration and the metric by evaluation into ``out``."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for run in runs:
        left.plot([r.get('iter', r['step']) for r in run.train],
                  [r['loss'] for r in run.train],
                  label=run.work_dir.name)
        right.plot([r['step'] for r in run.evaluation],
                   [r[metric] for r in run.evaluation],
                   marker='o')
    left.set(xlabel='iteration', ylabel='training loss')
    right.set(xlabel='epoch or iteration', ylabel=metric)
    right.xaxis.get_major_locator().set_params(integer=True)
    for ax in (left, right):
        ax.grid(alpha=0.3)
    fig.legend(loc='upper center', fontsize=8, ncol=2)
    fig.tight_layout(rect=(0, 0, 1, 0.93))
    outputs.save_figure(fig, out, dpi=110)
    plt.close(fig)


def table(runs: List[Run], metric: str) -> str:
    """A Markdown table: one row per evaluated step, one column per run."""
    names = [metric] if len(runs) == 1 else [
        f'{metric}, {run.work_dir.name}' for run in runs]
    values = [{r['step']: r[metric] for r in run.evaluation} for run in runs]
    return markdown_table(['step', *names], [
        [step, *(f'{v[step]:.4g}' if step in v else '-' for v in values)]
        for step in sorted(set().union(*values))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', type=Path, nargs='+', metavar='work_dir',
                        help='work dir of a training run')
    parser.add_argument(
        '--metric', default='',
        help='evaluation metric; default: mIoU, or else the first logged metric')
    parser.add_argument(
        '--out', type=Path,
        help='file for the plot; default: curve.png in the first work dir')
    args = parser.parse_args()
    plot = args.out or args.work_dirs[0] / 'curve.png'
    try:
        outputs.check_file('--out', args.out)
        runs = [Run.of(work_dir) for work_dir in args.work_dirs]
        metrics = [metric_of(run.evaluation, args.metric) for run in runs]
        if len(set(metrics)) > 1:
            raise ValueError(f'the runs logged different metrics, {metrics}: '
                             'name one with --metric')
        runs = [run.with_metric(metrics[0]) for run in runs]
        plot_curves(runs, metrics[0], plot)
    except (OSError, ValueError) as e:
        sys.exit(f'analyze_logs.py: {e}')
    print(f'{table(runs, metrics[0])}\n')
    for run in runs:
        print(run.summary(metrics[0], plot))


if __name__ == '__main__':
    main()
