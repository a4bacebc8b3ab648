# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Choose the best networks of a trained supernet, for any costs.

For each target, random networks of its cost and then networks evolved from the best of
them run with the supernet's weights, on the images that the search held out (training
images if it held out none), and the one of the lowest loss is chosen. With --finalists
the best of them are trained from scratch for a short time, then those that a fit to
these losses predicts to be better, and the fit to all of them decides. Writes of each
notation, inherited weights, and a config for retraining. What was tried is kept: after
an interruption the same command goes on.
"""
import argparse
import json
import os.path as osp
import sys
from pathlib import Path

import matplotlib
from mmengine.config import DictAction
from mmengine.dist import get_world_size, is_main_process
from mmengine.runner import save_checkpoint

import autonl_mm  # noqa: F401
from autonl_mm.cost import LatencyTable, MacsModel, ParamsModel
from autonl_mm.experiments import cluster, trials
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.finalists import fit, write_finalists
from autonl_mm.experiments.random_subnets import trial_of
from autonl_mm.experiments.ranking import rank_correlations
from autonl_mm.nas.search_configs import (
    open_search,
    search_options,
    write_retrain_config,
)
from autonl_mm.nas.selection.choosing import (
    best_finalist,
    choose,
    finalists,
    make_goal,
    more_finalists,
    pareto_front,
)
from autonl_mm.nas.selection.evolution import nan_last
from autonl_mm.nas.selection.loss_cache import LossCache
from autonl_mm.nas.selection.proxy_loss import FixedBatches
from autonl_mm.nas.training.cost_aware_model import TOLERANCE
from autonl_mm.nas.training.search_hook import describe_images
from autonl_mm.runs import exit_codes, launch, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.runs.dataset_configs import check_data
from autonl_mm.runs.digest import digest

matplotlib.use('Agg')
import matplotlib.pyplot as plt

COSTS = ('macs', 'params', 'latency')
# Costs over the range for which networks are tried, for the front
FRONT_LEVELS = 8
TRAIN = Path(__file__).resolve().parent / 'train.py'
# Iterations between records of a finalist's loss, each the mean of so many
LOG_INTERVAL = 10
# Epoch or iteration from which a finalist is evaluated
NEVER = 10**9


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
        help=f'costs to be met within {100 * TOLERANCE:g}%%')
    parser.add_argument(
        '--cost', choices=COSTS,
        help="what targets are; default: the config's cost")
    parser.add_argument(
        '--max', action='append', type=maximum, default=[], metavar='NAME=NUMBER',
        help='a limit of macs, params or latency (milliseconds); may be given several '
        'times, with or without targets')
    parser.add_argument(
        '--latency', metavar='TABLE',
        help="what measure_latency.py wrote; default: the config's cost")
    parser.add_argument(
        '--pareto', action='store_true',
        help='try networks over the whole range too, and write pareto.json and '
        'pareto.png with every network that was tried')
    parser.add_argument(
        '--candidates', type=int,
        help='networks to try for each target; default: those of the config')
    parser.add_argument(
        '--num-samples', type=int,
        help='images to try them on; default: those of the config')
    parser.add_argument(
        '--recalibrate', type=int, default=1024,
        help="training images on which BN's statistics of a network that is written "
        'are measured; default: %(default)s')
    parser.add_argument(
        '--finalists', nargs='+', type=int, metavar='NUMBER',
        help='train so many of the best networks of each goal, without near twins, '
        "from scratch with the config's retrain_base and --short-training, and choose "
        'by a linear fit to the training losses. Further numbers are further rounds: '
        'so many more for each goal, those for which the fit so far predicts the '
        'lowest loss')
    parser.add_argument(
        '--short-training', nargs='+', action=DictAction, default={},
        metavar='KEY=VALUE',
        help='settings that make the training of finalists short; they are not '
        'evaluated')
    cluster.add_args(parser)
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of the candidates, and of the images if the config has no seed')
    return parser.parse_args()


def hook_options(args, cfg):
    """Options of the search's hook in place of the config's.

    Args:
        args (Namespace): Arguments of the tool.
        cfg (Config): The config.

    Raises:
        ValueError: If one is out of range.
    """
    for name in ('candidates', 'num_samples', 'recalibrate'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f'--{name.replace("_", "-")} is {value}, expected at '
                             'least 1')
    options = {name: getattr(args, name) for name in ('candidates', 'num_samples')
               if getattr(args, name) is not None}
    if not options.get('candidates', search_options(cfg).get('candidates', 1)):
        raise ValueError('the config tries no candidates: give --candidates')
    return options


def cost_models(args, cfg):
    """The cost models by name, and which one targets are in.

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


def place_of_finalists(args):
    """Where finalists are trained; None if there are none.

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
        raise ValueError('--finalists starts trainings of its own: run without '
                         '--launcher; --jobs and --cluster say how many at a time, and '
                         'where')
    return Cluster(args.cluster, args.cluster_options)


def train_finalists(networks, space, cfg, args, where):
    """Train networks from scratch for a short time.

    Args:
        networks (list): Subnet of each.
        space (SearchSpace): The space.
        cfg (Config): The config of the search.
        args (Namespace): Arguments of the tool.
        where (Cluster): Where they are trained.

    Returns:
        list[float]: Training loss of each.
    """
    options = {
        'default_hooks.logger.interval': LOG_INTERVAL,
        # whatever the interval, the last epoch would be evaluated
        'train_cfg.val_begin': NEVER,
        **args.short_training,
    }
    runs = [trial_of(cfg.retrain_base, space.arch(choices), args.seed,
                     args.out / 'finalists', options, read=trials.training_loss)
            for choices in networks]
    done = trials.train_all(TRAIN, runs, args.jobs, where)
    return [result['value'] for result in done]


def train_rounds(goals, tables, tried, space, cfg, args, where):
    """Train the finalists of all goals, round by round.

    Args:
        goals (list[Goal]): The goals.
        tables (dict[str, CostTable]): The costs.
        tried (LossCache): The losses with the supernet's weights.
        space (SearchSpace): The space.
        cfg (Config): The config of the search.
        args (Namespace): Arguments of the tool.
        where (Cluster): Where they are trained.

    Returns:
        list[list[tuple[int, ...]]]: By goal the best network.
    """
    trained, predictor = {goal.name: [] for goal in goals}, None
    for number, count in enumerate(args.finalists):
        for goal in goals:
            group = trained[goal.name]
            if number:
                networks = more_finalists(
                    goal, tables, predictor, [choices for choices, _ in group], count,
                    args.seed, space.specs)
            else:
                networks = finalists(goal, tables, tried, count, space.specs)
            losses = train_finalists(networks, space, cfg, args, where)
            order = sorted(losses, key=nan_last)
            if losses:
                print(f'{goal.name}: {len(losses)} {"more " * bool(number)}finalists, '
                      f'training losses of {order[0]:.4f} to {order[-1]:.4f}'
                      + (f"; the supernet's best has {losses[0]:.4f}"
                         if not number else ''), flush=True)
            group += zip(networks, losses)
        predictor = fit(list(trained.values()), space)
        if len(predictor.left_out) > 2:
            tau, _ = rank_correlations(*zip(*predictor.left_out))
            print(f'a fit to {len(predictor.left_out)} training losses predicts each '
                  f'from the others with tau {tau}', flush=True)
    write_finalists(args.out / 'finalists.json', trained, predictor, space)
    best = []
    for name, group in trained.items():
        choices, loss = best_finalist(group, predictor, space.specs)
        best.append(choices)
        place = 1 + sum(other < loss for _, other in group)
        print(f'{name}: the fit chooses the finalist with the loss {loss:.4f}, number '
              f'{place} of {len(group)}', flush=True)
    return best


def write_network(folder, cfg, hook, proxy, batches, choices):
    """Write notation, inherited weights and config of a network.

    Args:
        folder (Path): Where to.
        cfg (Config): The config of the search.
        hook (SearchHook): With the model.
        proxy (ProxyLoss): Of the search.
        batches (FixedBatches): On which the statistics of its BN are measured.
        choices (list[tuple[int, ...]]): The network.
    """
    arch = hook.supernet.space.arch(choices)
    with hook.model.network(choices):
        proxy.recalibrate(batches)
        state = {name: value.detach().cpu().clone()
                 for name, value in hook.model.model.state_dict().items()}
    if not is_main_process():
        return
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / 'arch.txt', arch.to_text())
    save_checkpoint(dict(meta=dict(), state_dict=state), str(folder / 'subnet.pth'))
    if cfg.get('retrain_base'):
        write_retrain_config(folder / 'retrain.py', cfg.retrain_base, arch)


def table(rows, names):
    """The chosen networks as Markdown.

    Args:
        rows (list[dict]): The networks.
        names (list[str]): The costs.
    """
    lines = ['| for | ' + ' | '.join(names) + ' | loss | blocks | folder |',
             '|---' * (len(names) + 4) + '|']
    lines += [
        '| ' + ' | '.join([row['goal'], *(f'{row[name]:,.6g}' for name in names),
                           f'{row["loss"]:.4f}', str(len(row['arch'])),
                           row['folder']]) + ' |' for row in rows]
    return '\n'.join(lines)


def write_front(out, tried, tables, space, cost, batches, chosen):
    """Every network that was tried, and the front of those tried on all batches.

    Args:
        out (Path): The folder.
        tried (LossCache): The networks.
        tables (dict[str, CostTable]): The costs.
        space (SearchSpace): The space.
        cost (str): Name of the cost of the front.
        batches (int): Number of batches.
        chosen (list[dict]): The networks that were chosen for a goal.
    """
    rows = [
        dict({name: t.cost_of(choices) for name, t in tables.items()},
             loss=sum(losses) / len(losses), batches=len(losses), on_front=False,
             arch=space.arch(choices).to_text().splitlines())
        for choices, losses in tried if losses]
    whole = [row for row in rows if row['batches'] == batches]
    front = [whole[i] for i in pareto_front([r[cost] for r in whole],
                                            [r['loss'] for r in whole])]
    for row in front:
        row['on_front'] = True
    record = dict(cost=cost, unit=tables[cost].unit, batches=batches, networks=rows)
    atomic_write(out / 'pareto.json', json.dumps(record, indent=1))

    figure, ax = plt.subplots(figsize=(7, 4.5), layout='constrained')
    divisor, unit = (1, 'ms') if cost == 'latency' else (1e6, f'M {tables[cost].unit}')
    for label, some, style in (
            ('tried on a part of the images', [r for r in rows if r not in whole],
             dict(color='#c8d3de', s=8)),
            ('tried on all', whole, dict(color='#6b8fb3', s=14)),
            ('chosen', chosen, dict(color='#c0392b', s=60, marker='*', zorder=3))):
        if some:
            ax.scatter([r[cost] / divisor for r in some], [r['loss'] for r in some],
                       label=f'{label} ({len(some)})', **style)
    ax.plot([r[cost] / divisor for r in front], [r['loss'] for r in front],
            color='#1f4e79', label=f'front ({len(front)})')
    ax.set(xlabel=unit, ylabel="loss with the supernet's weights")
    figure.legend(loc='outside lower center', ncols=2)
    outputs.save_figure(figure, out / 'pareto.png')
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
        # which images are tried must be the same after an interruption
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=args.seed)
    models, cost = cost_models(args, cfg)
    if where and not cfg.get('retrain_base'):
        raise ValueError(f'--finalists: {args.config} has no retrain_base, with which '
                         'they are trained')
    options = hook_options(args, cfg)
    runner, hook = open_search(cfg, args.checkpoint, args.work_dir, **options)
    supernet, space = hook.supernet, hook.supernet.space
    tables = {name: supernet.table_of(model) for name, model in models.items()}
    maxima = dict(args.max)
    goals = [make_goal(tables, maxima, cost, target, TOLERANCE)
             for target in args.targets]
    if maxima and not args.targets:
        goals.append(make_goal(tables, maxima))
    names = [goal.name for goal in goals]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'--targets has {name} twice, as its folder is called: '
                             'give each once')
    wanted = len(goals)
    if args.pareto:
        goals += [make_goal(tables, maxima, cost, level, TOLERANCE)
                  for level in tables[cost].levels(FRONT_LEVELS)]

    proxy = hook.proxy_loss(runner)
    print_once(f'choosing: {hook.candidates} networks for each of {len(goals)} costs, '
               f'seed {args.seed}, on {describe_images(proxy)}')
    tried = LossCache(args.out / 'tried.json', proxy.losses, dict(
        checkpoint=digest(Path(args.checkpoint))[:16],
        seed=runner.seed, ranks=get_world_size(),
        batches=proxy.num_batches, batch_size=proxy.tried.batch_size,
        images='held out' if proxy.held_out else 'training'), space)
    # other images than those that are tried, if there are enough; not kept in memory
    measured_on = FixedBatches(
        runner, runner.train_dataloader.dataset, args.recalibrate, 0, runner.seed + 1)

    chosen = []
    for goal in goals:
        choices, loss = choose(
            goal, tables, tried, proxy.num_batches, hook.candidates, args.seed,
            space.specs)
        print_once(f'{goal.name}: the lowest loss of those tried is {loss:.4f}')
        chosen.append((choices, loss))
    if where:
        best = train_rounds(
            goals[:wanted], tables, tried, space, cfg, args, where)
        for number, choices in enumerate(best):
            # It may have been tried on a part of the batches, or not at all. What is
            # tried now is not kept: the same command must find the same finalists.
            losses, = proxy.losses([choices], 0, proxy.num_batches)
            chosen[number] = choices, sum(losses) / len(losses)
    rows = []
    for number, (goal, (choices, loss)) in enumerate(zip(goals, chosen)):
        row = dict({name: t.cost_of(choices) for name, t in tables.items()},
                   goal=goal.name, loss=loss,
                   arch=space.arch(choices).to_text().splitlines())
        print_once(f'{goal.name}: loss {loss:.4f}, ' + ', '.join(
            f'{row[name]:,.6g} {t.unit}' for name, t in tables.items()))
        if number < wanted:
            row['folder'] = str(args.out / goal.name)
            write_network(
                args.out / goal.name, cfg, hook, proxy, measured_on, choices)
            rows.append(row)
    if not is_main_process():
        return
    atomic_write(args.out / 'choices.json', json.dumps(rows, indent=1))
    if rows:
        text = table(rows, list(tables))
        atomic_write(args.out / 'choices.md', text + '\n')
        print('\n' + text)
    if args.pareto:
        write_front(args.out, tried, tables, space, cost, proxy.num_batches, rows)
        print(f'{args.out / "pareto.json"}, {args.out / "pareto.png"}: every network '
              'that was tried')


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
