# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare AutoNL, AutoNL without LightNL and networks of timm in installed engines.

Networks have random weights and 1000 classes. The table and the plot compare their
times with published top-1 accuracies on ImageNet, which are not measured here. Each
network is converted once for an engine, without preprocessing, in deploy form. For each
engine and number of threads the networks run alternately with batch size 1. This
happens in a separate process, so that the threads of one engine do not take the cores
of another engine. Ratios are medians of the ratios within a round.
"""
import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from autonl_mm.export.bare import load_bare, write_bare
from autonl_mm.export.engines import ENGINES, ExportError, Settings
from autonl_mm.export.engines.base import run_engine
from autonl_mm.measure.classifiers import (
    NAMES,
    NETWORK_HELP,
    NO_LIGHT_NL,
    network_by_name,
    without_light_nl,
)
from autonl_mm.measure.counting import built_macs
from autonl_mm.measure.scatter import scatter_networks
from autonl_mm.measure.timing import device_name, interleaved, median_ratio
from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.tables import markdown_table
from autonl_mm.zoo import OURS

try:
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
except ImportError:
    plt = None

BASE = 'mnasnet_100'
NETWORKS = (*NAMES, *(name + NO_LIGHT_NL for name in NAMES), BASE,
            'mobilenetv2_100', 'mobilenetv3_large_100', 'mobilenetv4_conv_small',
            'efficientnet_lite0', 'efficientnet_b0')
ZOO = (*NAMED_NETWORKS, *NAMES)
# Published top-1 in percent, at the size of :func:`size_of`: AutoNL's of its paper, of
# timm's networks in its results-imagenet.csv and, for MobileNetV4, its README.
TOP1 = {**{name: named.top1 for name, named in NAMED_NETWORKS.items()},
        'mobilenetv3_large_100': 75.77, 'mobilenetv4_conv_small': 73.76,
        'AutoNL-S': OURS['autonl_s'], 'AutoNL-L': OURS['autonl_l']}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--engines', nargs='+',
        choices=[name for name, engine in ENGINES.items() if engine.runs],
        help='default: all installed engines')
    parser.add_argument(
        '--networks', nargs='+', default=list(NETWORKS), metavar='NETWORK',
        help=f'default: {", ".join(NETWORKS)}; {NETWORK_HELP}; a network of timm; or '
        'zoo, all networks of docs/zoo.md')
    parser.add_argument(
        '--threads', nargs='+', type=int, default=[1, 2],
        help='numbers of threads, default 1 2')
    parser.add_argument(
        '--rounds', type=int, default=50, help='measurements per network, default 50')
    configs.add_input_shape(
        parser, help="default: the size that the network's accuracy is for, mostly 224")
    parser.add_argument('--out', help='JSON file for all measurements')
    parser.add_argument(
        '--plot', help='file for a plot of accuracy and time in each engine; its '
        'ending gives the format')
    return parser.parse_args()


def size_of(name):
    """Height and width of the images that a network's accuracy is for."""
    named = NAMED_NETWORKS.get(name)
    return (named.input_size, ) * 2 if named else (224, 224)


def measure(engine, files, rounds):
    """Seconds by network, measured alternately in a separate process."""
    keep_freed_memory()
    return interleaved({name: load_bare(engine, shape, Path(file))
                        for name, (file, shape) in files.items()}, rounds, warmup=True)


def measure_engine(engine, networks, args, folder):
    """Convert all networks for an engine, and measure them: a record for each
    network and number of threads."""
    files = {}
    for i, (name, network) in enumerate(networks.items()):
        shape = (1, 3, *args.shapes[name])
        file = folder / f'{engine}-{i}{ENGINES[engine].ending}'
        try:
            write_bare(engine, network, shape, file)
        except ExportError as e:
            print(f'left out: {name} in {engine}: {e}')
            continue
        files[name] = str(file), shape
    records = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        try:
            times = run_engine(measure, engine, files, args.rounds)
        except ExportError as e:
            print(f'left out: {engine} with {threads} threads: {e}')
            continue
        for name, seconds in times.items():
            record = dict(engine=engine, threads=threads, network=name, seconds=seconds)
            for base in (BASE, without_light_nl(name)):
                if base in times and base != name:
                    record[f'ratio to {base}'] = median_ratio(seconds, times[base])
            records.append(record)
    return records


def print_table(records, macs):
    """Print published accuracy, MACs, and medians with ratios to mnasnet_100 and to the
    same network without LightNL."""
    found = {(r['engine'], r['threads'], r['network']): cell(r) for r in records}
    columns = sorted({key[:2] for key in found},
                     key=lambda key: (list(ENGINES).index(key[0]), key[1]))
    print('\n' + markdown_table(
        ['network', 'top-1, %', 'MACs, M',
         *(f'{engine}, {threads}' for engine, threads in columns)],
        [[name, f'{TOP1[name]:.1f}{"*" * (name in NAMES)}' if name in TOP1 else '-',
          f'{count / 1e6:.0f}', *(found.get((*key, name), '-') for key in columns)]
         for name, count in macs.items()]))
    print('\ntop-1 as published by timm, * in the paper of AutoNL; not measured here. '
          f'By engine and threads: ms (ratio to {BASE}; ratio to the same network '
          'without LightNL)')


def cell(record):
    """Text of a measurement."""
    text = f'{1e3 * statistics.median(record["seconds"]):.3g}'
    ratios = [f'{v:.2f}' for k, v in record.items() if k.startswith('ratio')]
    return f'{text} ({"; ".join(ratios)})' if ratios else text


def plot(records, path):
    """Published accuracy and time, with the front of the best networks: a panel for
    each engine and number of threads."""
    panels = sorted({(r['engine'], r['threads']) for r in records},
                    key=lambda key: (list(ENGINES).index(key[0]), key[1]))
    columns = min(2, len(panels))
    figure, axes = plt.subplots(
        -(-len(panels) // columns), columns, squeeze=False,
        figsize=(7 * columns, 5 * -(-len(panels) // columns)))
    for ax in axes.flat[len(panels):]:
        ax.remove()
    for ax, (engine, threads) in zip(axes.flat, panels):
        ax.set_xscale('log')  # networks of one class differ by a quarter
        for formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            formatter('{x:g}')
        points = sorted(
            (1e3 * statistics.median(r['seconds']), TOP1[r['network']], r['network'])
            for r in records
            if (r['engine'], r['threads']) == (engine, threads)
            and r['network'] in TOP1)
        front = [p for i, p in enumerate(points)
                 if all(p[1] > better[1] for better in points[:i])]
        ax.plot([p[0] for p in front], [p[1] for p in front], color='0.8', zorder=0)
        scatter_networks(ax, [(*point, point[2] in NAMES) for point in points])
        ax.set(title=f'{engine}, {threads} thread{"s" * (threads > 1)}', xlabel='ms',
               ylabel='published top-1, %')
    figure.tight_layout()
    outputs.save_figure(figure, path)
    plt.close(figure)


def choose_engines(names):
    """The engines to measure: the named engines, or all installed engines.

    Raises:
        ImportError: If a named engine is not installed, or none is.
    """
    found = []
    for name, engine in ENGINES.items():
        if not engine.runs or (names and name not in names):
            continue
        try:
            engine.check(Settings((1, 3, 1, 1)))
        except ImportError as e:
            if names:
                raise
            print(f'left out: {e}')
            continue
        found.append(name)
    if not found:
        raise ImportError(
            "no engine is installed: pip install -e '.[onnxruntime]'")
    return found


def main():
    args = parse_args()
    try:
        configs.check_positive(args, 'rounds')
        if 'zoo' in args.networks:
            at = args.networks.index('zoo')
            args.networks[at:at + 1] = ZOO
        args.shapes = {
            name: configs.parse_shape(args.input_shape or size_of(name), minimum=32)
            for name in args.networks}
        if min(args.threads) < 1:
            raise ValueError(f'--threads is {args.threads}, expected at least 1 each')
        if args.plot and plt is None:
            raise ValueError('--plot needs matplotlib: pip install matplotlib')
        outputs.check_file('--out', args.out)
        outputs.check_file('--plot', args.plot)
        engines = choose_engines(args.engines)
        networks = {name: network_by_name(name).eval() for name in args.networks}
        macs = {name: built_macs(network, 3, *args.shapes[name])
                for name, network in networks.items()}
    except (ImportError, OSError, ValueError) as e:
        sys.exit(f'engines.py: {e}')
    sizes = sorted({'{}x{}'.format(*shape) for shape in args.shapes.values()})
    print(f'{device_name("cpu")}, torch {torch.__version__}, batch 1, '
          f'{", ".join(sizes)}, median of {args.rounds} alternating rounds')
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in engines:
            records += measure_engine(engine, networks, args, Path(folder))
            if args.out:  # measurements are kept if the next engine fails
                atomic_write(args.out, json.dumps(dict(
                    vars(args), device_name=device_name('cpu'), torch=torch.__version__,
                    engines=engines, macs=macs, records=records), indent=1))
    if not records:
        sys.exit('engines.py: nothing could be measured')
    print_table(records, macs)
    if args.plot:
        plot(records, args.plot)


if __name__ == '__main__':
    main()
