# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare searched networks with random networks of the same cost.

The tool runs the search (unless --arch gives its result), samples random networks of
the same space and cost, and trains all networks from scratch in the same way: the
searched network, the searched network without LightNL and with the largest LightNL
everywhere (unless --only-random), and the random networks. It prints a table, each
searched network as one more draw beside the random networks, and, with --checkpoint,
how well the supernet ranks the random networks. Finished runs are not repeated, so the
same command continues an interrupted comparison.
"""
import argparse
import hashlib
import json
import random
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config
from scipy.stats import ttest_ind

import autonl_mm
from autonl_mm.arch import ArchSpec
from autonl_mm.experiments import trials
from autonl_mm.experiments.cluster import Cluster
from autonl_mm.experiments.draws import Difference, compare_draws, pool, scatter
from autonl_mm.experiments.random_subnets import random_subnet, trial_of
from autonl_mm.experiments.ranking import describe_ranks
from autonl_mm.experiments.supernet_losses import supernet_losses
from autonl_mm.nas.search_configs import build_supernet, open_search, write_subnet
from autonl_mm.nas.selection.proxy_loss import FixedBatches
from autonl_mm.nas.supernet.space import SAMPLINGS
from autonl_mm.runs import outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.checkpoints import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.runs.digest import config_digest, digest
from autonl_mm.runs.tables import markdown_table
from autonl_mm.runs.text_files import check_json, read_json

TOOLS = Path(__file__).resolve().parents[1]
SEARCHED = 'searched'
# Images on which BN's statistics of inherited weights are measured
RECALIBRATE = 1024


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the search')
    trials.add_args(parser, 'comparison')
    parser.add_argument(
        '--arch',
        nargs='*',
        help='notation files of finished searches; without a file, only random '
        'networks are trained; default: run the search')
    parser.add_argument(
        '--checkpoint',
        help='checkpoint of the search before its choice, which ranks the random '
        'networks; after the choice only the chosen subnet was trained')
    parser.add_argument(
        '--inherited',
        nargs='+',
        type=Path,
        default=[],
        metavar='FILE',
        help='weights that each searched network inherits from its supernet, written '
        'by choose_arch.py or export_arch.py; the networks are also fine-tuned from '
        'them, as long as the training from scratch')
    parser.add_argument(
        '--inherit-from',
        nargs='+',
        type=Path,
        default=[],
        metavar='CHECKPOINT',
        help='checkpoints of searches: the random networks start from the weights that '
        'they inherit from these in turn, the searched networks from --inherited alone')
    parser.add_argument(
        '--num-random',
        type=int,
        default=8,
        help='number of random networks, default 8')
    parser.add_argument(
        '--random-seeds',
        type=int,
        help='training runs of each random network; default: --seeds')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=0.03,
        help='largest relative difference in cost of a random network')
    parser.add_argument(
        '--target',
        type=float,
        help='MACs of the random networks; with the same --target rank_correlation.py '
        "samples the same networks; default: the first searched network's MACs")
    parser.add_argument(
        '--sampling',
        choices=SAMPLINGS,
        help="random networks are sampled uniformly over the space's choices or over "
        "its networks; default: as the config's supernet samples")
    parser.add_argument(
        '--sample-seed',
        type=int,
        default=0,
        help='seed of the random networks; with another seed they are other networks')
    parser.add_argument(
        '--pool',
        nargs='+',
        type=Path,
        default=[],
        metavar='FILE',
        help='results (JSON) of comparisons at other targets, to pool with this one')
    parser.add_argument(
        '--against',
        type=Path,
        metavar='FILE',
        help='results (JSON) of another search at the same target, whose networks the '
        'searched networks are compared with, at least two of each')
    parser.add_argument(
        '--only-random',
        action='store_true',
        help='leave out the searched network without LightNL and with LightNL '
        'everywhere')
    return parser.parse_args()


def with_light_nl_everywhere(arch, space):
    """The network with the largest LightNL of the space in all allowed places."""
    blocks = []
    for stage, own in zip(arch.stages, space.stages):
        if own[0].nl[-1]:
            largest = own[0].largest
            stage = [replace(b, nl_ratio=largest.nl_ratio, nl_stride=largest.nl_stride,
                             normalize=largest.normalize) for b in stage]
        blocks += stage
    return replace(arch, blocks=tuple(blocks))


def search(config, work_dir, where):
    """Run the search; return notation file and seconds."""
    out = work_dir / 'search'
    arch, record = out / 'arch.txt', out / 'search_seconds.json'
    begun, text = out / trials.BEGUN, f'{Config.fromfile(config).to_dict()}\n'
    if not trials.is_begun(out, text):
        if record.exists() or begun.exists():
            raise ValueError(f'{out} holds a search with another config: remove it or '
                             'use another --work-dir')
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(begun, text)
    if not record.exists():
        seconds = where.run([TOOLS / 'train.py', config, '--work-dir', out],
                            work_dir / 'search.log', again=['--resume'])
        atomic_write(record, json.dumps(seconds))
    seconds = read_json(record)
    check_json(seconds, float, f'{record} is not the time of a search',
               f'remove {out}, and it is searched again')
    return arch, seconds


def write_inherited(cfg, checkpoint, subnets, work_dir):
    """Write the weights that subnets inherit from a supernet.

    Args:
        cfg (Config): The config of the search.
        checkpoint (Path): Its checkpoint.
        subnets (Iterable[Subnet]): The subnets.
        work_dir (Path): Folder for the weights; a file in it is not written again.

    Returns:
        list[Path]: A file for each subnet.
    """
    runner, model, selection = open_search(cfg, checkpoint, work_dir / 'supernet')
    proxy = selection.proxy_loss(runner, model)
    batches = FixedBatches(runner, runner.train_dataloader.dataset, RECALIBRATE, 0,
                           proxy.seed + 1)
    files, source = [], digest(checkpoint)
    for subnet in subnets:
        name = hashlib.sha256(f'{source} {subnet}'.encode()).hexdigest()[:8]
        folder = work_dir / 'inherited' / name
        if not (folder / 'subnet.pth').exists():
            write_subnet(folder, cfg, model, proxy, batches, subnet)
        files.append(folder / 'subnet.pth')
    return files


def table(archs, results, cost_of_arch):
    """The comparison as Markdown.

    Args:
        archs (dict[str, ArchSpec]): The networks.
        results (dict[str, list[dict]]): Results of each network, by seed.
        cost_of_arch (Callable): From an ArchSpec to its MACs.
    """
    seeds = max(map(len, results.values()))
    head = ['network', 'MACs', 'LightNL blocks',
            *(f'seed {i}' for i in range(seeds)), 'mean']
    rows = []
    for name, arch in archs.items():
        values = [r['value'] for r in results[name]]
        count = sum(b.nl_ratio > 0 for b in arch.blocks)
        rows.append([name, f'{cost_of_arch(arch) / 1e6:.2f} M',
                     f'{count} of {len(arch.blocks)}',
                     *(f'{v:.2f}' for v in values), *[''] * (seeds - len(values)),
                     f'{statistics.mean(values):.2f}'])
    return markdown_table(head, rows)


def bullets(lines):
    """Lines as a list in Markdown."""
    return '\n'.join(f'- {line}' for line in lines)


def values_by_seed(results, names, seeds=None):
    """Metrics of networks, by network and seed.

    Args:
        results (dict[str, list[dict]]): Results of each network, by seed.
        names (Iterable[str]): The networks.
        seeds (int, optional): Number of seeds. Defaults to None, all.
    """
    return [[r['value'] for r in results[name][:seeds]] for name in names]


def verdict(results, searched, subnets, pooled=(), others_searched=None):
    """The searched networks against the random networks.

    The same seeds of both are compared.

    Args:
        results (dict[str, list[dict]]): Results of each network, by seed.
        searched (list[str]): Names of the searched networks; may be empty.
        subnets (list[str]): Names of the random networks.
        pooled (Sequence[Difference]): The same at other targets.
        others_searched (list[float], optional): Metrics of the networks of another
            search. Defaults to None.

    Returns:
        tuple[str, list[float], Difference]: Some lines, the metrics of the searched
        networks, and their difference; None without any.
    """
    seeds = min(len(results[name]) for name in (*searched, *subnets))
    others = list(map(statistics.mean, values_by_seed(results, subnets, seeds)))
    lines = [f'{len(others)} random networks {statistics.mean(others):.2f} with a '
             f'standard deviation of {statistics.stdev(others):.2f}, the best '
             f'{max(others):.2f}']
    trained = values_by_seed(results, subnets)
    if len(trained[0]) > 1:
        found = scatter(trained)
        lines.append(f'one training of a network scatters by {found.training:.2f}, the '
                     f'networks by {found.networks:.2f}')
    means = list(map(statistics.mean, values_by_seed(results, searched, seeds)))
    lines += [f'{name} {mean:.2f}, as one more draw: {compare_draws([mean], others)}'
              for name, mean in zip(searched, means)]
    if not means:
        return bullets(lines), means, None
    together = compare_draws(means, others)
    if len(means) > 1:
        lines.append(f'{len(means)} searched networks {statistics.mean(means):.2f}, as '
                     f'{len(means)} more draws: {together}')
    if pooled:
        lines.append(f'pooled over {len(pooled) + 1} targets: '
                     f'{pool([*pooled, together])}')
    if others_searched:
        test = ttest_ind(means, others_searched)  # of equal variances
        low, high = test.confidence_interval(0.95)
        lines.append(f'difference from the {len(others_searched)} networks of the '
                     f'other search: {(low + high) / 2:+.2f} ± {(high - low) / 2:.2f} '
                     '(95%)')
    return bullets(lines), means, together


def read_result(path, settings, same_target):
    """The result of another comparison.

    Args:
        path (Path): The file that this tool wrote.
        settings (dict): Of this comparison; all but the target must be the same there.
        same_target (bool): Whether the target must be the same or another.

    Returns:
        tuple[list[float], Difference, float]: Metrics of its searched networks, their
        difference from its random networks, and its target.

    Raises:
        FileNotFoundError, ValueError: If there is no such file, it is another one, or
            its settings do not fit.
    """
    found = read_json(path)
    check_json(found, dict(value=float, error=float, freedom=int, searched=[float],
                           settings={'target': float, str: object}),
               f'{path} is not the result of compare_random.py',
               'give the JSON files of its --report')
    other = found.pop('settings')
    for name, own in settings.items():
        differs = name == 'target' and not same_target
        if (other.get(name) != own) != differs:
            raise ValueError(
                f'{path} has the {name} {other.get(name)!r}, expected '
                f'{"another than " if differs else ""}{own!r}: only comparisons made '
                'in the same way can be taken together')
    return found.pop('searched'), Difference(**found), other['target']


def digest_of_training(config, options):
    """Short digest of a training's config."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    return config_digest(cfg)[:16]


def main():
    args = parse_args()
    random_seeds = args.seeds if args.random_seeds is None else args.random_seeds
    if args.num_random < 2 or min(args.seeds, random_seeds, args.jobs) < 1:
        sys.exit('compare_random.py: --num-random must be at least 2, --seeds, '
                 '--random-seeds and --jobs at least 1')
    try:
        cfg = Config.fromfile(args.config)
        supernet = build_supernet(cfg)
        if not cfg.get('retrain_base'):
            raise ValueError(f'{args.config} has no retrain_base')
        space = supernet.space
        outputs.check_folder('--work-dir', args.work_dir)
        for option, given in (('--inherited', args.inherited),
                              ('--inherit-from', args.inherit_from)):
            for file in given:
                if not file.is_file():
                    raise FileNotFoundError(f'{option}: {file} does not exist')
        if args.inherit_from and not (args.inherited and args.only_random):
            raise ValueError('--inherit-from needs --inherited, the weights of the '
                             'searched networks, and --only-random')
        where = Cluster(args.cluster, args.cluster_options)
        if (args.pool or args.against) and not args.target:
            raise ValueError('--pool and --against need the --target of this '
                             'comparison')
        settings = dict(
            target=args.target, sampling=args.sampling or supernet.sampling,
            sample_seed=args.sample_seed, num_random=args.num_random, seeds=args.seeds,
            random_seeds=random_seeds, tolerance=args.tolerance,
            training=digest_of_training(cfg.retrain_base, args.cfg_options),
            inherited=bool(args.inherit_from),
            space=hashlib.sha256(
                repr((space, supernet.counted)).encode()).hexdigest()[:16])
        pooled = [read_result(path, settings, False)[1:] for path in args.pool]
        if len({target for _, target in pooled}) < len(pooled):
            raise ValueError('--pool has two comparisons at the same target')
        pooled = [difference for difference, _ in pooled]
        others_searched = (read_result(args.against, settings, True)[0]
                           if args.against else None)
        if others_searched and min(len(args.arch or []), len(others_searched)) < 2:
            raise ValueError('--against compares two searches with at least two '
                             'networks each: give their files to --arch')
        seconds = None
        files = args.arch
        if files is None:
            file, seconds = search(args.config, args.work_dir, where)
            files = [file]
        if not files and not args.target:
            raise ValueError('--arch names no searched network: give the --target of '
                             'the random networks')
        searched = {SEARCHED if len(files) == 1 else f'{SEARCHED} {i}':
                    ArchSpec.from_file(file) for i, file in enumerate(files)}

        def cost(arch):
            return autonl_mm.count_macs(arch, **supernet.counted).total

        archs = dict(searched)
        if len(files) != 1 and not args.only_random:
            raise ValueError(f'--arch names {len(files)} searched networks, expected '
                             'one without --only-random')
        if args.inherited and len(args.inherited) != len(files):
            raise ValueError(f'--inherited names {len(args.inherited)} files for '
                             f'{len(files)} searched networks')
        if not args.only_random:
            archs['without LightNL'] = archs[SEARCHED].without_light_nl()
            archs['LightNL everywhere'] = with_light_nl_everywhere(
                archs[SEARCHED], space)
        target = args.target or cost(next(iter(searched.values())))
        settings['target'] = target
        for name, arch in searched.items():
            if abs(cost(arch) / target - 1) > args.tolerance:
                raise ValueError(
                    f'{name} has {cost(arch):,.6g} MACs, which is not '
                    f'within {args.tolerance:.0%} of --target {target:,.6g}')
        rng, subnets = random.Random(args.sample_seed), {}
        for i in range(args.num_random):
            subnets[f'random {i}'] = random_subnet(
                space, lambda c: cost(space.arch(c)), target * (1 - args.tolerance),
                target * (1 + args.tolerance), rng, args.sampling or supernet.sampling)
        archs.update({name: space.arch(c) for name, c in subnets.items()})
        starts = {name: (arch, None) for name, arch in archs.items()}
        if args.inherit_from:
            starts.update((name, (searched[name], weights))
                          for name, weights in zip(searched, args.inherited))
            count = len(args.inherit_from)
            for i, checkpoint in enumerate(args.inherit_from):
                names = list(subnets)[i::count]
                starts.update((name, (archs[name], weights)) for name, weights in zip(
                    names, write_inherited(cfg, checkpoint, map(subnets.get, names),
                                           args.work_dir)))
        else:
            for name, weights in zip(searched, args.inherited):
                tuned = f'{name}, fine-tuned'
                archs[tuned] = searched[name]
                starts[tuned] = (searched[name], weights)
        seeds = {name: range(random_seeds if name in subnets else args.seeds)
                 for name in archs}
        jobs = list(dict.fromkeys(
            (arch, seed, weights) for seed in range(max(args.seeds, random_seeds))
            for name, (arch, weights) in starts.items() if seed in seeds[name]))
        done = trials.train_all(
            TOOLS / 'train.py',
            [trial_of(cfg.retrain_base, arch, seed, args.work_dir, args.cfg_options,
                      weights) for arch, seed, weights in jobs],
            args.jobs, where)
        losses = []
        if args.checkpoint and args.num_random >= 3:
            losses = supernet_losses(cfg, args.checkpoint, list(subnets.values()),
                                     args.work_dir / 'supernet')
    except (FileNotFoundError, ValueError, RuntimeError, BrokenCheckpointError,
            UnsafeCheckpointError) as e:
        sys.exit(f'compare_random.py: {e}')
    by_job = dict(zip(jobs, done))
    results = {name: [by_job[arch, seed, weights] for seed in seeds[name]]
               for name, (arch, weights) in starts.items()}
    lines, means, difference = verdict(
        results, list(searched), list(subnets), pooled, others_searched)
    text = table(archs, results, cost) + '\n\n' + lines
    if losses:
        rows = [dict(loss=loss, macs=cost(archs[name]),
                     value=statistics.mean(r['value'] for r in results[name]))
                for name, loss in zip(subnets, losses)]
        text += '\n\nranks of the random networks by '
        text += '; by '.join(describe_ranks(rows))
    text += '\n\n' + trials.summary(done, args.jobs)
    if seconds is not None:
        text += f'; search {seconds / 60:.1f} min'
    atomic_write(args.work_dir / f'{args.report}.md', text + '\n')
    result = args.work_dir / f'{args.report}.json'
    result.unlink(missing_ok=True)
    if difference:
        atomic_write(result, json.dumps(
            dict(difference._asdict(), searched=means, settings=settings), indent=1))
    print('\n' + text)


if __name__ == '__main__':
    main()
