# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare AutoNL, AutoNL without LightNL and networks of timm in installed engines.

Networks have random weights and 1000 classes. Each network is converted once for an
engine, without preprocessing, in deploy form. For each engine and number of threads the
networks run alternately with batch size 1. This happens in a separate process, so that
the threads of one engine do not take the cores of another engine. Ratios are medians of
the ratios within a round.
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
from autonl_mm.export.run_in_subprocess import run_in_subprocess
from autonl_mm.measure.classifiers import (
    NAMES,
    NETWORK_HELP,
    NO_LIGHT_NL,
    network_by_name,
)
from autonl_mm.measure.timing import Spread, device_name, interleaved, median_ratio
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.tables import markdown_table

try:
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
except ImportError:
    plt = None

BASE = 'mnasnet_100'
NETWORKS = (*NAMES, *(name + NO_LIGHT_NL for name in NAMES), BASE,
            'mobilenetv3_large_100', 'mobilenetv4_conv_small', 'efficientnet_b0')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--engines', nargs='+',
        choices=[name for name, engine in ENGINES.items() if engine.runs],
        help='default: all installed engines')
    parser.add_argument(
        '--networks', nargs='+', default=list(NETWORKS), metavar='NETWORK',
        help=f'default: {", ".join(NETWORKS)}; {NETWORK_HELP}; or a network of timm')
    parser.add_argument(
        '--threads', nargs='+', type=int, default=[1, 2],
        help='numbers of threads, default 1 2')
    parser.add_argument(
        '--rounds', type=int, default=50, help='measurements per network, default 50')
    configs.add_input_shape(parser, [224, 224], 'default: 224 224')
    parser.add_argument('--out', help='JSON file for all measurements')
    parser.add_argument('--plot', help='file for a plot; its ending gives the format')
    return parser.parse_args()


def measure(engine, files, shape, rounds):
    """Seconds by network, measured alternately in a separate process."""
    keep_freed_memory()
    return interleaved({name: load_bare(engine, shape, Path(file))
                        for name, file in files.items()}, rounds, warmup=True)


def measure_engine(engine, networks, args, folder):
    """Convert all networks for an engine, and measure them: a record for each
    network and number of threads."""
    shape, files = (1, 3, *args.shape), {}
    for i, (name, network) in enumerate(networks.items()):
        file = folder / f'{engine}-{i}{ENGINES[engine].ending}'
        try:
            write_bare(engine, network, shape, file)
        except ExportError as e:
            print(f'left out: {name} in {engine}: {e}')
            continue
        files[name] = str(file)
    records = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        try:
            times = run_in_subprocess(measure, engine, files, shape, args.rounds)
        except ExportError as e:
            print(f'left out: {engine} with {threads} threads: {e}')
            continue
        for name, seconds in times.items():
            record = dict(engine=engine, threads=threads, network=name, seconds=seconds)
            for base in (BASE, name + NO_LIGHT_NL):
                if base in times and base != name:
                    record[f'ratio to {base}'] = median_ratio(seconds, times[base])
            records.append(record)
    return records


def print_table(records, names):
    """Print medians, and ratios to mnasnet_100 and to the same without LightNL."""
    found = {(r['engine'], r['threads'], r['network']): cell(r) for r in records}
    columns = sorted({key[:2] for key in found},
                     key=lambda key: (list(ENGINES).index(key[0]), key[1]))
    print('\n' + markdown_table(
        ['network', *(f'{engine}, {threads}' for engine, threads in columns)],
        [[name, *(found.get((*key, name), '-') for key in columns)]
         for name in names]))
    print(f'\nms (ratio to {BASE}; ratio to the same network without LightNL), by '
          'engine and threads')


def cell(record):
    """Text of a measurement."""
    text = f'{1e3 * statistics.median(record["seconds"]):.3g}'
    ratios = [f'{v:.2f}' for k, v in record.items() if k.startswith('ratio')]
    return f'{text} ({"; ".join(ratios)})' if ratios else text


def plot(records, names, path):
    """Bars by engine, a panel for each number of threads."""
    threads = sorted({r['threads'] for r in records})
    engines = [e for e in ENGINES if any(r['engine'] == e for r in records)]
    figure, panels = plt.subplots(
        len(threads), 1, figsize=(9, 3.2 * len(threads)), squeeze=False)
    width = 0.8 / len(names)
    for count, (panel, ) in zip(threads, panels):
        for i, name in enumerate(names):
            found = {r['engine']: Spread.of([1e3 * s for s in r['seconds']])
                     for r in records if (r['threads'], r['network']) == (count, name)}
            places = [j for j, engine in enumerate(engines) if engine in found]
            panel.bar([j + i * width for j in places],
                      [found[engines[j]].median for j in places], width, label=name)
        panel.set_xticks([j + 0.4 - width / 2 for j in range(len(engines))], engines)
        panel.set_ylabel(f'ms, {count} thread{"s" * (count > 1)}')
    panels[0, 0].legend(fontsize=7, ncols=2)
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
        args.shape = configs.parse_shape(args.input_shape, minimum=32)
        if min(args.threads) < 1:
            raise ValueError(f'--threads is {args.threads}, expected at least 1 each')
        if args.plot and plt is None:
            raise ValueError('--plot needs matplotlib: pip install matplotlib')
        outputs.check_file('--out', args.out)
        outputs.check_file('--plot', args.plot)
        engines = choose_engines(args.engines)
        networks = {name: network_by_name(name).eval() for name in args.networks}
    except (ImportError, OSError, ValueError) as e:
        sys.exit(f'engines.py: {e}')
    print(f'{device_name("cpu")}, torch {torch.__version__}, batch 1, '
          f'{args.shape[0]}x{args.shape[1]}, median of {args.rounds} alternating '
          'rounds')
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in engines:
            records += measure_engine(engine, networks, args, Path(folder))
            if args.out:  # measurements are kept if the next engine fails
                atomic_write(args.out, json.dumps(dict(
                    vars(args), device_name=device_name('cpu'), torch=torch.__version__,
                    engines=engines, records=records), indent=1))
    if not records:
        sys.exit('engines.py: nothing could be measured')
    print_table(records, args.networks)
    if args.plot:
        plot(records, args.networks, args.plot)


if __name__ == '__main__':
    main()
