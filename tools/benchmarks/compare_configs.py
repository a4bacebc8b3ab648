# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Train several configs with several seeds each, and compare the results.

    python tools/benchmarks/compare_configs.py A.py B.py --seeds 3 --work-dir DIR

The table has the metric of each seed, mean, standard deviation, and the difference from
the first config, paired by seed, with its 95% interval by Student's t. A second one has
the means at each evaluation. Finished runs are not repeated, interrupted ones resumed.
"""
import argparse
import statistics
import sys
from pathlib import Path

from autonl_mm.experiments import trials
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.paired import comparison_table
from autonl_mm.runs import outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.scalars import read_scalars
from autonl_mm.runs.tables import markdown_table

TOOLS = Path(__file__).resolve().parents[1]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'configs', type=Path, nargs='+', help='the first is the one to compare with')
    trials.add_args(parser, 'compare_configs')
    return parser.parse_args()


def tables(values, curves):
    """The comparison as Markdown.

    Args:
        values (dict[str, list[float]]): Metric of each config by seed; the first config
            is the one to compare with.
        curves (dict[str, list[dict[int, float]]]): For each config and seed, the metric
            by the step of the evaluation.
    """
    text = comparison_table('config', values, 'seed', [next(iter(values))])
    steps = sorted({step for own in curves.values() for c in own for step in c})
    if len(steps) > 1:
        text += '\n\n' + markdown_table(
            ['config', *(f'step {step}' for step in steps)],
            [[name, *(f'{statistics.mean(c[step] for c in own):.2f}'
                      if all(step in c for c in own) else '' for step in steps)]
             for name, own in curves.items()])
    return text


def main():
    args = parse_args()
    try:
        if min(args.seeds, args.jobs) < 1:
            raise ValueError('--seeds and --jobs must be at least 1')
        names = [path.stem for path in args.configs]
        if len(set(names)) < len(names):
            raise ValueError(f'configs have the same name: {", ".join(names)}')
        for path in args.configs:
            if not path.is_file():
                raise FileNotFoundError(f'config {path} does not exist')
        outputs.check_folder('--work-dir', args.work_dir)
        runs = [
            trials.Trial(path, args.work_dir / f'{path.stem}-seed{seed}',
                         dict(config=path.stem, seed=seed),
                         {**args.cfg_options, 'randomness.seed': seed})
            for seed in range(args.seeds) for path in args.configs]
        done = trials.train_all(TOOLS / 'train.py', runs, args.jobs,
                                Cluster(args.cluster, args.cluster_options))
        metric, *others = dict.fromkeys(run['metric'] for run in done)
        if others:
            raise ValueError(f'the configs have the metrics {metric} and '
                             f'{", ".join(others)}, expected the same first metric')
    except (FileNotFoundError, ValueError, RuntimeError) as e:
        sys.exit(f'compare_configs.py: {e}')
    values = {name: [r['value'] for r in done if r['config'] == name] for name in names}
    curves = {name: [{r['step']: r[metric] for r in read_scalars(run.out)[1]}
                     for run in runs if run.config.stem == name] for name in names}
    text = f'{tables(values, curves)}\n\n{trials.summary(done, args.jobs)}'
    atomic_write(args.work_dir / f'{args.report}.md', text + '\n')
    print('\n' + text)


if __name__ == '__main__':
    main()
