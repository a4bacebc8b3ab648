# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare a searched network with random networks of the same cost.

Runs the search (unless --arch gives its result), samples random networks of
the same space and cost, and trains all networks from scratch in the same way:
the searched network, the same without LightNL, the same with the largest
LightNL everywhere, and the random ones. Prints a table. Finished runs are not
repeated, so an interrupted comparison continues.
"""
import argparse
import hashlib
import json
import math
import random
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config

import autonl_mm
from autonl_mm.arch import ArchSpec
from autonl_mm.benchmark import trials
from autonl_mm.checkpoint import write_whole
from autonl_mm.cli import outputs
from autonl_mm.cli.configs import build_supernet
from autonl_mm.text_files import read_json

TOOLS = Path(__file__).resolve().parents[1]
SEARCHED = 'searched'


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the search')
    trials.add_args(parser)
    parser.add_argument(
        '--arch',
        help='notation file of a finished search; default: run the search')
    parser.add_argument(
        '--num-random',
        type=int,
        default=8,
        help='number of random networks, default 8')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=0.03,
        help='largest relative difference in cost of a random network')
    return parser.parse_args()


def random_arch(space, cost_of, target, tolerance, rng, tries=100000):
    """Sample choices uniformly until the cost is near the target.

    Args:
        space (SearchSpace): The search space.
        cost_of (Callable): From choices to their cost.
        target (float): The cost to be near to.
        tolerance (float): Largest relative difference from the target.
        rng (random.Random): Random number generator.
        tries (int): Samples before giving up. Defaults to 100000.

    Returns:
        ArchSpec: The network.

    Raises:
        ValueError: If no sample has such a cost.
    """
    for _ in range(tries):
        choices = [tuple(rng.randrange(n) for n in block.shape)
                   for block in space.blocks]
        if abs(cost_of(choices) / target - 1) <= tolerance:
            return space.arch(choices)
    raise ValueError(f'none of {tries} random networks costs '
                     f'{target:,.6g} within {tolerance:.0%}: '
                     'raise --tolerance')


def with_light_nl_everywhere(arch, space):
    """The network with the largest LightNL of the space wherever it allows one."""
    blocks = []
    for stage, choices in zip(arch.stages, space.stages):
        if choices[0].nl[-1]:
            largest = choices[0].largest
            stage = [replace(b, nl_ratio=largest.nl_ratio,
                             nl_stride=largest.nl_stride) for b in stage]
        blocks += stage
    return replace(arch, blocks=tuple(blocks))


def search(config, work_dir):
    """Run the search; return notation file and seconds."""
    out = work_dir / 'search'
    arch, record = out / 'arch.txt', out / 'search_seconds.json'
    if not record.exists():
        seconds = trials.run([TOOLS / 'train.py', config, '--work-dir', out],
                             work_dir / 'search.log')
        write_whole(record, json.dumps(seconds))
    return arch, read_json(record)


def train(arch, seed, args, retrain_base):
    """Train one network; return its last evaluation."""
    # The folder is named by the network: a second search with another result
    # in the same work dir can reuse the other networks.
    digest = hashlib.sha256(arch.to_text().encode()).hexdigest()[:8]
    out = args.work_dir / f'{digest}-seed{seed}'
    arch_file = out / 'arch.txt'
    return trials.train(
        TOOLS / 'train.py', retrain_base, out, {
            **args.cfg_options, 'model.backbone.arch': arch_file,
            'randomness.seed': seed
        }, args.jobs, lambda: write_whole(arch_file, arch.to_text()),
        arch=arch.to_text(), seed=seed)


def table(archs, results, cost_of_arch):
    """The comparison as Markdown.

    Args:
        archs (dict[str, ArchSpec]): The networks.
        results (dict[str, list[dict]]): Results of each network, by seed.
        cost_of_arch (Callable): From an ArchSpec to its MACs.
    """
    seeds = len(next(iter(results.values())))
    head = ['network', 'MACs', 'LightNL blocks',
            *(f'seed {i}' for i in range(seeds)), 'mean']
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    for name, arch in archs.items():
        values = [r['value'] for r in results[name]]
        count = sum(b.nl_ratio > 0 for b in arch.blocks)
        cells = [name, f'{cost_of_arch(arch) / 1e6:.2f} M',
                 f'{count} of {len(arch.blocks)}',
                 *(f'{v:.2f}' for v in values),
                 f'{statistics.mean(values):.2f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def verdict(results):
    """The searched network against the mean of the random ones, in one line."""
    means = {k: statistics.mean(r['value'] for r in v)
             for k, v in results.items()}
    others = [m for k, m in means.items() if k.startswith('random')]
    mean, deviation = statistics.mean(others), statistics.stdev(others)
    difference = means[SEARCHED] - mean
    in_deviations = difference / deviation if deviation else math.copysign(
        math.inf, difference)
    return (f'searched {means[SEARCHED]:.2f}; {len(others)} random networks '
            f'{mean:.2f} with a standard deviation of {deviation:.2f}, the '
            f'best {max(others):.2f}: {difference:+.2f}, '
            f'{in_deviations:+.1f} standard deviations')


def main():
    args = parse_args()
    if args.num_random < 2 or args.seeds < 1 or args.jobs < 1:
        sys.exit('compare_random.py: --num-random must be at least 2, --seeds '
                 'and --jobs at least 1')
    try:
        cfg = Config.fromfile(args.config)
        supernet = build_supernet(cfg)
        if not cfg.get('retrain_base'):
            raise ValueError(f'{args.config} has no retrain_base')
        space = supernet.space
        outputs.check_folder('--work-dir', args.work_dir)
        seconds = None
        arch_file = args.arch
        if arch_file is None:
            arch_file, seconds = search(args.config, args.work_dir)
        searched = ArchSpec.from_file(arch_file)

        def cost(arch):
            return autonl_mm.count_macs(arch, supernet.input_shape,
                                        supernet.num_classes,
                                        supernet.with_head).total

        archs = {
            SEARCHED: searched,
            'without LightNL': searched.without_light_nl(),
            'LightNL everywhere': with_light_nl_everywhere(searched, space),
        }
        rng = random.Random(0)
        for i in range(args.num_random):
            archs[f'random {i}'] = random_arch(
                space, lambda c: cost(space.arch(c)), cost(searched),
                args.tolerance, rng)
        jobs = list(dict.fromkeys(
            (arch, seed) for seed in range(args.seeds)
            for arch in archs.values()))
        done = trials.at_a_time(
            args.jobs, lambda job: train(*job, args, cfg.retrain_base), jobs)
    except (FileNotFoundError, ValueError, RuntimeError) as e:
        sys.exit(f'compare_random.py: {e}')
    by_job = dict(zip(jobs, done))
    results = {name: [by_job[arch, seed] for seed in range(args.seeds)]
               for name, arch in archs.items()}
    text = table(archs, results, cost) + '\n\n' + verdict(results)
    text += '\n\n' + trials.summary(done, args.jobs)
    if seconds is not None:
        text += f'; search {seconds / 60:.1f} min'
    write_whole(args.work_dir / 'comparison.md', text + '\n')
    print('\n' + text)


if __name__ == '__main__':
    main()
