# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure how well a supernet ranks networks that share its weights.

The tool samples random subnets of the search space, at one cost and over the whole
range of costs, and trains each network from scratch. It compares the ranks of their
accuracies with the ranks of their losses with the supernet's weights: Kendall's tau and
Spearman's rho with 95% bootstrap intervals. Larger networks are better, so over a range
of costs the count of MACs alone ranks well. The correlation of MACs is printed too, and
with --finalists the correlation of the fit by which choose_arch.py decides. With
--against two supernets are compared, paired by network. Finished runs, also of
compare_random.py in the same work dir, are not repeated.
"""
import argparse
import json
import random
import statistics
import sys
from pathlib import Path

import matplotlib
import torch
from mmengine.config import Config

from autonl_mm.arch import ArchSpec
from autonl_mm.cost import count_macs
from autonl_mm.experiments import trials
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.finalists import fit_to_others
from autonl_mm.experiments.random_subnets import TRIES, random_subnet, trial_of
from autonl_mm.experiments.ranking import (
    describe_ranks,
    rank_correlations,
    tau_difference,
)
from autonl_mm.experiments.supernet_losses import supernet_losses
from autonl_mm.nas.search_configs import build_supernet
from autonl_mm.runs import outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.runs.tables import markdown_table
from autonl_mm.runs.text_files import check_json, read_json

matplotlib.use('Agg')
import matplotlib.pyplot as plt

TOOLS = Path(__file__).resolve().parents[1]
SETS = {'cost': 'one cost', 'range': 'the range of costs'}
INIT = 'init'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the search')
    parser.add_argument(
        'checkpoint',
        help=f'checkpoint of the search, or {INIT}: the weights with which it starts')
    trials.add_args(parser, 'rank_correlation')
    parser.set_defaults(seeds=1)
    parser.add_argument(
        '--num-networks', type=int, default=16,
        help='number of networks at one cost, and over the range; default 16')
    parser.add_argument(
        '--target', type=float,
        help="the one cost in MACs; default: the config's target")
    parser.add_argument(
        '--arch',
        help='notation file of a searched network; its MACs are the one cost, as in '
        'compare_random.py')
    parser.add_argument(
        '--tolerance', type=float, default=0.03,
        help='largest relative difference from a cost')
    parser.add_argument(
        '--sets', nargs='+', choices=tuple(SETS), default=list(SETS),
        help='networks at one cost, over the range, or both; default: both')
    parser.add_argument(
        '--finalists', type=Path, metavar='FILE',
        help='finalists.json of choose_arch.py; the tool prints how well the fit to '
        'its short trainings ranks the networks of one cost')
    parser.add_argument(
        '--against', type=Path, metavar='FILE',
        help='results (JSON) of another supernet with the same networks; the tool '
        'prints the difference between the taus of the losses')
    return parser.parse_args()


def sample_sets(supernet, macs, target, args):
    """Sample the subnets.

    Args:
        supernet (AutoNLSuperNet): The supernet, with MACs as its cost.
        macs (Callable): From a subnet to its MACs.
        target (float): The one cost.
        args (Namespace): Arguments of the tool.

    Returns:
        dict[str, list[Subnet]]: The subnets of each set.

    Raises:
        ValueError: If no subnet of the search space has such a cost.
    """
    sets = {}
    least, most = supernet.cost_range()
    if 'cost' in args.sets:
        if not least <= target <= most:
            raise ValueError(f'a target of {target:,.6g} MACs is outside of the search '
                             f'space, {least:,.6g} to {most:,.6g}')
        rng = random.Random(0)
        sets['cost'] = [
            random_subnet(supernet.space, macs, target * (1 - args.tolerance),
                          target * (1 + args.tolerance), rng, supernet.sampling)
            for _ in range(args.num_networks)]
    if 'range' in args.sets:
        generator = torch.Generator().manual_seed(0)
        sets['range'] = []
        for i in range(args.num_networks):
            # in the middle of equal parts of the range, on a logarithmic scale
            cost = least * (most / least)**((i + 0.5) / args.num_networks)
            supernet.sample_around(cost)
            sampled = (supernet.sample_subnet(generator) for _ in range(TRIES))
            subnet = next((s for s in sampled
                           if abs(macs(s) / cost - 1) <= args.tolerance), None)
            if subnet is None:
                raise ValueError(
                    f'none of {TRIES} subnets is within {args.tolerance:.0%} of '
                    f'{cost:,.6g} MACs: raise --tolerance, or leave out --sets range')
            sets['range'].append(subnet)
    return sets


def read_losses(path, sets):
    """Losses of the same networks with another supernet.

    Args:
        path (Path): The JSON file that this tool wrote.
        sets (dict[str, list[ArchSpec]]): The networks of each set.

    Returns:
        dict[str, list[float]]: The losses of each set.

    Raises:
        FileNotFoundError, ValueError: If there is no such file, it is another one, or
            its networks are others.
    """
    found = read_json(path)
    row = {'arch': str, 'macs': float, 'loss': float, 'value': float, 'fit?': float}
    check_json(found, {str: [row]}, f'{path} is not the result of rank_correlation.py',
               'give the JSON file of its --report')
    for name, archs in sets.items():
        if [row['arch'] for row in found.get(name, ())] != [a.to_text() for a in archs]:
            raise ValueError(f'{path} has other networks of {SETS[name]}: compare '
                             'supernets with the same --sets, --num-networks, --target '
                             'and --tolerance')
    return {name: [row['loss'] for row in found[name]] for name in sets}


def table(rows, metric):
    """The networks as Markdown."""
    return markdown_table(['network', 'MACs', "the supernet's loss", metric], [
        [i, f'{row["macs"] / 1e6:.2f} M', f'{row["loss"]:.4f}', f'{row["value"]:.2f}']
        for i, row in enumerate(rows)])


def plot(sets, metric, path):
    """Draw a scatter plot of each set.

    Args:
        sets (dict[str, list[dict]]): Rows by set.
        metric (str): Name of the networks' metric.
        path (Path): The file.
    """
    figure, axes = plt.subplots(
        1, len(sets), figsize=(5 * len(sets), 4), squeeze=False, layout='constrained')
    for ax, (name, rows) in zip(axes[0], sets.items()):
        points = ax.scatter([row['loss'] for row in rows],
                            [row['value'] for row in rows],
                            c=[row['macs'] / 1e6 for row in rows])
        tau, rho = rank_correlations([-row['loss'] for row in rows],
                                     [row['value'] for row in rows])
        ax.set(title=f'{SETS[name]}\ntau {tau}\nrho {rho}',
               xlabel="loss with the supernet's weights", ylabel=metric)
        ax.invert_xaxis()  # better networks to the right
        figure.colorbar(points, label='M MACs')
    outputs.save_figure(figure, path)


def main():
    args = parse_args()
    try:
        if args.num_networks < 3 or args.seeds < 1 or args.jobs < 1:
            raise ValueError('--num-networks must be at least 3, --seeds and --jobs at '
                             'least 1')
        cfg = Config.fromfile(args.config)
        supernet = build_supernet(cfg)
        if not cfg.get('retrain_base'):
            raise ValueError(f'{args.config} has no retrain_base')
        outputs.check_folder('--work-dir', args.work_dir)
        where = Cluster(args.cluster, args.cluster_options)
        space = supernet.space

        def arch_macs(arch):
            return count_macs(arch, **supernet.counted).total

        target = args.target or cfg.model.get('target')
        if args.arch:
            target = arch_macs(ArchSpec.from_file(args.arch))
        if not target and 'cost' in args.sets:
            raise ValueError(f'{args.config} has no target: give --target or --arch')
        if args.finalists and 'cost' not in args.sets:
            raise ValueError('--finalists needs networks of one cost: give --sets cost')
        sets = sample_sets(
            supernet, lambda c: arch_macs(space.arch(c)), target, args)
        subnets = [subnet for chosen in sets.values() for subnet in chosen]
        archs = [space.arch(subnet) for subnet in subnets]
        others = read_losses(args.against, {
            name: [space.arch(subnet) for subnet in chosen]
            for name, chosen in sets.items()}) if args.against else {}
        fitted = []
        if args.finalists:
            fitted = fit_to_others(args.finalists, sets['cost'], space)
        losses = supernet_losses(
            cfg, None if args.checkpoint == INIT else args.checkpoint, subnets,
            args.work_dir / 'supernet')
        jobs = list(dict.fromkeys(
            (arch, seed) for seed in range(args.seeds) for arch in archs))
        done = trials.train_all(
            TOOLS / 'train.py',
            [trial_of(cfg.retrain_base, *job, args.work_dir, args.cfg_options)
             for job in jobs], args.jobs, where)
    except (FileNotFoundError, ValueError, RuntimeError, BrokenCheckpointError,
            UnsafeCheckpointError) as e:
        sys.exit(f'rank_correlation.py: {e}')
    by_job, metric = dict(zip(jobs, done)), done[0]['metric']
    rows = iter([
        dict(arch=arch.to_text(), macs=arch_macs(arch), loss=loss,
             value=statistics.mean(
                 by_job[arch, seed]['value'] for seed in range(args.seeds)))
        for arch, loss in zip(archs, losses)])
    sets = {name: [next(rows) for _ in chosen] for name, chosen in sets.items()}
    for row, value in zip(sets.get('cost', []), fitted):
        row['fit'] = value
    text = ''
    for name, of_set in sets.items():
        text += f'{len(of_set)} networks of {SETS[name]}, ranks of {metric}:\n\n'
        text += ''.join(f'- {line}\n' for line in describe_ranks(of_set))
        if name in others:
            difference = tau_difference(
                [-row['loss'] for row in of_set], [-loss for loss in others[name]],
                [row['value'] for row in of_set])
            text += ("- the supernet's losses, less the losses of the other supernet: "
                     f'tau {difference}\n')
        text += '\n' + table(of_set, metric) + '\n\n'
    text += trials.summary(done, args.jobs)
    atomic_write(args.work_dir / f'{args.report}.md', text + '\n')
    atomic_write(args.work_dir / f'{args.report}.json', json.dumps(sets, indent=1))
    plot(sets, metric, args.work_dir / f'{args.report}.png')
    print('\n' + text)


if __name__ == '__main__':
    main()
