# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Plot networks block by block, as in the figures of the AutoNL paper.

Each network is a row and each block a bar. The height of the bar is the expand ratio,
its colour the kernel size of the depthwise convolution. Squeeze-excite and LightNL are
above the bar, the channels and the stride of the stage below it.
"""
import argparse
import sys
from pathlib import Path
from typing import List, Tuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from autonl_mm import ArchSpec, BlockSpec, count_macs
from autonl_mm.arch import resolve_arch
from autonl_mm.runs import configs, outputs

KERNEL_COLOURS = {3: '#4c78a8', 5: '#f58518', 7: '#b33a3a'}
OTHER_KERNEL = '#7f7f7f'
SE_COLOUR = '#cdebc5'
NL_COLOUR = '#e3d0f2'
END_COLOUR = '#d9d9d9'
# Heights of the rows of text; bars are at most 1 high.
NL_ROW, SE_ROW = 1.58, 1.22
KERNEL_ROW, CHANNELS_ROW, STRIDE_ROW = -0.12, -0.29, -0.46
# Inches; with less, the texts of neighbouring blocks or networks overlap.
BLOCK_WIDTH, NETWORK_HEIGHT, MIN_WIDTH = 0.46, 3.0, 7.5


def name_of(arch: str) -> str:
    """The name of a network in the plot."""
    return f'AutoNL-{arch.upper()}' if arch in ('s', 'l') else Path(arch).stem


def title_of(name: str, spec: ArchSpec, input_shape: Tuple[int, int],
             num_classes: int) -> str:
    """The title of a network: its name, number of blocks and MACs.

    Args:
        name (str): Name of the network.
        spec (ArchSpec): The network.
        input_shape (tuple[int, int]): ``(H, W)`` of the input image.
        num_classes (int): Number of classes.
    """
    macs = count_macs(spec, input_shape, num_classes).total / 1e6
    digits = 0 if macs >= 100 else 1 if macs >= 10 else 2
    size = '\N{MULTIPLICATION SIGN}'.join(map(str, input_shape))
    return (f'{name}: {len(spec.blocks)} blocks, {macs:,.{digits}f} M MACs '
            f'at {size}, {num_classes} classes')


def plot_label(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    """A text in a coloured box."""
    ax.text(
        x,
        y,
        text,
        ha='center',
        va='center',
        fontsize=7,
        linespacing=1.1,
        bbox=dict(boxstyle='round,pad=0.25', facecolor=colour, linewidth=0))


def plot_block(ax: Axes, x: int, block: BlockSpec, max_ratio: float) -> None:
    """The bar of a block, with squeeze-excite and LightNL above it.

    Args:
        ax (Axes): The row of the network.
        x (int): Position of the block.
        block (BlockSpec): The block.
        max_ratio (float): Largest expand ratio in the plot.
    """
    colour = KERNEL_COLOURS.get(block.kernel_size, OTHER_KERNEL)
    ax.bar(x, block.expand_ratio / max_ratio, width=0.74, color=colour)
    ax.text(
        x,
        KERNEL_ROW,
        block.kernel_size,
        ha='center',
        va='center',
        fontsize=8,
        fontweight='bold',
        color=colour)
    if block.se_ratio:
        plot_label(ax, x, SE_ROW, f'{block.se_ratio:.3g}', SE_COLOUR)
    if block.nl_ratio:
        plot_label(ax, x, NL_ROW, f'{block.nl_ratio:.3g}\ns{block.nl_stride}',
                   NL_COLOUR)


def plot_end(ax: Axes, x: int, name: str, channels: int, stride: int) -> None:
    """The bar of the stem or the head."""
    ax.bar(x, 1, width=0.5, color=END_COLOUR)
    ax.text(x, 0.5, name, rotation=90, ha='center', va='center', fontsize=8)
    label_stage(ax, x, channels, stride)


def label_stage(ax: Axes, x: float, channels: int, stride: int) -> None:
    """Channels of a stage's output, and its stride relative to the image."""
    for y, text in ((CHANNELS_ROW, f'{channels}'), (STRIDE_ROW, f'/{stride}')):
        ax.text(x, y, text, ha='center', va='center', fontsize=8)


def plot_network(ax: Axes, spec: ArchSpec, max_ratio: float) -> None:
    """One network from stem to head.

    Args:
        ax (Axes): The row of the network.
        spec (ArchSpec): The network.
        max_ratio (float): Largest expand ratio in the plot.
    """
    stride = 2
    plot_end(ax, 0, 'stem', spec.stem_channels, stride)
    first = 1
    for i, stage in enumerate(spec.stages):
        end = first + len(stage)
        ax.axvspan(
            first - 0.5,
            end - 0.5,
            color='#f7f7f7' if i % 2 else '#ededed',
            linewidth=0,
            zorder=0)
        stride *= stage[0].stride
        label_stage(ax, (first + end - 1) / 2, stage[-1].out_channels, stride)
        for x, block in enumerate(stage, first):
            plot_block(ax, x, block, max_ratio)
        first = end
    plot_end(ax, first, 'head', spec.head_channels, stride)


def label_rows(ax: Axes, specs: List[ArchSpec], max_ratio: float) -> None:
    """Label the rows of text and the scale of the bars at the left.

    Args:
        ax (Axes): The row of a network.
        specs (list[ArchSpec]): All networks of the plot.
        max_ratio (float): Largest expand ratio in the plot.
    """
    rows = {
        STRIDE_ROW: 'stride',
        CHANNELS_ROW: 'channels',
        KERNEL_ROW: 'kernel',
        SE_ROW: 'SE ratio',
        NL_ROW: 'LightNL\nratio, stride'
    }
    ratios = {b.expand_ratio for spec in specs for b in spec.blocks}
    ticks = [max_ratio]
    for ratio in sorted(ratios, reverse=True):
        # labels that are closer than this overlap
        if ticks[-1] - ratio > 0.12 * max_ratio:
            ticks.append(ratio)
    rows.update({r / max_ratio: f'expand {r:.3g}' for r in ticks})
    ax.set_yticks(list(rows), list(rows.values()), fontsize=8)
    ax.hlines([r / max_ratio for r in ticks],
              -0.5,
              ax.get_xlim()[1],
              color='white',
              linewidth=0.8,
              zorder=0.5)
    ax.set_ylim(STRIDE_ROW - 0.12, NL_ROW + 0.25)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def legend_of(specs: List[ArchSpec]) -> List[Patch]:
    """Legend of the colours that occur in the plot."""
    blocks = [b for spec in specs for b in spec.blocks]
    kernels = {b.kernel_size for b in blocks}
    entries = [
        Patch(color=colour, label=f'kernel {kernel}')
        for kernel, colour in KERNEL_COLOURS.items() if kernel in kernels
    ]
    if kernels - KERNEL_COLOURS.keys():
        entries.append(Patch(color=OTHER_KERNEL, label='other kernel'))
    if any(b.se_ratio for b in blocks):
        entries.append(Patch(color=SE_COLOUR, label='squeeze-excite'))
    if any(b.nl_ratio for b in blocks):
        entries.append(Patch(color=NL_COLOUR, label='LightNL'))
    return entries


def plot(specs: List[ArchSpec], titles: List[str]) -> Figure:
    """Plot networks below each other, on the same scale.

    Args:
        specs (list[ArchSpec]): The networks.
        titles (list[str]): Their titles.

    Returns:
        Figure: The plot.
    """
    columns = max(len(spec.blocks) for spec in specs) + 2
    max_ratio = max(b.expand_ratio for spec in specs for b in spec.blocks)
    width = max(MIN_WIDTH, 1.2 + BLOCK_WIDTH * columns)
    fig, axes = plt.subplots(
        len(specs),
        figsize=(width, NETWORK_HEIGHT * len(specs) + 0.3),
        squeeze=False)
    for ax, spec, title in zip(axes[:, 0], specs, titles):
        ax.set_xlim(-0.5, columns - 0.5)
        plot_network(ax, spec, max_ratio)
        label_rows(ax, specs, max_ratio)
        ax.set_title(title, loc='left', fontsize=10, fontweight='bold')
    entries = legend_of(specs)
    fig.legend(
        handles=entries,
        loc='lower center',
        ncol=len(entries),
        frameon=False,
        fontsize=8)
    fig.tight_layout(rect=(0, 0.3 / fig.get_figheight(), 1, 1))
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'arch', nargs='+', help="'s', 'l' or the path of a notation file")
    parser.add_argument(
        '--out', type=Path, required=True, help='file for the plot, .png')
    configs.add_input_shape(
        parser, (224, 224), 'the MACs are counted for it; default 224')
    parser.add_argument(
        '--num-classes',
        type=int,
        default=1000,
        help='classes of the classifier whose MACs are counted, default 1000')
    args = parser.parse_args()
    try:
        outputs.check_file('--out', args.out)
        input_shape = configs.parse_shape(args.input_shape)
        specs = [resolve_arch(arch) for arch in args.arch]
        titles = [
            title_of(name_of(arch), spec, input_shape, args.num_classes)
            for arch, spec in zip(args.arch, specs)
        ]
        fig = plot(specs, titles)
        outputs.save_figure(fig, args.out, dpi=110)
    except (OSError, ValueError) as e:
        sys.exit(f'plot_arch.py: {e}')
    print('\n'.join(titles + [str(args.out)]))


if __name__ == '__main__':
    main()
