# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure time and memory of LightNL and AutoNL on this machine.

There are nine parts:

- networks: AutoNL against the same networks without LightNL;
- normalize: AutoNL with the bounded LightNL against AutoNL with the paper's;
- ablation: the time that each step of LightNL adds to a network;
- layer: the LightNL layer against its formula in einsum and NCHW, and against
  mmcv's NonLocal2d;
- depthwise: the gradient of a depthwise kernel on small feature maps, against torch's;
- memory: peak memory of a training step;
- scaling: time and memory against the number of pixels;
- mnasnet: AutoNL-S against timm's MnasNet, each in its fastest form;
- profile: time of each operator in a forward pass, on a CPU only.

The calls that are compared run in turns in one process. Times are medians over
the rounds, ratios are medians of the ratios within a round. On a CPU everything
is float32. On a GPU networks train under bfloat16 autocast and infer in
bfloat16, and networks of timm are measured too. Needs torch, mmengine and mmcv
or mmcv-lite; without timm or onnxruntime a message says what is left out.
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
from autonl_mm.deploy import switch_to_deploy
from autonl_mm.measure.classifiers import NAMES, NO_LIGHT_NL, network_by_name
from autonl_mm.measure.comparison_blocks import EinsumLightNL
from autonl_mm.measure.timing import (
    device_name,
    interleaved,
    peak_memory,
    peak_of_tensors,
)
from autonl_mm.models import LightNL
from autonl_mm.models.layers import depthwise_conv2d
from autonl_mm.ops import load_fused_operators
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write

try:
    import timm
except ImportError:
    timm = None
try:
    import onnxruntime
    import onnxscript  # noqa: F401  torch.onnx exports by it
except ImportError:
    onnxruntime = None

FUSED = ('fused', 'fused-compile')
FORMS = ('eager', 'compile', *FUSED, 'graphs')
# The LightNL layers of AutoNL-S at 224, and two of a dense task.
LAYER_SHAPES = ('8x24x56x56:2', '8x40x28x28:2', '8x80x14x14:1', '8x96x14x14:1',
                '8x192x7x7:1', '8x320x7x7:1', '1x24x256x256:2', '1x96x64x64:1')
# The last depthwise convolutions of AutoNL-S at 64 and 128, and one that is not small
DEPTHWISE_SHAPES = ((576, 5, 2), (1152, 5, 4), (320, 3, 2), (480, 5, 8))
INPUT_SHAPES = ('224x224', '320x320', '512x512', '512x1024', '1024x2048')
MNASNET = 'mnasnet_100'
TIMM_NETWORKS = ('mobilenetv3_large_100', 'efficientnet_b0', MNASNET)
AGAINST_MNASNET = ('AutoNL-S', 'AutoNL-S:h-swish', 'AutoNL-S' + NO_LIGHT_NL)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--parts', nargs='+', default=tuple(PARTS), choices=tuple(PARTS),
        help='default: all')
    parser.add_argument(
        '--archs', nargs='+', default=list(NAMES), metavar='ARCH',
        help=f'default {" ".join(NAMES)}; also notation files')
    parser.add_argument(
        '--batch-size', type=int,
        help='of networks, default 8 on a CPU and 256 on a GPU')
    configs.add_input_shape(parser, (224, 224), 'default 224')
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements of each')
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS,
        help='forms of the networks: eager; by torch.compile; either with each '
        'block as one operator (fused: forward passes on a CPU); or as CUDA '
        'graphs; default: all that the device supports, but on a CPU the '
        'compiled forms in the part mnasnet only')
    parser.add_argument(
        '--layer-shapes', nargs='+', default=LAYER_SHAPES,
        metavar='NxCxHxW:STRIDE', help='feature maps and strides of the part '
        f'layer, default {" ".join(LAYER_SHAPES)}')
    parser.add_argument(
        '--input-shapes', nargs='+', default=INPUT_SHAPES, metavar='HxW',
        help='images of the part scaling, at least two, default '
        f'{" ".join(INPUT_SHAPES)}')
    parser.add_argument(
        '--cpu-time', action='store_true',
        help='measure the CPU time of all threads instead of wall-clock time: '
        'for a machine that is busy with other work. Set OMP_NUM_THREADS=1, '
        'as threads that wait for others count too')
    configs.add_device(parser)
    parser.add_argument('--out', help='file for the measurements, .json')
    return parser.parse_args()


# ------------------------------------------------------------------- networks
def build_network(name, device='cpu'):
    """A classifier in channels_last.

    Args:
        name (str): As for :func:`autonl_mm.measure.classifiers.network_by_name`.
        device (str): Where to put it. Defaults to ``'cpu'``.

    Returns:
        nn.Module: The network.
    """
    return network_by_name(name).to(device, memory_format=torch.channels_last)


def image(batch_size, height, width, device):
    """A batch of noise in channels_last, ``(N, 3, H, W)``."""
    x = torch.randn(batch_size, 3, height, width, device=device)
    return x.contiguous(memory_format=torch.channels_last)


def on_gpu(device):
    return torch.device(device).type == 'cuda'


def inference(name, x, form='eager'):
    """A forward pass of a network in deploy form.

    Args:
        name (str): As for :func:`build_network`.
        x (Tensor): The batch; the network is put on its device.
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
    """A training step of a network; see :func:`inference`."""
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
    # One pool for all graphs: they are replayed one after the other, and what
    # they keep between replays was allocated before.
    with torch.cuda.graph(graph, pool=graph_pool()):
        step()

    def replay(keep=step):  # keeps the tensors that the graph works on
        graph.replay()

    return replay


@functools.cache
def graph_pool():
    return torch.cuda.graph_pool_handle()


KINDS = dict(forward=inference, training=training)
SCALING_KINDS = dict(KINDS, fused=functools.partial(inference, form='fused'))


def network_names(args):
    """With and without LightNL, for every arch."""
    return [name for arch in args.archs for name in (arch, arch + NO_LIGHT_NL)]


def network_times(args, names):
    """Measure networks in turns, in all forms.

    Args:
        args (Namespace): The tool's arguments.
        names (list[str]): As for :func:`build_network`.

    Yields:
        tuple[str, str, dict[str, list[float]]]: Form, key of :data:`KINDS`, and
        seconds of each network.
    """
    x = image(args.batch_size, *args.input_shape, args.device)
    for form in args.forms:
        for kind, make in KINDS.items():
            if form in FUSED and kind == 'training':
                continue
            # torch compiles the same code eight times at most; the networks
            # after that would stay eager
            torch.compiler.reset()
            yield form, kind, interleaved(
                {name: make(name, x, form) for name in names}, args.rounds, args.device,
                clock=args.clock)


def networks(args):
    """Times of networks with and without LightNL, and of timm's networks."""
    names = network_names(args)
    if on_gpu(args.device):
        if timm is None:
            print('timm is not installed: its networks are left out\n')
        else:
            names += TIMM_NETWORKS
    rows = []
    for form, kind, times in network_times(args, names):
        for name in names:
            row = dict(network=name, form=form, kind=kind, seconds=times[name])
            base = name + NO_LIGHT_NL
            if base in times:
                row['ratio'] = ratio(times[name], times[base])
            rows.append(row)
    print(f'Networks, {size_text(args.input_shape)}, batch {args.batch_size}, '
          'channels_last, forward pass in deploy form\n')
    print_table(
        ['network', 'form', 'pass', 'ms', 'images/s', 'ratio to no LightNL'],
        [[r['network'], r['form'], r['kind'], ms(r['seconds']),
          f'{args.batch_size / statistics.median(r["seconds"]):,.0f}',
          f'{r["ratio"]:.3f}' if 'ratio' in r else ''] for r in rows])
    return rows


def normalize(args):
    """Times of networks with the bounded LightNL and with the paper's."""
    paper, bounded = ':size', ':rms'
    names = [arch + form for arch in args.archs for form in (paper, bounded)]
    measured = list(network_times(args, names))
    if onnxruntime is None or on_gpu(args.device):
        print('onnxruntime: left out, ' + (
            'on a GPU networks run in PyTorch' if on_gpu(args.device) else
            'it or onnxscript is not installed') + '\n')
    else:
        x = image(args.batch_size, *args.input_shape, 'cpu')
        measured.append(('onnxruntime', 'forward', interleaved(
            {name: onnx_session(name, x) for name in names}, args.rounds,
            clock=args.clock)))
    rows = [dict(network=arch, form=form, kind=kind, seconds=times[arch + bounded],
                 ratio=ratio(times[arch + bounded], times[arch + paper]))
            for form, kind, times in measured for arch in args.archs]
    print(f'With the bounded LightNL, {size_text(args.input_shape)}, batch '
          f'{args.batch_size}, forward pass in deploy form\n')
    print_table(
        ['network', 'form', 'pass', 'ms', "ratio to the paper's LightNL"],
        [[r['network'], r['form'], r['kind'], ms(r['seconds']), f'{r["ratio"]:.3f}']
         for r in rows])
    return rows


# ------------------------------------------------------------------- ablation
ABLATION = (NO_LIGHT_NL, ':add-only', ':convolution-only', '')


def ablation(args):
    """Forward passes with more and more of the steps of LightNL."""
    x = image(args.batch_size, *args.input_shape, args.device)
    rows = []
    for arch in args.archs:
        names = [arch + variant for variant in ABLATION]
        times = interleaved({name: inference(name, x) for name in names},
                         args.rounds, args.device, clock=args.clock)
        rows += [dict(network=name, seconds=times[name],
                      ratio=ratio(times[name], times[names[0]]))
                 for name in names]
    print('Steps of LightNL in the networks, forward pass in deploy form, '
          f'{size_text(args.input_shape)}, batch {args.batch_size}\n')
    print_table(
        ['network', 'ms', 'ratio to no LightNL'],
        [[r['network'], ms(r['seconds']), f'{r["ratio"]:.3f}']
         for r in rows])
    return rows


# ---------------------------------------------------------------------- layer
PAPERS = dict(normalize='size', zero_init=False)


def layer_call(layer, x, train):
    """A forward pass of a layer, with the backward pass in training."""
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
    """:func:`layer_call` for LightNL, in deploy form except in training."""
    layer = LightNL(x.shape[1], **PAPERS, stride=stride)
    if kind != 'training':
        switch_to_deploy(layer, fused=kind == 'fused')
    return layer_call(layer, x, kind == 'training')


def layer(args):
    """The LightNL layer against einsum and NonLocal2d."""
    rows = []
    kinds = ['forward', 'fused', 'training']
    if 'fused' not in args.forms:
        kinds.remove('fused')
    limit = free_memory(args.device) / 2
    for n, c, h, w, stride in args.layer_shapes:
        x = torch.randn(n, c, h, w, device=args.device)
        last = x.contiguous(memory_format=torch.channels_last)
        for kind in kinds:
            train = kind == 'training'
            calls = {
                'einsum': layer_call(EinsumLightNL(c, **PAPERS, stride=stride), x,
                                     train),
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
                speedup={key: ratio(times[key], times['LightNL'])
                         for key in ('einsum', 'NonLocal2d') if key in times},
                nchw_speedup=ratio(times['einsum'], times['LightNL, NCHW'])))
    print('LightNL layer, float32, forward pass in deploy form (fused: as one '
          'operator); speedup over the formula in einsum and NCHW, and over '
          'NonLocal2d with reduction 1 and dot product\n')
    print_table(
        ['feature map', 'stride', 'pass', 'LightNL, ms', 'speedup over einsum',
         'speedup over einsum, LightNL in NCHW', 'speedup over NonLocal2d'],
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


# ------------------------------------------------------------------ depthwise
def depthwise_step(function, conv, x):
    torch.autograd.grad(function(conv, x).sum(), conv.weight)


def depthwise(args):
    """The gradient of depthwise kernels, in float32 and channels_last."""
    rows = []
    for channels, kernel, size in DEPTHWISE_SHAPES:
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2,
                         groups=channels, bias=False, device=args.device)
        x = torch.randn(64, channels, size, size, device=args.device).to(
            memory_format=torch.channels_last)

        calls = dict(
            torch=functools.partial(depthwise_step, nn.Conv2d.forward, conv, x),
            ours=functools.partial(
                depthwise_step, lambda conv, x: depthwise_conv2d(x, conv), conv, x))
        times = interleaved(calls, args.rounds, args.device, clock=args.clock)
        rows.append(dict(channels=channels, kernel_size=kernel, size=size, **times,
                         ratio=ratio(times['ours'], times['torch'])))
    print('Depthwise convolution and the gradient of its kernel, 64 feature maps\n')
    print_table(
        ['channels', 'kernel', 'size', 'torch, ms', 'ours, ms', 'ratio'],
        [[str(r['channels']), size_text([r['kernel_size']] * 2),
          size_text([r['size']] * 2), ms(r['torch']), ms(r['ours']),
          f'{r["ratio"]:.2f}'] for r in rows])
    return rows


# --------------------------------------------------------------------- memory
def memory_step(kind, name, batch_size, height, width, device):
    """The step that :func:`peak_memory` measures; pickle finds it by name."""
    return SCALING_KINDS[kind](name, image(batch_size, height, width, device))


def memory(args):
    """Peak memory of a training step."""
    size = (args.batch_size, *args.input_shape, args.device)
    names = network_names(args)
    rows = []
    for name in names:
        step = memory_step, ('training', name, *size)
        mib = dict(peak=peak_memory(*step, args.device))
        if not on_gpu(args.device):  # on a GPU only tensors are counted
            mib['of tensors'] = peak_of_tensors(*step)
        rows.append(dict(network=name, mib=mib))
    by_name = {row['network']: row['mib'] for row in rows}
    for row in rows:
        base = by_name.get(row['network'] + NO_LIGHT_NL)
        row['ratio'] = {kind: mib / base[kind]
                        for kind, mib in row['mib'].items()} if base else {}
    print(f'Peak memory of a training step, batch {args.batch_size}, '
          f'{size_text(args.input_shape)}\n')
    kinds = list(rows[0]['mib'])
    print_table(
        ['network', *(f'{kind}, MiB' for kind in kinds),
         *(f'{kind}, ratio to no LightNL' for kind in kinds)],
        [[r['network'], *(f'{r["mib"][kind]:,.0f}' for kind in kinds),
          *(f'{r["ratio"][kind]:.3f}' if r['ratio'] else ''
            for kind in kinds)] for r in rows])
    return rows


# -------------------------------------------------------------------- scaling
def scaling(args):
    """Growth of time and memory with the number of pixels."""
    rows = []
    pixels = [h * w for h, w in args.input_shapes]
    kinds = dict(SCALING_KINDS)
    if 'fused' not in args.forms:
        kinds.pop('fused')
    for name in args.archs:
        for kind, make in kinds.items():
            calls = {size: make(name, image(1, *size, args.device))
                     for size in args.input_shapes}
            times = interleaved(calls, args.rounds, args.device,
                             clock=args.clock)
            del calls
            times = [statistics.median(times[size]) for size in args.input_shapes]
            mib = [peak_memory(memory_step,
                               (kind, name, 1, *size, args.device),
                               args.device) for size in args.input_shapes]
            rows.append(dict(
                network=name, kind=kind, seconds=times, mib=mib,
                slope_of_time=slope(pixels, times),
                slope_of_memory=slope(pixels, mib)))
    print('Growth with the number of pixels, batch 1; slope in a log-log plot, '
          '1 is linear\n')
    print_table(
        ['network', 'pass', *map(size_text, args.input_shapes), 'slope'],
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


# -------------------------------------------------------------------- mnasnet
def mnasnet(args):
    """AutoNL-S against mnasnet_100, each in its fastest form."""
    if timm is None or on_gpu(args.device):
        print('AutoNL-S against mnasnet_100: left out, ' + (
            'timm is not installed' if timm is None else
            'on a GPU the part networks has it'), '\n')
        return []
    if onnxruntime is None:
        print('onnxruntime or onnxscript is not installed: measured in '
              'PyTorch only\n')
    names = (*AGAINST_MNASNET, MNASNET)
    rows = []
    for batch_size in sorted({1, args.batch_size}):
        torch.compiler.reset()
        x = image(batch_size, *args.input_shape, 'cpu')
        engines = {'PyTorch': {
            (name, form): inference(name, x, form)
            for name in names for form in args.mnasnet_forms
            if form not in FUSED or name != MNASNET}}
        if onnxruntime is not None:
            engines['onnxruntime'] = {(name, ''): onnx_session(name, x)
                                      for name in names}
        for engine, calls in engines.items():
            # Each engine separately: its threads spin for a while when they
            # wait for work, on the cores that the other engine needs.
            times = interleaved(calls, args.rounds, clock=args.clock)
            best = {name: min((key for key in calls if key[0] == name),
                              key=lambda key: statistics.median(times[key]))
                    for name in names}
            rows += [dict(batch_size=batch_size, engine=engine, network=name,
                          form=key[1], seconds=times[key],
                          ratio=ratio(times[key], times[best[MNASNET]]))
                     for name, key in best.items()]
    print(f'AutoNL-S and timm\'s {MNASNET}, {size_text(args.input_shape)}, each '
          'in its fastest form\n')
    print_table(
        ['batch', 'engine', 'network', 'form', 'ms', f'ratio to {MNASNET}'],
        [[str(r['batch_size']), r['engine'], r['network'], r['form'],
          ms(r['seconds']), f'{r["ratio"]:.3f}'] for r in rows])
    return rows


def onnx_session(name, x):
    """A forward pass of a network in onnxruntime."""
    net = switch_to_deploy(build_network(name))
    x = x.contiguous()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # so that its threads do not spin while another session is measured
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
    """Milliseconds of each operator of a forward pass, on a CPU."""
    if on_gpu(args.device):
        print('profile: left out, it needs --device cpu\n')
        return []
    rows = []
    names = network_names(args)
    x = image(args.batch_size, *args.input_shape, 'cpu')
    for name in names:
        step, runs = inference(name, x), []
        step()
        for _ in range(args.rounds):
            with OperatorTimes() as mode:
                step()
            runs.append(mode.seconds)
        operators = defaultdict(float)
        for calls in zip(*runs):  # the same call in every round
            operators[str(calls[0][0])] += 1e3 * min(s for _, s in calls)
        rows.append(dict(network=name, ms=operators))
    top = sorted({o for row in rows for o in row['ms']},
                 key=lambda o: -max(row['ms'].get(o, 0) for row in rows))
    print(f'Operators of a forward pass in deploy form, ms of CPU time, '
          f'minimum of {args.rounds} runs, batch {args.batch_size}\n')
    print_table(
        ['operator', *names],
        [[operator, *[f'{row["ms"].get(operator, 0):.2f}' for row in rows]]
         for operator in top[:12]] +
        [['all', *[f'{sum(row["ms"].values()):.2f}' for row in rows]]])
    return rows


# Measured in this order; each takes the arguments and returns its records.
PARTS = dict(networks=networks, normalize=normalize, ablation=ablation, layer=layer,
             depthwise=depthwise, memory=memory, scaling=scaling, mnasnet=mnasnet,
             profile=profile)


# ---------------------------------------------------------------------- common
def ratio(times, base):
    """Median of the ratios within the rounds."""
    return statistics.median(a / b for a, b in zip(times, base))


def geometric(values):
    return statistics.geometric_mean(values)


def ms(seconds):
    return f'{1e3 * statistics.median(seconds):.3g}'


def size_text(size):
    return 'x'.join(map(str, size))


def free_memory(device):
    """Free memory of a device in bytes."""
    if on_gpu(device):
        return torch.cuda.mem_get_info(device)[0]
    for line in Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024


def print_table(head, rows):
    lines = [head, ['---'] * len(head), *rows]
    print('\n'.join('| ' + ' | '.join(line) + ' |' for line in lines), '\n',
          flush=True)


def check(args):
    """Check the arguments and set the defaults that depend on the device.

    Raises:
        ValueError: If an option does not suit the device or the others.
    """
    gpu = on_gpu(args.device)
    if gpu and not torch.cuda.is_available():
        raise ValueError('--device is cuda, but torch finds no GPU')
    args.batch_size = (256 if gpu else 8) if args.batch_size is None else \
        args.batch_size
    for form in args.forms or ():
        if gpu and form in FUSED:
            raise ValueError(f'--forms has {form}, which needs --device cpu')
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
    # compiling takes minutes on a CPU
    args.forms = forms if args.forms or gpu else [
        f for f in forms if 'compile' not in f]
    if args.cpu_time and gpu:
        raise ValueError('--cpu-time needs --device cpu, but --device is '
                         f'{args.device}')
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    if args.rounds < 1 or args.batch_size < 1:
        raise ValueError('--rounds and --batch-size must be at least 1')
    args.input_shape = configs.parse_shape(args.input_shape, minimum=32)
    args.input_shapes = configs.parse_shapes('--input-shapes',
                                             args.input_shapes, 'HxW', 32)
    args.layer_shapes = configs.parse_shapes('--layer-shapes',
                                             args.layer_shapes, 'NxCxHxW:STRIDE')
    if len(set(args.input_shapes)) < 2:
        raise ValueError('--input-shapes has one shape, expected at least two')
    for arch in args.archs:
        resolve_arch(NAMES.get(arch, arch))


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
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
    for part, measure in PARTS.items():
        if part in args.parts:
            record[part] = measure(args)
    if args.out:
        atomic_write(args.out, json.dumps(record, indent=1))


if __name__ == '__main__':
    main()
