# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare the steps from a conventional non-local block to LightNL.

The tool trains the network of a config with each of its ``steps`` as plug-ins, all in
the same way and with the same seeds. It prints MACs, parameters and accuracy of each
step, and the difference from the first step, seed by seed. Finished runs are not
repeated, so the same command continues an interrupted comparison.

With --fork, all steps start from the same weights, the trained weights of the first
step, and see the same batches. The differences are then paired by these weights.
"""
import argparse
import statistics
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS

from autonl_mm.experiments import trials
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.paired import comparison_table, detectable_difference
from autonl_mm.measure.counting import built_macs, count_parameters
from autonl_mm.models import input_channels
from autonl_mm.models.layers import LightNL
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import load_checkpoint, weights_of
from autonl_mm.runs.digest import digest
from autonl_mm.runs.scalars import read_scalars

TOOLS = Path(__file__).resolve().parents[1]
# Differences of at most so many points are no difference.
MARGIN = 0.3
# Seed of the first order of the data after a fork; no base was trained with it.
FIRST_ORDER = 1000


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='config with ``steps``, lists of plug-ins by name')
    trials.add_args(parser, 'comparison')
    parser.add_argument(
        '--steps', nargs='+', metavar='NAME',
        help='steps to train; default: all steps of the config')
    parser.add_argument(
        '--control', metavar='NAME',
        help='step that all steps are compared with, beside the first one')
    parser.add_argument(
        '--fork', nargs='+', type=Path, default=[], metavar='CHECKPOINT',
        help='checkpoints of the first step; all steps start from each of them, with '
        '--seeds orders of the data, which are averaged')
    configs.add_input_shape(
        parser, (32, 32), 'image size for the MACs; default 32')
    parser.add_argument(
        '--no-train',
        action='store_true',
        help='print MACs and parameters without training')
    return parser.parse_args()


def with_step(cfg, name):
    """The config with one of its steps as the backbone's plug-ins."""
    cfg = Config(cfg.to_dict())
    cfg.model.backbone.plugins = cfg.pop('steps')[name]
    return cfg


def check_fork(path, name, model):
    """Check that a checkpoint has exactly the weights of the first step.

    Args:
        path (Path): The checkpoint.
        name (str): The step.
        model (nn.Module): Its network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has other weights; names one.
    """
    if not path.is_file():
        raise FileNotFoundError(f'--fork: {path} does not exist')
    found = {k: v.shape for k, v in weights_of(load_checkpoint(path), path).items()}
    expected = {k: v.shape for k, v in model.state_dict().items()}
    wrong = sorted({k for k, _ in found.items() ^ expected.items()})
    if wrong:
        shapes = [tuple(s[wrong[0]]) if wrong[0] in s else 'no such weight'
                  for s in (found, expected)]
        raise ValueError(
            f'--fork: {wrong[0]} in {path} is {shapes[0]}, expected {shapes[1]}, as in '
            f'the network of the step {name!r}, the first one')


def read_scores(out):
    """The usual metric of a run's last evaluation, and the NLL if it was evaluated."""
    _, evaluation, _ = read_scalars(out)
    return dict(trials.last_evaluation(out), nll=evaluation[-1].get('nll/mean'))


def trial_of(name, seed, args, fork=None, base=''):
    """The training of a step with a seed, from scratch or from a checkpoint.

    Args:
        name (str): The step.
        seed (int): The seed; with a checkpoint, the index of the data's order.
        args (Namespace): The tool's arguments.
        fork (Path, optional): The checkpoint. Defaults to None.
        base (str): Its digest. Defaults to ''.
    """
    run, key, files = f'{name}-seed{seed}', dict(step=name, seed=seed), {}
    if fork:
        run = f'{name}-base{base}-order{seed}'
        key['base'] = base
        files = dict(load_from=fork)
        seed += FIRST_ORDER
    return trials.Trial(
        args.work_dir / f'{name}.py', args.work_dir / run, key,
        {**args.cfg_options, 'randomness.seed': seed}, files, read=read_scores)


def costs(model, input_shape):
    """Parameters of a network, and its MACs in two ways.

    Args:
        model (nn.Module): The network.
        input_shape (tuple[int, int]): Height and width of the image.

    Returns:
        dict[str, int]: ``parameters``; ``macs``, with the products of LightNL
        in the cheaper order; ``affinity``, MACs with all affinities formed.
    """
    row = dict(parameters=count_parameters(model))
    row['macs'] = built_macs(model, input_channels(model), *input_shape)
    for module in model.modules():
        if isinstance(module, LightNL):
            module.order = 'spatial'
    row['affinity'] = built_macs(model, input_channels(model), *input_shape)
    return row


def mean_scores(done, score, unit, names):
    """Scores of each step by unit, means over all runs of the unit.

    Args:
        done (list[dict]): Results of all runs.
        score (str): ``'value'`` or ``'nll'``.
        unit (str): Key of the results that pairs runs, ``'base'`` or ``'seed'``.
        names (Iterable[str]): The steps.
    """
    units = list(dict.fromkeys(r[unit] for r in done))
    return {spaced(name): [
        statistics.mean(r[score] for r in done if r['step'] == name and r[unit] == u)
        for u in units] for name in names}


def spaced(name):
    return name.replace('_', ' ')


def tables(rows, done, unit, control=None):
    """The comparison as Markdown.

    Args:
        rows (dict[str, dict]): For each step what :func:`costs` returns; the
            first step is the network that all other steps are compared with.
        done (list[dict]): Results of all runs; empty if nothing was trained.
        unit (str): As for :func:`mean_scores`.
        control (str, optional): Another step that all are compared with. Defaults to
            None.
    """
    first, base = next(iter(rows.items()))
    references = [spaced(name) for name in dict.fromkeys((first, control)) if name]
    values = mean_scores(done, 'value', unit, rows)
    columns = {f'MACs added, {title}': [
        f'{(row[key] - base[key]) / 1e6:.3f} M' for row in rows.values()]
        for title, key in (('affinity formed', 'affinity'), ('cheaper order', 'macs'))}
    columns['parameters added'] = [
        f'{row["parameters"] - base["parameters"]:,}' for row in rows.values()]
    text = comparison_table(
        'step', values, unit, references, columns, margin=MARGIN)
    if done and all(r.get('nll') is not None for r in done):
        nll = mean_scores(done, 'nll', unit, rows)
        text = (comparison_table('NLL', nll, unit, references, digits=4)
                + f'\n\n{text}')
    text += (f'\n\n{spaced(first)}: {base["macs"] / 1e6:.2f} M MACs, '
             f'{base["parameters"]:,} parameters, without the classifier')
    if len(values[spaced(first)]) > 1 and len(rows) > 1:
        text += ('; detectable difference '
                 f'{detectable_difference(values, spaced(first)):.2f}; equal: within '
                 f'± {MARGIN}')
    return text


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
        configs.enter_scope(cfg)
        for name in args.steps or []:
            if name not in cfg.steps:
                raise ValueError(f'--steps has {name!r}, expected some of '
                                 f'{", ".join(cfg.steps)}')
        variants = {name: with_step(cfg, name) for name in args.steps or cfg.steps}
        first = next(iter(variants))
        if args.control and args.control not in variants:
            raise ValueError(f'--control is {args.control!r}, expected one of '
                             f'{", ".join(variants)}')
        models = {name: MODELS.build(v.model) for name, v in variants.items()}
        for path in args.fork:
            check_fork(path, first, models[first])
        bases = {digest(path)[:8]: path for path in args.fork}
        rows = {name: costs(model.backbone, input_shape)
                for name, model in models.items()}
        outputs.check_folder('--work-dir', args.work_dir)
        done, last = [], ''
        if not args.no_train:
            where = Cluster(args.cluster, args.cluster_options)
            runs = [trial_of(name, seed, args, fork, base)
                    for base, fork in bases.items() or [('', None)]
                    for seed in range(args.seeds) for name in variants]
            for name, variant in variants.items():
                variant.dump(args.work_dir / f'{name}.py')
            done = trials.train_all(TOOLS / 'train.py', runs, args.jobs, where)
            last = '; ' + trials.summary(done, args.jobs)
    except (FileNotFoundError, ValueError, RuntimeError) as e:
        sys.exit(f'compare_steps.py: {e}')
    text = tables(rows, done, 'base' if args.fork else 'seed', args.control) + last
    atomic_write(args.work_dir / f'{args.report}.md', text + '\n')
    print('\n' + text)


if __name__ == '__main__':
    main()
