# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare the steps from a conventional non-local block to LightNL.

Trains the network of a config with each of its ``steps`` as plug-ins, all in
the same way and with the same seeds, and prints the MACs, parameters and
accuracy of each. Finished runs are not repeated, so an interrupted comparison
continues.
"""
import argparse
import statistics
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.benchmark import trials
from autonl_mm.benchmark.measure import built_macs, count_parameters
from autonl_mm.cli import configs
from autonl_mm.models.layers import LightNL

TOOLS = Path(__file__).resolve().parents[1]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='config with ``steps``, lists of plug-ins by name')
    trials.add_args(parser)
    configs.add_input_shape(
        parser, (32, 32), 'the MACs are counted for it; default 32')
    parser.add_argument(
        '--no-train',
        action='store_true',
        help='print MACs and parameters only, train nothing')
    return parser.parse_args()


def with_step(cfg, name):
    """The config with one of its steps as the backbone's plug-ins."""
    cfg = Config(cfg.to_dict())
    cfg.model.backbone.plugins = cfg.pop('steps')[name]
    return cfg


def costs(cfg, input_shape):
    """Parameters and MACs of a network, the latter in two ways.

    Args:
        cfg (Config): The config.
        input_shape (tuple[int, int]): Height and width of the image.

    Returns:
        dict[str, int]: ``parameters``; ``macs``, with the products of LightNL
        in the cheaper order; ``affinity``, MACs with all affinities formed.
    """
    model = MODELS.build(cfg.model).backbone
    row = dict(parameters=count_parameters(model))
    row['macs'] = built_macs(model, 3, *input_shape)
    for module in model.modules():
        if isinstance(module, LightNL):
            module.order = 'spatial'
    row['affinity'] = built_macs(model, 3, *input_shape)
    return row


def table(rows, values):
    """The comparison as Markdown.

    Args:
        rows (dict[str, dict]): For each step what :func:`costs` returns; the
            first step is the network that the others are compared with.
        values (dict[str, list[float]]): Metric of each step, by seed; empty
            if nothing was trained.
    """
    base = next(iter(rows.values()))
    seeds = len(next(iter(values.values()))) if values else 0
    head = ['step', 'MACs added, affinity formed', 'MACs added, cheaper order',
            'parameters added', *(f'seed {i}' for i in range(seeds))]
    if seeds:
        head += ['mean', 'standard deviation'][:1 + (seeds > 1)]
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    for name, row in rows.items():
        cells = [name.replace('_', ' ')]
        cells += [f'{(row[key] - base[key]) / 1e6:.3f} M'
                  for key in ('affinity', 'macs')]
        cells.append(f'{row["parameters"] - base["parameters"]:,}')
        if seeds:
            cells += [f'{v:.2f}' for v in values[name]]
            cells.append(f'{statistics.mean(values[name]):.2f}')
        if seeds > 1:
            cells.append(f'{statistics.stdev(values[name]):.2f}')
        lines.append('| ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines)
    first = next(iter(rows))
    return (f'{text}\n\n{first.replace("_", " ")}: {base["macs"] / 1e6:.2f} M '
            f'MACs, {base["parameters"]:,} parameters, without the classifier')


def main():
    args = parse_args()
    try:
        if args.seeds < 1 or args.jobs < 1:
            raise ValueError('--seeds and --jobs must be at least 1')
        input_shape = configs.parse_shape(args.input_shape)
        cfg = Config.fromfile(args.config)
        if not cfg.get('steps'):
            raise ValueError(f'{args.config} has no steps: expected a dict of '
                             'lists of plug-ins')
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        variants = {name: with_step(cfg, name) for name in cfg.steps}
        rows = {name: costs(variant, input_shape)
                for name, variant in variants.items()}
        args.work_dir.mkdir(parents=True, exist_ok=True)
        values, last = {}, ''
        if not args.no_train:
            jobs = [(name, seed) for seed in range(args.seeds)
                    for name in variants]

            def train(job):
                name, seed = job
                out = args.work_dir / f'{name}-seed{seed}'
                config = args.work_dir / f'{name}.py'
                return trials.train(
                    TOOLS / 'train.py', config, out,
                    {**args.cfg_options, 'randomness.seed': seed}, args.jobs,
                    step=name, seed=seed,
                    plugins=repr(variants[name].model.backbone.plugins))

            for name, variant in variants.items():
                variant.dump(args.work_dir / f'{name}.py')
            done = trials.at_a_time(args.jobs, train, jobs)
            values = {name: [r['value'] for r in done if r['step'] == name]
                      for name in variants}
            last = '; ' + trials.summary(done, args.jobs)
    except (FileNotFoundError, ValueError, RuntimeError) as e:
        sys.exit(f'compare_steps.py: {e}')
    text = table(rows, values) + last
    (args.work_dir / 'comparison.md').write_text(text + '\n')
    print('\n' + text)


if __name__ == '__main__':
    main()
