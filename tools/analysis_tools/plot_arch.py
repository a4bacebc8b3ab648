# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Draw networks block by block, as the AutoNL paper does.

One row a network, one bar a block: its height is the expand ratio, its colour
the depthwise kernel. Above it are squeeze-excite and LightNL, below it its
stage's channels and stride.
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

KERNEL_COLOURS = {3: '#4c78a8', 5: '#f58518', 7: '#b33a3a'}
OTHER_KERNEL = '#7f7f7f'
SE_COLOUR = '#cdebc5'
NL_COLOUR = '#e3d0f2'
END_COLOUR = '#d9d9d9'
# Heights of the rows of text; bars are at most 1 high.
NL_ROW, SE_ROW = 1.58, 1.22
KERNEL_ROW, CHANNELS_ROW, STRIDE_ROW = -0.12, -0.29, -0.46
# Inches: below these, the texts of neighbours meet.
BLOCK_WIDTH, NETWORK_HEIGHT, LEAST_WIDTH = 0.46, 3.0, 7.5


def name_of(arch: str) -> str:
    """A network's name in the image."""
    return f'AutoNL-{arch.upper()}' if arch in ('s', 'l') else Path(arch).stem


def title_of(name: str, spec: ArchSpec, input_shape: Tuple[int, int],
             num_classes: int) -> str:
    """Name, depth and MACs of a network.

    Args:
        name (str): The network's name.
        spec (ArchSpec): The network.
        input_shape (tuple[int, int]): ``(H, W)`` of the input image.
        num_classes (int): Outputs of the classifier.
    """
    macs = count_macs(spec, input_shape, num_classes).total / 1e6
    digits = 0 if macs >= 100 else 1 if macs >= 10 else 2
    size = '\N{MULTIPLICATION SIGN}'.join(map(str, input_shape))
    return (f'{name}: {len(spec.blocks)} blocks, {macs:,.{digits}f} M MACs '
            f'at {size}, {num_classes} classes')


def draw_chip(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    """A word on a coloured ground."""
    ax.text(
        x,
        y,
        text,
        ha='center',
        va='center',
        fontsize=7,
        linespacing=1.1,
        bbox=dict(boxstyle='round,pad=0.25', facecolor=colour, linewidth=0))


def draw_block(ax: Axes, x: int, block: BlockSpec, tallest: float) -> None:
    """One block's bar and what it has above it.

    Args:
        ax (Axes): The network's row.
        x (int): The block's place.
        block (BlockSpec): The block.
        tallest (float): Expand ratio of the highest bar of the image.
    """
    colour = KERNEL_COLOURS.get(block.kernel_size, OTHER_KERNEL)
    ax.bar(x, block.expand_ratio / tallest, width=0.74, color=colour)
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
        draw_chip(ax, x, SE_ROW, f'{block.se_ratio:.3g}', SE_COLOUR)
    if block.nl_ratio:
        draw_chip(ax, x, NL_ROW, f'{block.nl_ratio:.3g}\ns{block.nl_stride}',
                  NL_COLOUR)


def draw_end(ax: Axes, x: int, word: str, channels: int, stride: int) -> None:
    """Stem or head."""
    ax.bar(x, 1, width=0.5, color=END_COLOUR)
    ax.text(x, 0.5, word, rotation=90, ha='center', va='center', fontsize=8)
    label_stage(ax, x, channels, stride)


def label_stage(ax: Axes, x: float, channels: int, stride: int) -> None:
    """Channels and stride, counted from the image, of a stage's output."""
    for y, text in ((CHANNELS_ROW, f'{channels}'), (STRIDE_ROW, f'/{stride}')):
        ax.text(x, y, text, ha='center', va='center', fontsize=8)


def draw_network(ax: Axes, spec: ArchSpec, tallest: float) -> None:
    """One network from stem to head.

    Args:
        ax (Axes): Where to.
        spec (ArchSpec): The network.
        tallest (float): Expand ratio of the highest bar of the image.
    """
    stride = 2
    draw_end(ax, 0, 'stem', spec.stem_channels, stride)
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
            draw_block(ax, x, block, tallest)
        first = end
    draw_end(ax, first, 'head', spec.head_channels, stride)


def label_rows(ax: Axes, specs: List[ArchSpec], tallest: float) -> None:
    """Say at the left what each row of text is, and the bars' scale.

    Args:
        ax (Axes): A network's row.
        specs (list[ArchSpec]): All networks of the image.
        tallest (float): Expand ratio of the highest bar of the image.
    """
    rows = {
        STRIDE_ROW: 'stride',
        CHANNELS_ROW: 'channels',
        KERNEL_ROW: 'kernel',
        SE_ROW: 'SE ratio',
        NL_ROW: 'LightNL\nratio, stride'
    }
    ratios = {b.expand_ratio for spec in specs for b in spec.blocks}
    shown = [tallest]
    for ratio in sorted(ratios, reverse=True):
        # labels that are closer than this overlap
        if shown[-1] - ratio > 0.12 * tallest:
            shown.append(ratio)
    rows.update({r / tallest: f'expand {r:.3g}' for r in shown})
    ax.set_yticks(list(rows), list(rows.values()), fontsize=8)
    ax.hlines([r / tallest for r in shown],
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
    """Colours that occur in the image, and what they mean."""
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


def draw(specs: List[ArchSpec], titles: List[str]) -> Figure:
    """Draw networks below each other, on one scale.

    Args:
        specs (list[ArchSpec]): The networks.
        titles (list[str]): Their titles.

    Returns:
        Figure: The image.
    """
    places = max(len(spec.blocks) for spec in specs) + 2
    tallest = max(b.expand_ratio for spec in specs for b in spec.blocks)
    width = max(LEAST_WIDTH, 1.2 + BLOCK_WIDTH * places)
    fig, axes = plt.subplots(
        len(specs),
        figsize=(width, NETWORK_HEIGHT * len(specs) + 0.3),
        squeeze=False)
    for ax, spec, title in zip(axes[:, 0], specs, titles):
        ax.set_xlim(-0.5, places - 0.5)
        draw_network(ax, spec, tallest)
        label_rows(ax, specs, tallest)
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
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--input-shape',
        type=int,
        nargs=2,
        default=(224, 224),
        metavar=('H', 'W'))
    parser.add_argument('--num-classes', type=int, default=1000)
    args = parser.parse_args()
    try:
        specs = [resolve_arch(arch) for arch in args.arch]
        titles = [
            title_of(name_of(arch), spec, args.input_shape, args.num_classes)
            for arch, spec in zip(args.arch, specs)
        ]
        fig = draw(specs, titles)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(args.out, dpi=110)
    except (OSError, ValueError) as e:
        sys.exit(f'plot_arch.py: {e}')
    print('\n'.join(titles + [str(args.out)]))


if __name__ == '__main__':
    main()
