# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure the latency of every candidate block of a search space.

The tool writes the latency table that CostAwareModel(cost='latency.json') reads. Blocks
are measured on this machine, in PyTorch in eval mode or in an engine. Every round
measures all blocks once and is scaled to the median round, so a temporary slowdown of
the machine affects all blocks alike. The latency of a block is the median over the
rounds.

Then whole random networks of the space are measured, and compared with the sums
over their blocks. A block that runs alone has costs that it does not have within a
network, so the table is fitted to these networks: each entry is multiplied by one
number, and a second number, the cost of a call, is added. The table must rank these
networks well, or it is not written.

For another device --for-device DIR exports the blocks and the networks instead,
tools/deployment/run_on_device.py DIR measures them there, and --from-device TABLE fits
the table to the result.
"""
import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autonl_mm.arch import ArchSpec
from autonl_mm.cost import TIMED, LatencyTable, iter_blocks, strided
from autonl_mm.experiments.ranking import rank_correlations
from autonl_mm.export.bare import load_bare, write_bare
from autonl_mm.export.engines import ENGINES, ExportError, Settings
from autonl_mm.measure.device_table import MANIFEST, median_times, read_table
from autonl_mm.measure.timing import (
    Spread,
    device_name,
    interleaved,
    tqdm,
    without_drift,
)
from autonl_mm.models import AutoNL, MBConv
from autonl_mm.nas import search_configs
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_dir, atomic_write

# Least rank correlation of the table's sums with whole networks
MIN_CORRELATION = 0.8


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    configs.add_config_args(parser)
    parser.add_argument('--out', default='latency.json',
                        help='file for the table, default latency.json')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images at a time, default 1')
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements per block, default 15')
    parser.add_argument(
        '--engine',
        choices=[name for name, engine in ENGINES.items() if engine.runs],
        help='measure in this engine, in deploy form; default: PyTorch')
    parser.add_argument(
        '--threads', type=int, help="number of threads; default: torch's number")
    parser.add_argument(
        '--num-networks', type=int, default=20,
        help='random networks to fit the table to, default 20; 0 for none')
    parser.add_argument(
        '--force', action='store_true',
        help='write the table although it ranks whole networks badly')
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        '--for-device', metavar='DIR', type=Path,
        help='measure nothing: export the models to this folder for '
        'tools/deployment/run_on_device.py')
    device.add_argument(
        '--from-device', metavar='TABLE',
        help='measure nothing: fit the table to the times that run_on_device.py wrote')
    configs.add_device(parser, ' and no --engine')
    parser.set_defaults(device=None)  # the CPU with an engine
    return parser.parse_args()


def candidates(supernet):
    """The layers that the latency table of a supernet needs: by key of LatencyTable
    the layer and the ``(C, H, W)`` of its input. Blocks of equal shape have the same
    key."""
    arch, shape = supernet.space.largest, supernet.input_shape
    stem, *_, head = AutoNL(
        arch, out_indices=(-1, ), in_channels=supernet.in_channels,
        **supernet.cfgs).layers
    layers = {
        LatencyTable.stem_key(arch, shape, supernet.in_channels):
        (stem, (supernet.in_channels, *shape))
    }
    size = strided(shape, 2)
    for block, (_, _, in_size), placement in zip(
            supernet.space.blocks, iter_blocks(arch, shape, supernet.output_stride),
            arch.placements(supernet.output_stride)):
        for choice in block.choices():
            candidate = block.spec(choice)
            if candidate is None:
                continue
            key = LatencyTable.block_key(candidate, in_size, placement)
            if key not in layers:
                layers[key] = (
                    MBConv(candidate, **placement._asdict(), **supernet.cfgs),
                    (candidate.in_channels, *in_size))
        size = strided(in_size, placement.stride)
    layers[LatencyTable.head_key(arch, size)] = (
        head, (arch.blocks[-1].out_channels, *size))
    return layers


def measure(layers, args, folder):
    """Median milliseconds of layers by key, measured alternately."""
    calls, inputs = {}, {}
    for key, (layer, shape) in layers.items():
        shape = (args.batch_size, *shape)
        if args.engine:
            file = folder / f'{len(layers)}-{len(calls)}{ENGINES[args.engine].ending}'
            write_bare(args.engine, layer, shape, file)
            calls[key] = load_bare(args.engine, shape, file)
            continue
        if shape not in inputs:
            inputs[shape] = torch.randn(*shape, device=args.device)
        layer.to(args.device).eval()
        calls[key] = lambda layer=layer, x=inputs[shape]: layer(x)
    with torch.no_grad():
        times = interleaved(calls, args.rounds, args.device, warmup=True)
    return {key: 1e3 * Spread.of(t).median for key, t in without_drift(times).items()}


def export_models(layers, networks, archs, args, cfgs):
    """Export all blocks and networks for another device, without those that an earlier
    call exported.

    Raises:
        ExportError: If a model cannot be exported; names it.
        ValueError: If the folder has models of another call.
    """
    ending = ENGINES[args.engine].ending
    models = [(dict(key=key), *model) for key, model in layers.items()]
    models += [(dict(arch=arch.to_text()), *model)
               for arch, model in zip(archs, networks.values())]
    rows = [dict(file=f'{i:04}/model{ending}', shape=[args.batch_size, *shape], **name)
            for i, (name, _, shape) in enumerate(models)]
    table = dict(engine=args.engine, cfgs=cfgs, files=rows)
    manifest = args.for_device / MANIFEST
    if manifest.exists() and read_table(manifest) != table:
        raise ValueError(f'{args.for_device} has models of another space or engine: '
                         'give another folder by --for-device')
    atomic_write(manifest, json.dumps(table, indent=1))
    for row, (_, network, _) in tqdm([*zip(rows, models)], desc='models', leave=False):
        file = args.for_device / row['file']
        if file.exists():
            continue
        with atomic_dir(file.parent) as folder:
            try:
                write_bare(args.engine, network, row['shape'], folder / file.name)
            except ExportError as e:
                raise ExportError(f'{row.get("key", "a whole network")}: {e}') from None
    print(f'{args.for_device}: {len(rows)} models. Next: '
          f'tools/deployment/run_on_device.py {args.for_device} --runner adb')


def read_device(path, layers, cfgs):
    """Times of a table of run_on_device.py.

    Returns:
        tuple: Milliseconds of blocks by key, whole networks and their milliseconds, and
        a record of the device.

    Raises:
        ValueError: If the table is of another space, or a time is missing.
    """
    table = read_table(path)
    times = median_times(table['files'])
    latency = {row['key']: times[row['file']] for row in table['files'] if 'key' in row}
    for name, known, wanted in (('the blocks', latency.keys(), layers.keys()),
                                ('cfgs', table['cfgs'], cfgs)):
        if known != wanted:
            raise ValueError(f'{path} was measured for another search space, {name} '
                             'differ: give the config of --for-device')
    networks = [row for row in table['files'] if 'arch' in row]
    return (latency, [ArchSpec.from_text(row['arch']) for row in networks],
            [times[row['file']] for row in networks],
            dict(engine=table['engine'], device=table['device'],
                 threads=table['settings']['threads'],
                 batch_size=table['files'][0]['shape'][0],
                 rounds=min(len(row['ms']) for row in table['files'])))


def check_ranks(rho):
    """Refuse a table that does not rank whole networks.

    Raises:
        ValueError: If the rank correlation is below 0.8, or 0 is in its interval.
    """
    if not (rho.value >= MIN_CORRELATION and rho.low > 0):
        raise ValueError(
            f'rank correlation {rho}, expected at least {MIN_CORRELATION} and an '
            'interval above 0: stop other work on the device, or take more --rounds or '
            '--num-networks. --force writes the table nevertheless')


def random_networks(space, count):
    """Random networks of a space, as :class:`ArchSpec`."""
    rng = random.Random(0)
    return [space.arch([tuple(rng.randrange(n) for n in block.shape)
                        for block in space.blocks]) for _ in range(count)]


def predict(latency, archs, supernet):
    """Sums over the layers of networks in milliseconds, and numbers of layers."""
    table, counted = LatencyTable(latency), dict(supernet.counted, with_head=True)
    sums = [table.network(arch, **counted) for arch in archs]
    return np.array(sums), np.array([len(arch.blocks) + 2. for arch in archs])


def fit_table(latency, sums, counts, measured):
    """Fit a table to whole networks.

    Args:
        latency (dict[str, float]): Milliseconds by key.
        sums (np.ndarray): Sums over the layers of networks.
        counts (np.ndarray): Numbers of layers.
        measured (np.ndarray): Latencies of the whole networks.

    Returns:
        tuple[dict[str, float], dict]: The table, and a record of the fit: ``factor``
        and ``added_ms``; the errors of the plain sums, ``error_of_sums``, and of the
        fitted table, ``error``, as medians of absolute relative errors. Each network
        is predicted by the fit to all other networks.
    """

    def fit(rows):
        if len(measured[rows]) >= 3:
            # relative errors count, so that slow networks do not dominate
            terms = np.stack([sums, counts], 1)[rows] / measured[rows][:, None]
            factor, added = map(
                float, np.linalg.lstsq(terms, np.ones(len(terms)), rcond=None)[0])
            if factor > 0 and factor * min(latency.values()) + added > 0:
                return factor, added
        # no entry may become negative
        return float(np.median(measured[rows] / sums[rows])), 0.

    every = np.arange(len(measured))
    left_out = []
    for i in every:
        factor, added = fit(every[every != i])
        left_out.append((factor * sums[i] + added * counts[i]) / measured[i] - 1)
    factor, added = fit(every)
    found = dict(
        factor=factor, added_ms=added,
        error_of_sums=float(np.median(abs(sums / measured - 1))),
        error=float(np.median(np.abs(left_out))))
    return {k: factor * v + added for k, v in latency.items()}, found


def check(args):
    """Refuse bad arguments by an ImportError or ValueError that names the argument."""
    configs.check_positive(args, 'rounds', 'batch_size')
    if args.threads is not None:
        configs.check_positive(args, 'threads')
        torch.set_num_threads(args.threads)
    if args.num_networks and args.num_networks < 3:
        raise ValueError(f'--num-networks is {args.num_networks}, expected at least 3, '
                         'or 0 for none')
    if args.for_device and not args.engine:
        raise ValueError('--for-device needs --engine NAME, the engine on the device')
    if args.from_device and (args.engine or args.threads):
        raise ValueError('--from-device takes engine and threads from the table: leave '
                         '--engine and --threads out')
    args.device = args.device or (
        'cuda' if torch.cuda.is_available() and not args.engine else 'cpu')
    if args.engine:
        if args.device != 'cpu':
            raise ValueError(f'--engine {args.engine} runs on the CPU, but --device is '
                             f'{args.device}')
        ENGINES[args.engine].check(Settings((args.batch_size, 3, 1, 1)))
    outputs.check_file('--out', args.out)


def measure_here(layers, networks, args):
    """Times of blocks and networks on this machine: as :func:`read_device`, without
    the networks."""
    with tempfile.TemporaryDirectory() as folder:
        latency = measure(layers, args, Path(folder))
        measured = measure(networks, args, Path(folder))
    return latency, [*measured.values()], dict(
        engine=args.engine or 'pytorch', device=device_name(args.device),
        threads=torch.get_num_threads(), torch=torch.__version__,
        batch_size=args.batch_size, rounds=args.rounds)


def main():
    args = parse_args()
    try:
        check(args)
        supernet = search_configs.build_supernet(configs.read_config(args))
        run(args, supernet)
    except (ImportError, OSError, RuntimeError, ValueError) as e:
        sys.exit(f'measure_latency.py: {" ".join(str(e).split())}')


def run(args, supernet):
    """Measure, fit, check and write the table, or export the models."""
    layers, start = candidates(supernet), time.time()
    cfgs = json.loads(json.dumps(supernet.cfgs))
    archs = random_networks(supernet.space, args.num_networks)
    image = (supernet.in_channels, *supernet.input_shape)
    networks = {i: (AutoNL(arch, **dict(supernet.kwargs, out_indices=(-1, ))), image)
                for i, arch in enumerate(archs)}
    if args.for_device:
        return export_models(layers, networks, archs, args, cfgs)
    if args.from_device:
        latency, archs, measured, record = read_device(args.from_device, layers, cfgs)
    else:
        if args.device == 'cpu':
            print(keep_freed_memory())
        latency, measured, record = measure_here(layers, networks, args)
    record['input_shape'] = supernet.input_shape
    print(f'{len(latency)} entries in {time.time() - start:.0f} s, '
          f'{record["engine"]}')
    if archs:
        measured = np.array(measured)
        sums, counts = predict(latency, archs, supernet)
        latency, record['fit'] = fit_table(latency, sums, counts, measured)
        predicted = predict(latency, archs, supernet)[0]
        _, rho = rank_correlations(predicted, measured)
        found = record['fit']
        found.update(rank_correlation=rho.value)
        record['networks'] = [
            dict(arch=arch.to_text(), ms=float(ms), sum_ms=float(total))
            for arch, ms, total in zip(archs, measured, sums)]
        print(f'{len(archs)} random networks, measured as a whole: the median error of '
              f'the sum over their layers is {found["error_of_sums"]:.1%}, and '
              f'{found["error"]:.1%} after a fit to all other networks, with '
              f'{found["factor"]:.3g} of each entry and {found["added_ms"]:+.3g} ms '
              f'for each; rank correlation {rho}')
        if not args.force:
            check_ranks(rho)
    record['cfgs'] = {name: cfgs[name] for name in TIMED}
    record['latency_ms'] = latency
    atomic_write(args.out, json.dumps(record, indent=1))
    supernet.set_cost_model(LatencyTable(latency, args.out))
    low, high = supernet.cost_range()
    print(f'{args.out}: networks of the space take {low:.4g} to {high:.4g} ms as the '
          'sum of their layers. Choose a target between, such as '
          f'model.target={(low * high)**0.5:.3g}')


if __name__ == '__main__':
    main()
