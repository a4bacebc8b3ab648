# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare AutoNL with the networks that its paper compares it with.

The tool builds the classifiers of some configs and measures them alternately in one
process: latency for one image and for a batch, and training throughput, each as
median, minimum and maximum. It prints a table. On request it writes JSON and plots the
published accuracy against measured latency and against MACs.
"""
import argparse
import json
import sys
from pathlib import Path

import matplotlib
import torch
from mmengine.config import Config

from autonl_mm.measure.counting import built_macs, count_parameters
from autonl_mm.measure.passes import without_grad
from autonl_mm.measure.scatter import scatter_networks
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.tables import markdown_table

matplotlib.use('Agg')
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/mmpretrain/{}_32xb128_in1k.py'
AUTONL = 'Li et al. 2020, arXiv 2004.01961'
# From the config to the name, the published top-1 accuracy on ImageNet and its
# source. No accuracy was measured here.
NETWORKS = {
    'shufflenet-v2-150': (
        'ShuffleNetV2 1.5', 72.6, 'Ma et al. 2018, arXiv 1807.11164'),
    'mobilenet-v2': ('MobileNetV2', 72.0, 'Sandler et al. 2018, arXiv 1801.04381'),
    'mobilenet-v2-light-nl': ('MobileNetV2-LightNL', 75.0, AUTONL),
    'fbnet-c': ('FBNet-C', 74.9, 'Wu et al. 2019, arXiv 1812.03443'),
    'mnasnet-a1': ('MnasNet-A1', 75.2, 'Tan et al. 2019, arXiv 1807.11626'),
    'mobilenet-v3-large': (
        'MobileNetV3-Large', 75.2, 'Howard et al. 2019, arXiv 1905.02244'),
    'mixnet-s': ('MixNet-S', 75.8, 'Tan and Le 2019, arXiv 1907.09595'),
    'mixnet-m': ('MixNet-M', 77.0, 'Tan and Le 2019, arXiv 1907.09595'),
    'efficientnet-b0': (
        'EfficientNet-B0', 77.1, 'Tan and Le 2019, arXiv 1905.11946'),
    'autonl-s': ('AutoNL-S', 76.5, AUTONL),
    'autonl-l': ('AutoNL-L', 77.7, AUTONL),
}
OWN = ('autonl', 'light-nl')
KINDS = ('latency', 'batch_latency', 'training')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--networks', nargs='+', default=list(NETWORKS), metavar='NAME',
        help=f'default: {" ".join(NETWORKS)}; or the path of a classifier\'s config')
    configs.add_input_shape(parser, (224, 224), 'default 224')
    parser.add_argument(
        '--batch-size', type=int, default=32,
        help='images in the batch, for its latency and for training; default 32')
    parser.add_argument(
        '--rounds', type=int, default=9, help='measurements per network, default 9')
    parser.add_argument(
        '--channels-last', action='store_true',
        help='use the memory layout in which depthwise convolutions are faster on a '
        'CPU')
    configs.add_device(parser)
    parser.add_argument('--out', type=Path, help='file for the measurements, .json')
    parser.add_argument('--plot', type=Path, help='file for the plot, .png')
    return parser.parse_args()


def build(network):
    """The classifier of a key of :data:`NETWORKS` or of a config; and its name, its
    published accuracy and the source, the latter two None if unknown."""
    published = NETWORKS.get(network)
    path = ROOT / CONFIG.format(network) if published else Path(network)
    if not path.is_file():
        raise FileNotFoundError(
            f'{network} is neither a config nor one of {", ".join(NETWORKS)}')
    model = configs.build_model(Config.fromfile(path))
    return model, published or (path.stem, None, None)


def make_call(kind, model, args):
    """One of :data:`KINDS` of calls of a classifier, which it is prepared for."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model.to(args.device).to(memory_format=layout).train(kind == 'training')
    x = torch.randn(1 if kind == 'latency' else args.batch_size, 3, *args.input_shape)
    x = x.to(args.device, memory_format=layout)
    if kind != 'training':
        return without_grad(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def train():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return train


def measure(models, args):
    """Seconds by model and kind; models are measured alternately for each kind."""
    times = {name: {} for name in models}
    for kind in KINDS:
        calls = {name: make_call(kind, model, args) for name, model in models.items()}
        for name, values in interleaved(calls, args.rounds, args.device,
                                        warmup=kind == 'latency').items():
            times[name][kind] = values
    return times


def table(rows, batch_size):
    """The comparison as Markdown, one row for each network."""
    lines = []
    for row in rows:
        cells = [row['name'], f'{row["macs"] / 1e6:.1f} M',
                 f'{row["parameters"] / 1e6:.2f} M']
        for kind in KINDS:
            values = [batch_size / t if kind == 'training' else 1e3 * t
                      for t in row['seconds'][kind]]
            cells.append(f'{Spread.of(values):.1f}')
        lines.append([*cells, row['top1'] or '-', row['source'] or '-'])
    return markdown_table(
        ['network', 'MACs', 'parameters', '1 image, ms', f'{batch_size} images, ms',
         'training, images/s', 'published top-1, %', 'source'], lines)


def plot(rows, out, title):
    """Plot published accuracy against latency and against MACs."""
    rows = [row for row in rows if row['top1']]
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, dpi=110)
    labels = ('measured latency for one image, ms', 'MACs, millions')
    xs = (lambda r: 1e3 * Spread.of(r['seconds']['latency']).median,
          lambda r: r['macs'] / 1e6)
    for ax, label, x_of in zip(axes, labels, xs):
        scatter_networks(ax, (
            (x_of(row), row['top1'], row['name'],
             any(word in row['config'] for word in OWN)) for row in rows))
        ax.set_xlabel(label)
    axes[0].set_ylabel('published ImageNet top-1, %')
    fig.suptitle(title, fontsize=10)
    fig.tight_layout()
    outputs.save_figure(fig, out)
    plt.close(fig)


def main():
    args = parse_args()
    rows, models = [], {}
    try:
        outputs.check_file('--out', args.out)
        outputs.check_file('--plot', args.plot)
        configs.check_positive(args, 'rounds', 'batch_size')
        args.input_shape = configs.parse_shape(args.input_shape, minimum=32)
        for network in args.networks:
            model, (name, top1, source) = build(network)
            models[network] = model
            rows.append(dict(
                config=network, name=name, top1=top1, source=source,
                macs=built_macs(model, 3, *args.input_shape),
                parameters=count_parameters(model)))
    except (FileNotFoundError, ImportError, ValueError) as e:
        sys.exit(f'compare_backbones.py: {e}')
    if args.device == 'cpu':
        print(keep_freed_memory())
    times = measure(models, args)
    for row in rows:
        row['seconds'] = times[row['config']]
    layout = ', channels last' if args.channels_last else ''
    height, width = args.input_shape
    title = (f'{height}x{width}, {device_name(args.device)}{layout}, torch '
             f'{torch.__version__}')
    print(f'{title}; median (minimum to maximum) of {args.rounds} alternating '
          'runs; accuracies are from the papers\n')
    print(table(rows, args.batch_size))
    if args.out:
        record = dict(vars(args), out=str(args.out), plot=str(args.plot),
                      torch=torch.__version__,
                      device_name=device_name(args.device), rows=rows)
        atomic_write(args.out, json.dumps(record, indent=1))
    if args.plot:
        plot(rows, args.plot, title)


if __name__ == '__main__':
    main()
