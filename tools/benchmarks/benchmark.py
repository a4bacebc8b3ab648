# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What LightNL and AutoNL cost in time and memory, on the machine at hand.

Seven parts: AutoNL against the same networks without LightNL; what steps of
LightNL cost in them; the LightNL layer against its formula written down with
einsum in NCHW, and against mmcv's NonLocal2d; peak memory of a training step;
growth with the size of the image; AutoNL-S against timm's MnasNet in the
fastest form of each; and which operators the time of a forward pass goes to,
on a CPU.

All times are medians of runs in turns in one process, and all ratios are
medians of the ratios within a turn. On a CPU everything is float32. On a GPU
networks train under bfloat16 autocast and infer in bfloat16, and stand beside
networks of timm. Needs torch, mmengine and mmcv or mmcv-lite; what else is
missing (timm, onnxruntime) is said and left out.
"""
import argparse
import contextlib
import functools
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn as nn
from mmcv.cnn import NonLocal2d
from torch._inductor import config as inductor_config
from torch.utils._python_dispatch import TorchDispatchMode

from autonl_mm.arch import resolve_arch
from autonl_mm.benchmark.measure import (
    device_name,
    in_turns,
    peak_memory,
    peak_of_tensors,
)
from autonl_mm.cli.allocator import keep_freed_memory
from autonl_mm.cost import light_nl_order
from autonl_mm.deploy import switch_to_deploy
from autonl_mm.models import AutoNL, LightNL, PoolDropout
from autonl_mm.ops import load_fused_operators

try:
    import timm
except ImportError:
    timm = None
try:
    import onnxruntime
    import onnxscript  # noqa: F401  torch.onnx exports by it
except ImportError:
    onnxruntime = None

PARTS = ('networks', 'ablation', 'layer', 'memory', 'scaling', 'mnasnet', 'profile')
FUSED = ('fused', 'fused-compile')
FORMS = ('eager', 'compile', *FUSED, 'graphs')
# The LightNL layers of AutoNL-S at 224, and two of a dense task's.
SHAPES = ('8x24x56x56:2', '8x40x28x28:2', '8x80x14x14:1', '8x96x14x14:1',
          '8x192x7x7:1', '8x320x7x7:1', '1x24x256x256:2', '1x96x64x64:1')
SIZES = ('224x224', '320x320', '512x512', '512x1024', '1024x2048')
NAMES = {'AutoNL-S': 's', 'AutoNL-L': 'l'}
WITHOUT = ' without LightNL'
HSWISH = ' with h-swish'
MNASNET = 'mnasnet_100'
BESIDE = ('mobilenetv3_large_100', 'efficientnet_b0', MNASNET)
AGAINST_MNASNET = ('AutoNL-S', 'AutoNL-S' + HSWISH, 'AutoNL-S' + WITHOUT)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--parts', nargs='+', default=PARTS, choices=PARTS,
        help='default: all')
    parser.add_argument(
        '--archs', nargs='+', default=list(NAMES), metavar='ARCH',
        help=f'default {" ".join(NAMES)}; also notation files')
    parser.add_argument(
        '--batch-size', type=int,
        help='of networks, default 8 on a CPU and 256 on a GPU')
    parser.add_argument('--input-size', type=int, default=224)
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements of each')
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS,
        help='of networks: as they are, by torch.compile, either with blocks '
        'as one operator (fused: forward passes on a CPU), or as CUDA graphs; '
        'default all that the device has, but on a CPU nothing compiled '
        'outside of the part mnasnet')
    parser.add_argument(
        '--shapes', nargs='+', default=SHAPES, metavar='NxCxHxW:STRIDE',
        help=f'of the part layer, default {" ".join(SHAPES)}')
    parser.add_argument(
        '--sizes', nargs='+', default=SIZES, metavar='HxW',
        help=f'of the part scaling, default {" ".join(SIZES)}')
    parser.add_argument(
        '--cpu-time', action='store_true',
        help='count the CPU time of all threads instead of the time that '
        'passes: for a machine that is busy with other work. Set '
        'OMP_NUM_THREADS=1, threads that wait for others count too')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', help='file for the figures, .json')
    return parser.parse_args()


# ------------------------------------------------------------------- networks
def build_network(name, device='cpu'):
    """A classifier of 1000 classes in channels_last.

    Args:
        name (str): Key of :data:`NAMES` or a notation file, either perhaps
            with one of :data:`VARIANTS` after it; or one of :data:`BESIDE`.
        device (str): Where to put it. Defaults to ``'cpu'``.

    Returns:
        nn.Module: The network, its LightNL layers trained in so far as their
        normalisation is not zero.
    """
    if name in BESIDE:
        net = timm.create_model(name)
    else:
        variant = next(filter(name.endswith, VARIANTS), '')
        plain = name.removesuffix(variant)
        arch = resolve_arch(NAMES.get(plain, plain))
        if variant == WITHOUT:
            arch = arch.without_light_nl()
        act = 'HSwish' if variant == HSWISH else 'Swish'
        net = nn.Sequential(
            AutoNL(arch, out_indices=(-1, ), act_cfg=dict(type=act)),
            LastMap(), PoolDropout(), nn.Linear(arch.head_channels, 1000))
        for path, module in list(net.named_modules()):
            if isinstance(module, LightNL):
                nn.init.constant_(module.norm.weight, 0.1)
                if variant in REDUCED:
                    parent, _, child = path.rpartition('.')
                    setattr(net.get_submodule(parent), child,
                            REDUCED[variant](module.in_channels))
    return net.to(device, memory_format=torch.channels_last)


class AddAlone(LightNL):
    """The last of LightNL's steps: a map is added to a map."""

    def branch(self, x, weight=None):
        return x


class ConvolutionAlone(LightNL):
    """LightNL without its products."""

    def branch(self, x, weight=None):
        return self.norm(self.conv(x))


REDUCED = {' with the add alone': AddAlone,
           ' with convolution and add alone': ConvolutionAlone}
VARIANTS = (WITHOUT, HSWISH, *REDUCED)


class LastMap(nn.Module):
    """The last of a backbone's maps."""

    def forward(self, maps):
        return maps[-1]


def image(batch_size, height, width, device):
    """A batch in channels_last, bfloat16 on a GPU."""
    x = torch.randn(batch_size, 3, height, width, device=device)
    return x.contiguous(memory_format=torch.channels_last)


def on_gpu(device):
    return torch.device(device).type == 'cuda'


def inference(name, x, form='eager'):
    """A forward pass of a network in deploy form.

    Args:
        name (str): As for :func:`build_network`.
        x (Tensor): The batch; it decides on the device.
        form (str): One of :data:`FORMS`. Defaults to ``'eager'``.

    Returns:
        Callable: The pass.
    """
    net = switch_to_deploy(build_network(name, x.device), form in FUSED)
    if on_gpu(x.device):
        net, x = net.bfloat16(), x.bfloat16()
    if 'compile' in form:
        net = torch.compile(net)
        # Freezing packs weights and fuses activations into convolutions; on a
        # CPU it is what is fastest. (As an option of torch.compile it does
        # nothing.)
        with torch.no_grad(), inductor_config.patch(
                freezing=not on_gpu(x.device)):
            net(x)

    def step():
        with torch.no_grad():
            return net(x)

    return graphed(step) if form == 'graphs' else step


def training(name, x, form='eager'):
    """A training step of a network, as :func:`inference`."""
    net = build_network(name, x.device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    run = torch.compile(net) if form == 'compile' else net
    amp = (torch.autocast('cuda', torch.bfloat16) if on_gpu(x.device) else
           contextlib.nullcontext())

    def step():
        # Not to None: a CUDA graph keeps adding to the same memory.
        optimizer.zero_grad(set_to_none=form != 'graphs')
        with amp:
            loss = run(x).float().square().mean()
        loss.backward()
        optimizer.step()

    return graphed(step) if form == 'graphs' else step


def graphed(step):
    """A step as a CUDA graph that is replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # One pool for all: they are replayed one after the other, and what they
    # keep between replays was made before.
    with torch.cuda.graph(graph, pool=graph_pool()):
        step()

    def replay(keep=step):  # with the tensors that the graph works on
        graph.replay()

    return replay


@functools.lru_cache(maxsize=None)
def graph_pool():
    return torch.cuda.graph_pool_handle()


KINDS = dict(forward=inference, training=training)
SCALING_KINDS = dict(KINDS, fused=functools.partial(inference, form='fused'))


def network_names(args):
    """With and without LightNL, for every arch."""
    return [name for arch in args.archs for name in (arch, arch + WITHOUT)]


def networks(args):
    """Part one: times with and without LightNL, and beside timm's."""
    names = network_names(args)
    if on_gpu(args.device):
        if timm is None:
            print('timm is not installed: its networks are left out\n')
        else:
            names += BESIDE
    x = image(args.batch_size, args.input_size, args.input_size, args.device)
    rows = []
    for form in args.forms:
        for kind, make in KINDS.items():
            if form in FUSED and kind == 'training':
                continue
            # torch compiles the same code eight times at most, and leaves it
            # as it is for the networks after that
            torch.compiler.reset()
            times = in_turns({name: make(name, x, form) for name in names},
                             args.rounds, args.device, clock=args.clock)
            for name in names:
                row = dict(network=name, form=form, kind=kind,
                           seconds=times[name])
                base = name + WITHOUT
                if base in times:
                    row['ratio'] = ratio(times[name], times[base])
                rows.append(row)
    print(f'Networks, {args.input_size}x{args.input_size}, batch '
          f'{args.batch_size}, channels_last, forward pass in deploy form\n')
    print_table(
        ['network', 'form', 'of', 'ms', 'images/s', 'to that without LightNL'],
        [[r['network'], r['form'], r['kind'], ms(r['seconds']),
          f'{args.batch_size / statistics.median(r["seconds"]):,.0f}',
          f'{r["ratio"]:.3f}' if 'ratio' in r else ''] for r in rows])
    return rows


# ------------------------------------------------------------------- ablation
def ablation(args):
    """Part two: a forward pass with more and more of LightNL's steps."""
    x = image(args.batch_size, args.input_size, args.input_size, args.device)
    rows = []
    for arch in args.archs:
        names = [arch + variant for variant in (WITHOUT, *REDUCED, '')]
        times = in_turns({name: inference(name, x) for name in names},
                         args.rounds, args.device, clock=args.clock)
        rows += [dict(network=name, seconds=times[name],
                      ratio=ratio(times[name], times[names[0]]))
                 for name in names]
    print('Steps of LightNL in the networks, forward pass in deploy form, '
          f'{args.input_size}x{args.input_size}, batch {args.batch_size}\n')
    print_table(
        ['network', 'ms', 'to that without LightNL'],
        [[r['network'], ms(r['seconds']), f'{r["ratio"]:.3f}']
         for r in rows])
    return rows


# ---------------------------------------------------------------------- layer
class EinsumLightNL(nn.Module):
    """LightNL's formula written down as it stands, for comparison."""

    def __init__(self, channels, stride):
        super().__init__()
        self.nl_channels, self.stride = channels // 4, stride
        self.conv = nn.Conv2d(
            channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        c, h, w = x.shape[1:]
        x_s = x[:, :, ::self.stride, ::self.stride]
        x_c, x_sc = x[:, :self.nl_channels], x_s[:, :self.nl_channels]
        if light_nl_order(c, self.nl_channels, h * w,
                          x_s.shape[2] * x_s.shape[3]) == 'channel':
            context = torch.einsum('niab,ncab->nic', x_sc, x_s)
            y = torch.einsum('nihw,nic->nchw', x_c, context)
        else:
            affinity = torch.einsum('nihw,niab->nhwab', x_c, x_sc)
            y = torch.einsum('nhwab,ncab->nchw', affinity, x_s)
        return x + self.norm(self.conv(y / (h * w)))


def layer_call(layer, x, train):
    """A forward pass of a layer, or one with the backward pass."""
    layer.to(x.device).train(train)
    if not train:
        def step():
            with torch.no_grad():
                layer(x)

        return step
    x = x.clone().requires_grad_()
    grad = torch.randn_like(x)

    def step():
        x.grad = None
        layer.zero_grad()
        layer(x).backward(grad)

    return step


def light_nl_call(x, stride, kind):
    """The same of LightNL; the forward pass in deploy form."""
    layer = LightNL(x.shape[1], stride=stride, zero_init=False)
    if kind != 'training':
        switch_to_deploy(layer, fused=kind == 'fused')
    return layer_call(layer, x, kind == 'training')


def layer(args):
    """Part three: LightNL against einsum and NonLocal2d."""
    rows = []
    kinds = ['forward', 'fused', 'training']
    if 'fused' not in args.forms:
        kinds.remove('fused')
    limit = free_memory(args.device) / 2
    for n, c, h, w, stride in args.shapes:
        x = torch.randn(n, c, h, w, device=args.device)
        last = x.contiguous(memory_format=torch.channels_last)
        for kind in kinds:
            train = kind == 'training'
            calls = {
                'einsum': layer_call(EinsumLightNL(c, stride), x, train),
                'LightNL': light_nl_call(last, stride, kind),
                'LightNL, NCHW': light_nl_call(x, stride, kind)
            }
            # affinity, its gradient and a product's copy
            if 4 * n * (h * w)**2 * (3 if train else 2) <= limit:
                calls['NonLocal2d'] = layer_call(
                    NonLocal2d(c, reduction=1, mode='dot_product'), x, train)
            times = in_turns(calls, args.rounds, args.device, settle=True,
                             clock=args.clock)
            rows.append(dict(
                shape=(n, c, h, w), stride=stride, kind=kind, seconds=times,
                speedup={key: ratio(times[key], times['LightNL'])
                         for key in ('einsum', 'NonLocal2d') if key in times},
                nchw_speedup=ratio(times['einsum'], times['LightNL, NCHW'])))
    print('LightNL layer, float32, forward pass in deploy form, perhaps as one '
          'operator (fused); times faster than the formula in einsum and NCHW, '
          'and than NonLocal2d of reduction 1 by dot product\n')
    print_table(
        ['map', 'stride', 'of', 'LightNL, ms', 'einsum', 'einsum, given NCHW',
         'NonLocal2d'],
        [['x'.join(map(str, r['shape'])), str(r['stride']), r['kind'],
          ms(r['seconds']['LightNL']), f'{r["speedup"]["einsum"]:.2f}',
          f'{r["nchw_speedup"]:.2f}',
          f'{r["speedup"]["NonLocal2d"]:.1f}' if 'NonLocal2d' in r['speedup']
          else 'does not fit'] for r in rows] +
        [['geometric mean', '', kind, '',
          f'{geometric([r["speedup"]["einsum"] for r in of]):.2f}',
          f'{geometric([r["nchw_speedup"] for r in of]):.2f}', '']
         for kind in kinds for of in [[r for r in rows if r['kind'] == kind]]])
    return rows


# --------------------------------------------------------------------- memory
def memory_step(kind, name, batch_size, height, width, device):
    """What :func:`peak_memory` measures; found by its name."""
    return SCALING_KINDS[kind](name, image(batch_size, height, width, device))


def memory(args):
    """Part four: peak memory of a training step."""
    size = (args.batch_size, args.input_size, args.input_size, args.device)
    names = network_names(args)
    rows = []
    for name in names:
        step = memory_step, ('training', name, *size)
        mib = dict(peak=peak_memory(*step, args.device))
        if not on_gpu(args.device):  # where tensors are all that is counted
            mib['of tensors'] = peak_of_tensors(*step)
        rows.append(dict(network=name, mib=mib))
    by_name = {row['network']: row['mib'] for row in rows}
    for row in rows:
        base = by_name.get(row['network'] + WITHOUT)
        row['ratio'] = {kind: mib / base[kind]
                        for kind, mib in row['mib'].items()} if base else {}
    print(f'Peak memory of a training step, batch {args.batch_size}, '
          f'{args.input_size}x{args.input_size}\n')
    kinds = list(rows[0]['mib'])
    print_table(
        ['network', *(f'{kind}, MiB' for kind in kinds),
         *(f'{kind}, to that without LightNL' for kind in kinds)],
        [[r['network'], *(f'{r["mib"][kind]:,.0f}' for kind in kinds),
          *(f'{r["ratio"][kind]:.3f}' if r['ratio'] else ''
            for kind in kinds)] for r in rows])
    return rows


# -------------------------------------------------------------------- scaling
def scaling(args):
    """Part five: growth of time and memory with the number of pixels."""
    rows = []
    pixels = [h * w for h, w in args.sizes]
    kinds = dict(SCALING_KINDS)
    if 'fused' not in args.forms:
        kinds.pop('fused')
    for name in args.archs:
        for kind, make in kinds.items():
            calls = {size: make(name, image(1, *size, args.device))
                     for size in args.sizes}
            times = in_turns(calls, args.rounds, args.device,
                             clock=args.clock)
            del calls
            times = [statistics.median(times[size]) for size in args.sizes]
            mib = [peak_memory(memory_step,
                               (kind, name, 1, *size, args.device),
                               args.device) for size in args.sizes]
            rows.append(dict(
                network=name, kind=kind, seconds=times, mib=mib,
                slope_of_time=slope(pixels, times),
                slope_of_memory=slope(pixels, mib)))
    print('Growth with the image, batch 1; slope of the logarithm over that '
          'of the number of pixels, 1 is linear\n')
    names = ['x'.join(map(str, size)) for size in args.sizes]
    print_table(
        ['network', 'of', *names, 'slope'],
        [[r['network'], f'{r["kind"]}, {unit}',
          *[f'{v:,.0f}' for v in values], f'{r["slope_of_" + what]:.3f}']
         for r in rows for what, unit, values in (
             ('time', 'ms', [1e3 * t for t in r['seconds']]),
             ('memory', 'MiB', r['mib']))])
    return rows


def slope(x, y):
    """Of the straight line through the logarithms."""
    return statistics.linear_regression(
        [math.log(v) for v in x], [math.log(v) for v in y]).slope


# -------------------------------------------------------------------- mnasnet
def mnasnet(args):
    """Part six: AutoNL-S against mnasnet_100, each in its fastest form."""
    if timm is None or on_gpu(args.device):
        print('AutoNL-S against mnasnet_100: left out, ' + (
            'timm is not installed' if timm is None else
            'on a GPU it is in the part networks'), '\n')
        return []
    if onnxruntime is None:
        print('onnxruntime or onnxscript is not installed: measured in '
              'PyTorch alone\n')
    names = (*AGAINST_MNASNET, MNASNET)
    rows = []
    for batch_size in sorted({1, args.batch_size}):
        torch.compiler.reset()
        x = image(batch_size, args.input_size, args.input_size, 'cpu')
        engines = {'PyTorch': {
            (name, form): inference(name, x, form)
            for name in names for form in args.mnasnet_forms
            if form not in FUSED or name != MNASNET}}
        if onnxruntime is not None:
            engines['onnxruntime'] = {(name, ''): onnx_session(name, x)
                                      for name in names}
        for engine, calls in engines.items():
            # Not in one turn: each engine's threads wait for work for a
            # while by spinning, on the cores that the other needs.
            times = in_turns(calls, args.rounds, clock=args.clock)
            best = {name: min((key for key in calls if key[0] == name),
                              key=lambda key: statistics.median(times[key]))
                    for name in names}
            rows += [dict(batch_size=batch_size, engine=engine, network=name,
                          form=key[1], seconds=times[key],
                          ratio=ratio(times[key], times[best[MNASNET]]))
                     for name, key in best.items()]
    print(f'AutoNL-S and timm\'s {MNASNET}, {args.input_size}x'
          f'{args.input_size}, each in its fastest form\n')
    print_table(
        ['batch', 'engine', 'network', 'form', 'ms', f'to {MNASNET}'],
        [[str(r['batch_size']), r['engine'], r['network'], r['form'],
          ms(r['seconds']), f'{r["ratio"]:.3f}'] for r in rows])
    return rows


def onnx_session(name, x):
    """A forward pass of a network in onnxruntime."""
    net = switch_to_deploy(build_network(name))
    x = x.contiguous()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # nor while another session is measured
    options.add_session_config_entry('session.force_spinning_stop', '1')
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / 'network.onnx')
        torch.onnx.export(net, (x, ), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(
            path, options, providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


# -------------------------------------------------------------------- profile
class OperatorTimes(TorchDispatchMode):
    """CPU seconds of every operator that is called, in order."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        start = time.process_time()
        out = func(*args, **(kwargs or {}))
        self.seconds.append((func, time.process_time() - start))
        return out


def profile(args):
    """Part seven: milliseconds of the operators of a forward pass."""
    if on_gpu(args.device):
        print('profile: left out, it is of the CPU\n')
        return []
    rows = []
    names = network_names(args)
    x = image(args.batch_size, args.input_size, args.input_size, 'cpu')
    for name in names:
        step, runs = inference(name, x), []
        step()
        for _ in range(args.rounds):
            with OperatorTimes() as mode:
                step()
            runs.append(mode.seconds)
        operators = defaultdict(float)
        for calls in zip(*runs):  # the same one, in every round
            operators[str(calls[0][0])] += 1e3 * min(s for _, s in calls)
        rows.append(dict(network=name, ms=operators))
    top = sorted({o for row in rows for o in row['ms']},
                 key=lambda o: -max(row['ms'].get(o, 0) for row in rows))
    print(f'Where the time of a forward pass in deploy form goes, ms of CPU '
          f'time, fastest of {args.rounds} runs, batch {args.batch_size}\n')
    print_table(
        ['operator', *names],
        [[operator, *[f'{row["ms"].get(operator, 0):.2f}' for row in rows]]
         for operator in top[:12]] +
        [['all', *[f'{sum(row["ms"].values()):.2f}' for row in rows]]])
    return rows


# ---------------------------------------------------------------------- common
def ratio(times, base):
    """Median of the ratios within the turns."""
    return statistics.median(a / b for a, b in zip(times, base))


def geometric(values):
    return statistics.geometric_mean(values)


def ms(seconds):
    return f'{1e3 * statistics.median(seconds):.3g}'


def free_memory(device):
    """Bytes that are free."""
    if on_gpu(device):
        return torch.cuda.mem_get_info(device)[0]
    for line in Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024


def print_table(head, rows):
    lines = [head, ['---'] * len(head), *rows]
    print('\n'.join('| ' + ' | '.join(line) + ' |' for line in lines), '\n',
          flush=True)


def parse_numbers(option, texts, pattern):
    """Tuples of positive integers.

    Raises:
        ValueError: If a text is not of the pattern; names the option.
    """
    count = pattern.replace(':', 'x').count('x') + 1
    sizes = []
    for text in texts:
        parts = text.replace(':', 'x').split('x')
        if len(parts) != count or not all(p.isdigit() and int(p)
                                          for p in parts):
            raise ValueError(f'{option} has {text!r}, expected {pattern}')
        sizes.append(tuple(map(int, parts)))
    return sizes


def check(args):
    """Fill in what depends on the device, and refuse what cannot run.

    Raises:
        ValueError: Names the option.
    """
    gpu = on_gpu(args.device)
    if gpu and not torch.cuda.is_available():
        raise ValueError('--device is cuda, but torch finds no GPU')
    args.batch_size = (256 if gpu else 8) if args.batch_size is None else \
        args.batch_size
    for form in args.forms or ():
        if gpu and form in FUSED:
            raise ValueError(f'--forms has {form}, which is for a CPU')
        if not gpu and form == 'graphs':
            raise ValueError('--forms has graphs, which are CUDA graphs and '
                             'need a GPU')
    forms = args.forms or [f for f in FORMS if f not in (
        FUSED if gpu else ['graphs'])]
    if set(forms) & set(FUSED):
        try:
            load_fused_operators()
        except RuntimeError as e:
            if args.forms:
                raise ValueError(str(e)) from e
            print(f'left out: {e}')
            forms = [f for f in forms if f not in FUSED]
    args.mnasnet_forms = forms
    # on a CPU compiling takes minutes
    args.forms = forms if args.forms or gpu else [
        f for f in forms if 'compile' not in f]
    if args.cpu_time and gpu:
        raise ValueError('--cpu-time is of a CPU, --device is '
                         f'{args.device}')
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    if args.rounds < 1 or args.batch_size < 1:
        raise ValueError('--rounds and --batch-size must be at least 1')
    args.sizes = parse_numbers('--sizes', args.sizes, 'HxW')
    args.shapes = parse_numbers('--shapes', args.shapes, 'NxCxHxW:STRIDE')
    if args.input_size < 32 or min(map(min, args.sizes)) < 32:
        raise ValueError('--input-size and --sizes must be at least 32')
    if len(set(args.sizes)) < 2:
        raise ValueError('--sizes has one size, expected at least two')
    for arch in args.archs:
        resolve_arch(NAMES.get(arch, arch))


def main():
    args = parse_args()
    try:
        check(args)
    except (ValueError, OSError) as e:
        sys.exit(f'benchmark.py: {e}')
    if not on_gpu(args.device):
        print('no GPU: measured on the CPU' if not torch.cuda.is_available()
              else 'measured on the CPU')
        print(keep_freed_memory())
    print(f'{device_name(args.device)}, torch {torch.__version__}, median of '
          f'{args.rounds} runs in turns'
          f'{", CPU time" if args.cpu_time else ""}\n')
    options = {k: v for k, v in vars(args).items() if k != 'clock'}
    record = dict(options, device_name=device_name(args.device),
                  machine=platform.platform(), torch=torch.__version__)
    for part in PARTS:
        if part in args.parts:
            record[part] = globals()[part](args)
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=1))


if __name__ == '__main__':
    main()
