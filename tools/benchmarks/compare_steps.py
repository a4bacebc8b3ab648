# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare the steps from a conventional non-local block to LightNL.

Trains the network of a config with each of its ``steps`` as plug-ins, all in the same
way and with the same seeds. Prints MACs, parameters and accuracy of each step, and its
difference from the first step, seed by seed. Finished runs are not repeated, so an
interrupted comparison continues.
"""
import argparse
import statistics
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.experiments import trials
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.paired import paired_difference
from autonl_mm.measure.counting import built_macs, count_parameters
from autonl_mm.models import input_channels
from autonl_mm.models.layers import LightNL
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.digest import digest

TOOLS = Path(__file__).resolve().parents[1]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='config with ``steps``, lists of plug-ins by name')
    trials.add_args(parser, 'comparison')
    parser.add_argument(
        '--steps', nargs='+', metavar='NAME', help='default: all of the config')
    parser.add_argument(
        '--pretrained',
        type=Path,
        help='work dir of a finished comparison of the same steps and seeds, whose '
        'trained backbones each network starts with')
    configs.add_input_shape(
        parser, (32, 32), 'image size for the MACs; default 32')
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


def last_checkpoint(work_dir, name, seed):
    """The weights with which a step starts, from another comparison.

    Args:
        work_dir (Path): Its work dir.
        name (str): The step.
        seed (int): The seed.

    Returns:
        Path: The checkpoint.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    last = work_dir / f'{name}-seed{seed}' / 'last_checkpoint'
    if not last.is_file():
        raise FileNotFoundError(f'--pretrained: {last} does not exist, expected '
                                'the work dir of a finished comparison of the '
                                'same steps and seeds')
    # It holds the path at the time of the run; the folder may have moved.
    return last.parent / Path(last.read_text().strip()).name


def trial_of(name, seed, args):
    """The training of a step with a seed."""
    key, files = dict(step=name, seed=seed), {}
    if args.pretrained:
        checkpoint = last_checkpoint(args.pretrained, name, seed)
        key['pretrained'] = digest(checkpoint)[:8]
        init_cfg = 'model.backbone.init_cfg'
        files = {f'{init_cfg}.type': 'Pretrained',
                 f'{init_cfg}.checkpoint': checkpoint,
                 f'{init_cfg}.prefix': 'backbone.'}
    return trials.Trial(
        args.work_dir / f'{name}.py', args.work_dir / f'{name}-seed{seed}', key,
        {**args.cfg_options, 'randomness.seed': seed}, files)


def costs(cfg, input_shape):
    """Parameters of a network, and its MACs in two ways.

    Args:
        cfg (Config): The config.
        input_shape (tuple[int, int]): Height and width of the image.

    Returns:
        dict[str, int]: ``parameters``; ``macs``, with the products of LightNL
        in the cheaper order; ``affinity``, MACs with all affinities formed.
    """
    model = MODELS.build(cfg.model).backbone
    row = dict(parameters=count_parameters(model))
    row['macs'] = built_macs(model, input_channels(model), *input_shape)
    for module in model.modules():
        if isinstance(module, LightNL):
            module.order = 'spatial'
    row['affinity'] = built_macs(model, input_channels(model), *input_shape)
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
    first = next(iter(rows))
    if seeds:
        head.append('mean')
    if seeds > 1:
        head += ['standard deviation',
                 f'difference from {first.replace("_", " ")}, 95% interval']
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
            mean, half = paired_difference(values[name], values[first])
            cells.append('' if name == first else f'{mean:+.2f} ± {half:.2f}')
        lines.append('| ' + ' | '.join(cells) + ' |')
    text = '\n'.join(lines)
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
        for name in args.steps or []:
            if name not in cfg.steps:
                raise ValueError(f'--steps has {name!r}, expected some of '
                                 f'{", ".join(cfg.steps)}')
        variants = {name: with_step(cfg, name) for name in args.steps or cfg.steps}
        rows = {name: costs(variant, input_shape)
                for name, variant in variants.items()}
        outputs.check_folder('--work-dir', args.work_dir)
        values, last = {}, ''
        if not args.no_train:
            where = Cluster(args.cluster, args.cluster_options)
            runs = [trial_of(name, seed, args) for seed in range(args.seeds)
                    for name in variants]
            for name, variant in variants.items():
                variant.dump(args.work_dir / f'{name}.py')
            done = trials.train_all(TOOLS / 'train.py', runs, args.jobs, where)
            values = {name: [r['value'] for r in done if r['step'] == name]
                      for name in variants}
            last = '; ' + trials.summary(done, args.jobs)
    except (FileNotFoundError, ValueError, RuntimeError) as e:
        sys.exit(f'compare_steps.py: {e}')
    text = table(rows, values) + last
    atomic_write(args.work_dir / f'{args.report}.md', text + '\n')
    print('\n' + text)


if __name__ == '__main__':
    main()
