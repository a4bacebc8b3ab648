# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Choose the best subnets of a trained supernet, for any costs.

For each target, candidates run with the supernet's weights: random subnets of its cost,
then subnets evolved from the best candidates. They run on held-out images, or on
training images if the search holds out none. The candidate with the lowest loss is
chosen. With --finalists the best candidates are trained from scratch for a short time,
and a linear fit to the training losses decides. For each chosen subnet the tool writes
notation, inherited weights and a config for retraining. Losses are kept: after an
interruption the same command continues.
"""
import argparse
import json
import os.path as osp
import sys
from pathlib import Path

import matplotlib
from mmengine.config import DictAction
from mmengine.dist import get_world_size, is_main_process

import autonl_mm  # noqa: F401
from autonl_mm.cost import LatencyTable, MacsModel, ParamsModel
from autonl_mm.experiments import cluster
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.finalists import Finalists, train_shortly, write_finalists
from autonl_mm.experiments.pareto import pareto_record
from autonl_mm.experiments.ranking import rank_correlations
from autonl_mm.nas.search_configs import (
    open_search,
    selection_options,
    write_subnet,
)
from autonl_mm.nas.selection.choosing import TOLERANCE, best_finalist, choose, make_goal
from autonl_mm.nas.selection.evolution import mean_loss, nan_last
from autonl_mm.nas.selection.loss_cache import LossCache
from autonl_mm.nas.selection.proxy_loss import FixedBatches
from autonl_mm.runs import exit_codes, launch, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.runs.dataset_configs import check_data
from autonl_mm.runs.digest import config_digest, digest
from autonl_mm.runs.tables import markdown_table

matplotlib.use('Agg')
import matplotlib.pyplot as plt

COSTS = ('macs', 'params', 'latency')
# Costs over the range for which candidates are tried, for the front
FRONT_LEVELS = 8
TRAIN = Path(__file__).resolve().parent / 'train.py'


def maximum(text):
    """A limit: ``NAME=NUMBER``."""
    name, _, number = text.partition('=')
    try:
        value = float(number)
    except ValueError:
        value = 0
    if name not in COSTS or not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(
            f'{text!r}, expected NAME=NUMBER with one of {", ".join(COSTS)} and a '
            'positive number')
    return name, value


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_args(parser)
    parser.add_argument('checkpoint', help='checkpoint of the search')
    parser.add_argument(
        '--out', required=True, type=Path, help='folder for the results')
    parser.add_argument(
        '--targets', nargs='+', type=float, default=[], metavar='COST',
        help=f'target costs, each met within {100 * TOLERANCE:g}%%')
    parser.add_argument(
        '--cost', choices=COSTS,
        help="cost of the targets; default: the config's cost")
    parser.add_argument(
        '--max', action='append', type=maximum, default=[], metavar='NAME=NUMBER',
        help='upper limit of macs, params or latency (milliseconds); repeat the option '
        'for further limits, with or without targets')
    parser.add_argument(
        '--latency', metavar='TABLE',
        help="latency table of measure_latency.py; default: the config's table")
    parser.add_argument(
        '--pareto', action='store_true',
        help='try candidates over the whole range of costs too, and write all '
        'candidates to pareto.json and pareto.png')
    parser.add_argument(
        '--candidates', type=int,
        help="candidates for each target; default: the config's number")
    parser.add_argument(
        '--num-samples', type=int,
        help="images to try candidates on; default: the config's number")
    parser.add_argument(
        '--recalibrate', type=int, default=1024,
        help="training images to measure BN's statistics of a chosen subnet; default: "
        '%(default)s')
    parser.add_argument(
        '--finalists', nargs='+', type=int, metavar='NUMBER',
        help='top candidates per goal, without near duplicates, to train from scratch '
        "with the config's retrain_base and --short-training; a linear fit to the "
        'training losses chooses among them. More numbers: further rounds, with the '
        'subnets of the lowest losses predicted by the fit so far')
    parser.add_argument(
        '--short-training', nargs='+', action=DictAction, default={},
        metavar='KEY=VALUE',
        help='settings that make the trainings of finalists short; finalists are not '
        'evaluated')
    cluster.add_args(parser)
    parser.add_argument(
        '--seed', type=int, default=0,
        help='seed of the candidates, and of the images if the config has none')
    return parser.parse_args()


def candidate_options(args, cfg):
    """Options of the selection that replace the config's.

    Args:
        args (Namespace): Arguments of the tool.
        cfg (Config): The config.

    Raises:
        ValueError: If an option is out of range.
    """
    for name in ('candidates', 'num_samples', 'recalibrate'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f'--{name.replace("_", "-")} is {value}, expected at '
                             'least 1')
    options = {name: getattr(args, name) for name in ('candidates', 'num_samples')
               if getattr(args, name) is not None}
    if not options.get('candidates', selection_options(cfg).get('candidates', 1)):
        raise ValueError('the config tries no candidates: give --candidates')
    return options


def cost_models(args, cfg):
    """The cost models by name, and the name of the targets' cost.

    Args:
        args (Namespace): Arguments of the tool.
        cfg (Config): The config.

    Raises:
        FileNotFoundError: If there is no such latency table.
        ValueError: If there is nothing to choose for, or latency is asked for without
            a table.
    """
    if not args.targets and not args.max and not args.pareto:
        raise ValueError('nothing to choose for: give --targets, --max or --pareto')
    if len(dict(args.max)) < len(args.max):
        raise ValueError('--max limits a cost twice: give each once')
    own = cfg.model.get('cost', 'macs')
    table = args.latency or (own if own != 'macs' else None)
    models = dict(macs=MacsModel(), params=ParamsModel())
    if table:
        models['latency'] = LatencyTable.from_file(table)
    cost = args.cost or ('macs' if own == 'macs' else 'latency')
    if 'latency' in (cost, *dict(args.max)) and not table:
        raise ValueError('a latency needs --latency TABLE: measure it with '
                         'tools/analysis_tools/measure_latency.py')
    return models, cost


def make_goals(args, tables, cost):
    """The goals of targets and limits, and further goals over the range of costs.

    Args:
        args (Namespace): Arguments of the tool.
        tables (dict[str, CostTable]): The costs by name.
        cost (str): Name of the targets' cost.

    Returns:
        tuple[list[Goal], list[Goal]]: The goals to choose for, and the goals for the
        front.

    Raises:
        ValueError: If no subnet of the space can meet a goal, or two targets have the
            same name.
    """
    maxima = dict(args.max)
    goals = [make_goal(tables, maxima, cost, target) for target in args.targets]
    if maxima and not args.targets:
        goals.append(make_goal(tables, maxima))
    names = [goal.name for goal in goals]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'--targets has {name} twice, as its folder is called: '
                             'give each once')
    levels = tables[cost].levels(FRONT_LEVELS) if args.pareto else []
    return goals, [make_goal(tables, {}, cost, level) for level in levels]


def place_of_finalists(args):
    """The cluster for trainings of finalists; None if there are no finalists.

    Args:
        args (Namespace): Arguments of the tool.

    Raises:
        ValueError: If options do not go together.
    """
    if args.finalists is None:
        if args.short_training:
            raise ValueError('--short-training is for finalists: give --finalists')
        return None
    if min(args.finalists) < 2 or args.jobs < 1:
        raise ValueError(f'--finalists is {min(args.finalists)} and --jobs '
                         f'{args.jobs}, expected at least 2 and 1')
    if not args.short_training:
        raise ValueError('--finalists needs --short-training, such as '
                         'train_cfg.max_epochs=1 param_scheduler.total_steps=1')
    if args.launcher != 'none':
        raise ValueError('--finalists starts separate trainings: run without '
                         '--launcher, and set --jobs and --cluster')
    return Cluster(args.cluster, args.cluster_options)


def choose_finalists(goals, space, cache, cfg, args, where):
    """Train the finalists of all goals round by round, and choose among them.

    Args:
        goals (list[Goal]): The goals.
        space (SearchSpace): The space.
        cache (LossCache): The losses with the supernet's weights.
        cfg (Config): The config of the search.
        args (Namespace): Arguments of the tool.
        where (Cluster): Where the trainings run.

    Returns:
        list[Subnet]: The best finalist of each goal.
    """
    finalists = Finalists(space, cache, lambda subnets: train_shortly(
        TRAIN, cfg.retrain_base, [space.arch(subnet) for subnet in subnets], args.seed,
        args.out / 'finalists', args.short_training, args.jobs, where), args.seed)
    for number, count in enumerate(args.finalists):
        for goal in goals:
            losses = finalists.train_more(goal, count)
            order = sorted(losses, key=nan_last)
            if losses:
                print(f'{goal.name}: {len(losses)} {"more " * bool(number)}finalists, '
                      f'training losses of {order[0]:.4f} to {order[-1]:.4f}'
                      + (f"; the supernet's best has {losses[0]:.4f}"
                         if not number else ''), flush=True)
        predictor = finalists.fit()
        if len(predictor.left_out) > 2:
            tau, _ = rank_correlations(*zip(*predictor.left_out))
            print(f'a fit to {len(predictor.left_out)} training losses predicts each '
                  f'from all others with tau {tau}', flush=True)
    write_finalists(args.out / 'finalists.json', finalists.trained, predictor, space)
    best = []
    for name, group in finalists.trained.items():
        subnet, loss = best_finalist(group, predictor, space)
        best.append(subnet)
        place = 1 + sum(other < loss for _, other in group)
        print(f'{name}: the fit chooses the finalist with the loss {loss:.4f}, number '
              f'{place} of {len(group)}', flush=True)
    return best


def table(rows, names):
    """The chosen subnets as Markdown.

    Args:
        rows (list[dict]): The subnets.
        names (list[str]): The costs.
    """
    return markdown_table(['for', *names, 'loss', 'blocks', 'folder'], [
        [row['goal'], *(f'{row[name]:,.6g}' for name in names), f'{row["loss"]:.4f}',
         len(row['arch']), row['folder']] for row in rows])


def plot_front(record, chosen, path):
    """All candidates by cost and loss, with the front.

    Args:
        record (dict): From :func:`pareto_record`.
        chosen (list[dict]): The subnets that were chosen for a goal.
        path (Path): The file.
    """
    cost, rows = record['cost'], record['candidates']
    front = sorted((r for r in rows if r['on_front']), key=lambda r: r[cost])
    divisor, unit = ((1, 'ms') if cost == 'latency' else
                     (1e6, f'M {record["unit"]}'))
    figure, ax = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for label, some, style in (
            ('tried on a part of the images',
             [r for r in rows if r['batches'] < record['batches']],
             dict(color='#c8d3de', s=8)),
            ('tried on all images',
             [r for r in rows if r['batches'] == record['batches']],
             dict(color='#6b8fb3', s=14)),
            ('chosen', chosen, dict(color='#c0392b', s=60, marker='*', zorder=3))):
        if some:
            ax.scatter([r[cost] / divisor for r in some], [r['loss'] for r in some],
                       label=f'{label} ({len(some)})', **style)
    ax.plot([r[cost] / divisor for r in front], [r['loss'] for r in front],
            color='#1f4e79', label=f'front ({len(front)})')
    ax.set(xlabel=unit, ylabel="loss with the supernet's weights")
    figure.legend(loc='outside lower center', ncols=2)
    outputs.save_figure(figure, path)
    plt.close(figure)


def run(args):
    """Choose and write."""
    outputs.check_folder('--out', args.out)
    where = place_of_finalists(args)
    args.work_dir = args.work_dir or str(args.out / 'log')
    cfg = launch.load_config(args)
    if not osp.isfile(args.checkpoint):
        raise FileNotFoundError(f'checkpoint {args.checkpoint!r} does not exist')
    check_data(cfg, ['train_dataloader', 'val_dataloader'])
    if (cfg.get('randomness') or {}).get('seed') is None:
        # the images must be the same after an interruption
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    models, cost = cost_models(args, cfg)
    if where and not cfg.get('retrain_base'):
        raise ValueError(f'--finalists needs a retrain_base in {args.config}, the '
                         'config of their trainings')
    options = candidate_options(args, cfg)
    runner, model, selection = open_search(
        cfg, args.checkpoint, args.work_dir, **options)
    supernet, space = model.supernet, model.supernet.space
    tables = {name: supernet.table_of(own) for name, own in models.items()}
    goals, levels = make_goals(args, tables, cost)
    proxy = selection.proxy_loss(runner, model)
    print_once(f'choosing: {selection.candidates} candidates for each of '
               f'{len(goals + levels)} costs, seed {args.seed}, on '
               f'{proxy.describe_images()}')
    kind = 'held out' if proxy.held_out else 'training'
    cache = LossCache(args.out / 'losses.json', proxy.losses, dict(
        checkpoint=digest(Path(args.checkpoint))[:16], seed=proxy.seed,
        ranks=get_world_size(),
        batches=proxy.num_batches, batch_size=proxy.batches.batch_size,
        images=f'{kind}, {proxy.batches.fingerprint()[:16]}',
        config=config_digest(cfg)[:16]), proxy.images, space)
    # another shuffle of the training images; not kept in memory
    for_bn = FixedBatches(
        runner, runner.train_dataloader.dataset, args.recalibrate, 0, proxy.seed + 1)

    chosen = []
    for goal in goals + levels:
        subnet, _, loss = choose(goal, space, cache.losses, proxy.images,
                                 selection.candidates, args.seed)
        print_once(f'{goal.name}: the lowest loss of the candidates is {loss:.4f}')
        chosen.append((subnet, loss))
    if where:
        best = choose_finalists(goals, space, cache, cfg, args, where)
        # A finalist may have been tried on a part of the batches, or not at all. Its
        # loss is not cached: the same command must find the same finalists.
        chosen = [(subnet, mean_loss(losses, proxy.images)) for subnet, losses in zip(
            best, proxy.losses(best, 0, proxy.num_batches))]
    rows = []
    for goal, (subnet, loss) in zip(goals, chosen):
        folder = args.out / goal.name
        row = dict({name: t.cost_of(subnet) for name, t in tables.items()},
                   goal=goal.name, loss=loss, folder=str(folder),
                   arch=space.arch(subnet).to_text().splitlines())
        print_once(f'{goal.name}: loss {loss:.4f}, ' + ', '.join(
            f'{row[name]:,.6g} {t.unit}' for name, t in tables.items()))
        write_subnet(folder, cfg, model, proxy, for_bn, subnet)
        rows.append(row)
    if not is_main_process():
        return
    atomic_write(args.out / 'chosen.json', json.dumps(rows, indent=1))
    if rows:
        text = table(rows, list(tables))
        atomic_write(args.out / 'chosen.md', text + '\n')
        print('\n' + text)
    if args.pareto:
        record = pareto_record(cache, tables, space, cost)
        atomic_write(args.out / 'pareto.json', json.dumps(record, indent=1))
        plot_front(record, rows, args.out / 'pareto.png')
        print(f'{args.out / "pareto.json"}, {args.out / "pareto.png"}: all candidates')


def print_once(text):
    """Print on the first rank."""
    if is_main_process():
        print(text, flush=True)


def main():
    args = parse_args()
    with exit_codes.exit_on_error('choose_arch.py'):
        try:
            run(args)
        except (FileNotFoundError, ImportError, RuntimeError, ValueError,
                BrokenCheckpointError, UnsafeCheckpointError) as e:
            sys.exit(f'choose_arch.py: {e}')


if __name__ == '__main__':
    main()
