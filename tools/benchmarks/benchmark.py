# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure time and memory of LightNL and AutoNL on this machine.

There are six parts:

- networks: AutoNL and the same networks without LightNL, or any other networks;
- layer: the LightNL layer, its formula in einsum and NCHW, and mmcv's NonLocal2d;
- depthwise: the gradient of a depthwise kernel on small feature maps, here and in
  torch;
- memory: peak memory of a training step;
- scaling: time and memory against the number of pixels;
- profile: time of each operator in a forward pass, on a CPU only.

The compared calls alternate in one process. Times are medians over the rounds,
ratios are medians of the ratios within a round. On a CPU everything is float32. On a
GPU networks train under bfloat16 autocast and infer in bfloat16. The tool needs torch,
mmengine and mmcv or mmcv-lite.
"""
import argparse
import functools
import json
import math
import platform
import statistics
import sys
import time

import torch
import torch.nn as nn
from mmcv.cnn import NonLocal2d

from autonl_mm.deploy import switch_to_deploy
from autonl_mm.export.engines import ENGINES, Settings
from autonl_mm.measure.classifiers import (
    NAMES,
    NETWORK_HELP,
    NO_LIGHT_NL,
    network_by_name,
    without_light_nl,
)
from autonl_mm.measure.comparison_blocks import EinsumLightNL
from autonl_mm.measure.memory import free_memory, peak_memory, peak_of_tensors
from autonl_mm.measure.passes import (
    FORMS,
    FUSED,
    inference,
    noise,
    training,
    without_grad,
)
from autonl_mm.measure.timing import (
    device_name,
    interleaved,
    median_ratio,
    operator_times,
)
from autonl_mm.models import LightNL
from autonl_mm.models.layers import depthwise_conv2d
from autonl_mm.ops import load_fused_operators
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.tables import markdown_table

NETWORKS = tuple(name + variant for name in NAMES for variant in ('', NO_LIGHT_NL))
# The LightNL layers of AutoNL-S at 224, and two of a dense task: N, C, H, W, stride
LAYER_SHAPES = ((8, 24, 56, 56, 2), (8, 40, 28, 28, 2), (8, 80, 14, 14, 1),
                (8, 96, 14, 14, 1), (8, 192, 7, 7, 1), (8, 320, 7, 7, 1),
                (1, 24, 256, 256, 2), (1, 96, 64, 64, 1))
# The last depthwise convolutions of AutoNL-S at 64 and 128, and one that is not small
DEPTHWISE_SHAPES = ((576, 5, 2), (1152, 5, 4), (320, 3, 2), (480, 5, 8))
SCALING_SHAPES = ((224, 224), (320, 320), (512, 512), (512, 1024), (1024, 2048))


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--parts', nargs='+', default=tuple(PARTS), choices=tuple(PARTS),
        help='default: all')
    parser.add_argument(
        '--networks', nargs='+', default=list(NETWORKS), metavar='NETWORK',
        help=f'default: {" ".join(NETWORKS)}; {NETWORK_HELP}; or a network of timm')
    parser.add_argument(
        '--base', metavar='NETWORK',
        help='network that ratios are relative to; default: for each network the same '
        'network without LightNL')
    parser.add_argument(
        '--batch-size', type=int,
        help='batch size of networks, default 8 on a CPU and 256 on a GPU')
    configs.add_input_shape(parser, (224, 224), 'default 224')
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements per call, default 15')
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS,
        help='forms of the networks: eager; compile, by torch.compile; fused, with '
        'each block as one operator; fused-compile; onnxruntime. The last three forms '
        'are forward passes on a CPU. Default: eager and fused on a CPU, eager and '
        'compile on a GPU')
    parser.add_argument(
        '--cpu-time', action='store_true',
        help='measure the CPU time of all threads instead of wall-clock time, for a '
        'busy machine. Set OMP_NUM_THREADS=1, because waiting threads count too')
    configs.add_device(parser)
    parser.add_argument('--out', help='file for the measurements, .json')
    return parser.parse_args()


KINDS = dict(forward=inference, training=training)
SCALING_KINDS = dict(KINDS, fused=functools.partial(inference, form='fused'))


def base_of(name, args):
    """Name of the network that a network's ratio is relative to."""
    return args.base or without_light_nl(name)


def networks(args):
    """Times of networks, in all forms."""
    x = noise(args.batch_size, *args.input_shape, args.device)
    rows = []
    for form in args.forms:
        for kind, make in KINDS.items():
            if kind == 'training' and form not in ('eager', 'compile'):
                continue
            # torch compiles the same code eight times at most; the networks
            # after that would stay eager
            torch.compiler.reset()
            times = interleaved(
                {name: make(network_by_name(name), x, form) for name in args.networks},
                args.rounds, args.device, clock=args.clock)
            for name, seconds in times.items():
                row = dict(network=name, form=form, kind=kind, seconds=seconds)
                base = base_of(name, args)
                if base in times and base != name:
                    row['ratio'] = median_ratio(seconds, times[base])
                rows.append(row)
    print_table(
        f'Networks, {size_text(args.input_shape)}, batch {args.batch_size}, '
        'channels_last, forward pass in deploy form',
        ['network', 'form', 'pass', 'ms', 'images/s',
         f'ratio to {args.base or "no LightNL"}'],
        [[r['network'], r['form'], r['kind'], ms(r['seconds']),
          f'{args.batch_size / statistics.median(r["seconds"]):,.0f}',
          f'{r["ratio"]:.3f}' if 'ratio' in r else ''] for r in rows])
    return rows


# ---------------------------------------------------------------------- layer
PAPERS = dict(normalize='size', zero_init=False)


def layer_call(layer, x, train):
    """A forward pass of a layer, with the backward pass in training."""
    layer.to(x.device).train(train)
    if not train:
        return without_grad(layer, x)
    x = x.clone().requires_grad_()
    grad = torch.randn_like(x)

    def step():
        x.grad = None
        layer.zero_grad()
        layer(x).backward(grad)

    return step


def light_nl_call(x, stride, kind):
    """:func:`layer_call` for LightNL, in deploy form except in training."""
    layer = LightNL(x.shape[1], **PAPERS, stride=stride)
    if kind != 'training':
        switch_to_deploy(layer, fused=kind == 'fused')
    return layer_call(layer, x, kind == 'training')


def layer(args):
    """The LightNL layer against einsum and NonLocal2d."""
    rows = []
    kinds = ['forward', *['fused'] * ('fused' in args.forms), 'training']
    limit = free_memory(args.device) / 2
    for n, c, h, w, stride in LAYER_SHAPES:
        x = torch.randn(n, c, h, w, device=args.device)
        last = x.contiguous(memory_format=torch.channels_last)
        for kind in kinds:
            train = kind == 'training'
            calls = {
                'einsum': layer_call(
                    EinsumLightNL(c, **PAPERS, stride=stride), x, train),
                'LightNL': light_nl_call(last, stride, kind),
                'LightNL, NCHW': light_nl_call(x, stride, kind)
            }
            # affinity, its gradient and a copy of a product
            if 4 * n * (h * w)**2 * (3 if train else 2) <= limit:
                calls['NonLocal2d'] = layer_call(
                    NonLocal2d(c, reduction=1, mode='dot_product'), x, train)
            times = interleaved(calls, args.rounds, args.device, warmup=True,
                                clock=args.clock)
            rows.append(dict(
                shape=(n, c, h, w), stride=stride, kind=kind, seconds=times,
                speedup={key: median_ratio(times[key], times['LightNL'])
                         for key in ('einsum', 'NonLocal2d') if key in times},
                nchw_speedup=median_ratio(times['einsum'], times['LightNL, NCHW'])))
    means = []
    for kind in kinds:
        speedups = [(r['speedup']['einsum'], r['nchw_speedup'])
                    for r in rows if r['kind'] == kind]
        means.append(['geometric mean', '', kind, '', *(
            f'{statistics.geometric_mean(s):.2f}' for s in zip(*speedups)), ''])
    print_table(
        'LightNL layer, float32, forward pass in deploy form (fused: as one operator); '
        'speedup over the formula in einsum and NCHW, and over NonLocal2d with '
        'reduction 1 and dot product',
        ['feature map', 'stride', 'pass', 'LightNL, ms', 'speedup over einsum',
         'speedup over einsum, LightNL in NCHW', 'speedup over NonLocal2d'],
        [[size_text(r['shape']), r['stride'], r['kind'],
          ms(r['seconds']['LightNL']), f'{r["speedup"]["einsum"]:.2f}',
          f'{r["nchw_speedup"]:.2f}',
          f'{r["speedup"]["NonLocal2d"]:.1f}' if 'NonLocal2d' in r['speedup']
          else 'does not fit'] for r in rows] + means)
    return rows


# ------------------------------------------------------------------ depthwise
def depthwise_step(function, conv, x):
    torch.autograd.grad(function(x, conv).sum(), conv.weight)


def depthwise(args):
    """The gradient of depthwise kernels, in float32 and channels_last."""
    rows = []
    for channels, kernel, size in DEPTHWISE_SHAPES:
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2,
                         groups=channels, bias=False, device=args.device)
        x = torch.randn(64, channels, size, size, device=args.device).to(
            memory_format=torch.channels_last)
        functions = dict(torch=lambda x, conv: conv(x), ours=depthwise_conv2d)
        times = interleaved(
            {name: functools.partial(depthwise_step, function, conv, x)
             for name, function in functions.items()},
            args.rounds, args.device, clock=args.clock)
        rows.append(dict(channels=channels, kernel_size=kernel, size=size, **times,
                         ratio=median_ratio(times['ours'], times['torch'])))
    print_table(
        'Depthwise convolution and the gradient of its kernel, 64 feature maps',
        ['channels', 'kernel', 'size', 'torch, ms', 'ours, ms', 'ratio'],
        [[r['channels'], size_text([r['kernel_size']] * 2), size_text([r['size']] * 2),
          ms(r['torch']), ms(r['ours']), f'{r["ratio"]:.2f}'] for r in rows])
    return rows


# ----------------------------------------------------------- memory and scaling
def memory_step(kind, name, batch_size, height, width, device):
    """The step that :func:`peak_memory` measures; pickle finds it by name."""
    return SCALING_KINDS[kind](
        network_by_name(name), noise(batch_size, height, width, device))


def memory(args):
    """Peak memory of a training step."""
    mib = {}
    for name in args.networks:
        step = memory_step, ('training', name, args.batch_size, *args.input_shape,
                             args.device)
        mib[name] = dict(peak=peak_memory(*step, args.device))
        if not on_gpu(args.device):  # on a GPU only tensors are counted
            mib[name]['of tensors'] = peak_of_tensors(*step)
    rows = []
    for name, found in mib.items():
        base = base_of(name, args)
        rows.append(dict(network=name, mib=found, ratio={
            kind: value / mib[base][kind] for kind, value in found.items()
        } if base in mib and base != name else {}))
    kinds = list(rows[0]['mib'])
    print_table(
        f'Peak memory of a training step, batch {args.batch_size}, '
        f'{size_text(args.input_shape)}',
        ['network', *(f'{kind}, MiB' for kind in kinds),
         *(f'{kind}, ratio to {args.base or "no LightNL"}' for kind in kinds)],
        [[r['network'], *(f'{r["mib"][kind]:,.0f}' for kind in kinds),
          *(f'{r["ratio"][kind]:.3f}' if r['ratio'] else '' for kind in kinds)]
         for r in rows])
    return rows


def scaling(args):
    """Growth of time and memory with the number of pixels."""
    rows = []
    pixels = [h * w for h, w in SCALING_SHAPES]
    for name in args.networks:
        for kind in SCALING_KINDS:
            if kind == 'fused' and kind not in args.forms:
                continue
            steps = {size: (kind, name, 1, *size, args.device)
                     for size in SCALING_SHAPES}
            times = interleaved({size: memory_step(*step) for size, step in
                                 steps.items()}, args.rounds, args.device,
                                clock=args.clock)
            times = [statistics.median(seconds) for seconds in times.values()]
            mib = [peak_memory(memory_step, step, args.device)
                   for step in steps.values()]
            rows.append(dict(
                network=name, kind=kind, seconds=times, mib=mib,
                slope_of_time=slope(pixels, times),
                slope_of_memory=slope(pixels, mib)))
    print_table(
        'Growth with the number of pixels, batch 1; slope in a log-log plot, 1 is '
        'linear',
        ['network', 'pass', *map(size_text, SCALING_SHAPES), 'slope'],
        [[r['network'], f'{r["kind"]}, {unit}',
          *[f'{v:,.0f}' for v in values], f'{r["slope_of_" + what]:.3f}']
         for r in rows for what, unit, values in (
             ('time', 'ms', [1e3 * t for t in r['seconds']]),
             ('memory', 'MiB', r['mib']))])
    return rows


def slope(x, y):
    """Slope of the straight line that fits the logarithms best."""
    return statistics.linear_regression(
        [math.log(v) for v in x], [math.log(v) for v in y]).slope


# -------------------------------------------------------------------- profile
def profile(args):
    """Milliseconds of each operator of a forward pass, on a CPU."""
    if on_gpu(args.device):
        print('profile: left out, it needs --device cpu\n')
        return []
    x = noise(args.batch_size, *args.input_shape)
    rows = []
    for name in args.networks:
        step = inference(network_by_name(name), x)
        step()
        rows.append(dict(network=name, ms={
            operator: 1e3 * seconds
            for operator, seconds in operator_times(step, args.rounds).items()}))
    top = sorted({o for row in rows for o in row['ms']},
                 key=lambda o: -max(row['ms'].get(o, 0) for row in rows))[:12]
    print_table(
        'Operators of a forward pass in deploy form, ms without operators they call, '
        f'mean of {args.rounds} runs, batch {args.batch_size}',
        ['operator', *args.networks],
        [[operator, *[f'{row["ms"].get(operator, 0):.2f}' for row in rows]]
         for operator in top] +
        [['all', *[f'{sum(row["ms"].values()):.2f}' for row in rows]]])
    return rows


# Measured in this order; each takes the arguments and returns its records.
PARTS = dict(networks=networks, layer=layer, depthwise=depthwise, memory=memory,
             scaling=scaling, profile=profile)


# ---------------------------------------------------------------------- common
def on_gpu(device):
    return torch.device(device).type == 'cuda'


def ms(seconds):
    return f'{1e3 * statistics.median(seconds):.3g}'


def size_text(size):
    return 'x'.join(map(str, size))


def print_table(title, header, rows):
    print(f'{title}\n\n{markdown_table(header, rows)}\n', flush=True)


def check(args):
    """Check the arguments and set the defaults that depend on the device."""
    gpu = on_gpu(args.device)
    if gpu and not torch.cuda.is_available():
        raise ValueError('--device is cuda, but torch finds no GPU')
    if args.batch_size is None:
        args.batch_size = 256 if gpu else 8
    configs.check_positive(args, 'rounds', 'batch_size')
    if gpu and args.cpu_time:
        raise ValueError('--cpu-time needs --device cpu, but --device is '
                         f'{args.device}')
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    args.input_shape = configs.parse_shape(args.input_shape, minimum=32)
    if args.base and args.base not in args.networks:
        raise ValueError(f'--base is {args.base!r}, which is not in --networks')
    for name in args.networks:
        network_by_name(name)
    for form in args.forms or ():
        if gpu and form not in ('eager', 'compile'):
            raise ValueError(f'--forms has {form}, which needs --device cpu')
    if 'onnxruntime' in (args.forms or ()):
        ENGINES['onnxruntime'].check(Settings((args.batch_size, 3, *args.input_shape)))
    forms = args.forms or ['eager', 'compile' if gpu else 'fused']
    if set(forms) & set(FUSED):
        try:
            load_fused_operators()
        except RuntimeError as e:
            if args.forms:
                raise ValueError(str(e)) from e
            print(f'left out: {e}')
            forms = ['eager']
    args.forms = forms


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        check(args)
    except (ImportError, OSError, ValueError) as e:
        sys.exit(f'benchmark.py: {e}')
    if not on_gpu(args.device):
        print('measured on the CPU' if torch.cuda.is_available() else
              'no GPU: measured on the CPU')
        print(keep_freed_memory())
    print(f'{device_name(args.device)}, torch {torch.__version__}, median of '
          f'{args.rounds} alternating runs'
          f'{", CPU time" if args.cpu_time else ""}\n')
    options = {k: v for k, v in vars(args).items() if k != 'clock'}
    record = dict(options, device_name=device_name(args.device),
                  machine=platform.platform(), torch=torch.__version__)
    for part, measure in PARTS.items():
        if part in args.parts:
            record[part] = measure(args)
    if args.out:
        atomic_write(args.out, json.dumps(record, indent=1))


if __name__ == '__main__':
    main()
