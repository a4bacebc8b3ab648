# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Plot a search: its cost, the margins of its gates and the final choices.

The tool reads the records of a search's hook and mmengine's logs in the work dir.
"""
import argparse
import itertools
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from autonl_mm.runs import outputs
from autonl_mm.runs.scalars import read_scalars
from autonl_mm.runs.text_files import check_json, read_json

# The order of the panels and of the table's columns.
DECISIONS = dict(
    expand_ratio='expand ratio',
    kernel_size='kernel size',
    se_ratio='SE ratio',
    nl='LightNL',
    nl_ratio='LightNL ratio',
    nl_stride='LightNL stride')
# What a record has beside its number, as the plots use it
RECORD = {
    'cost': float, 'target': (float, None), 'unit': str, str: object,
    'gates': {str: {'options': [(bool, float)], 'margin': [float], str: object}}}
# What records count, by the start of their names, in words
KINDS = dict(epoch='epoch', iter='iteration')
LINE_STYLES = ('-', '--', ':', '-.')
# Black text must stay readable on the darkest colour.
RANKS = ListedColormap(plt.get_cmap('Blues')(np.linspace(0.05, 0.5, 64)))
MIN_ROWS = 8
UNUSED = '\N{EN DASH}'


def read_records(work_dir: Path) -> List[dict]:
    """Read the records of a search.

    Args:
        work_dir (Path): The work dir.

    Returns:
        list[dict]: One per epoch, or per checkpoint of an iteration-based loop, in
        order, with its ``'number'`` and the unit of this number, ``'kind'``.

    Raises:
        FileNotFoundError: If there are no records.
        ValueError: If a file is not a record, or the records are of different
            searches.
    """
    records = []
    for path in work_dir.glob('gates/*_*.json'):
        kind, record = path.stem.split('_')[0], read_json(path)
        if kind not in KINDS:
            continue
        check_json(record, {**RECORD, kind: int}, f'{path} is not a record of a search',
                   'remove it')
        records.append(dict(record, number=record[kind], kind=KINDS[kind]))
    if not records:
        raise FileNotFoundError(
            f'{work_dir} has no gates/epoch_N.json or iter_N.json: expected the work '
            'dir of a search that has finished an epoch or saved a checkpoint')
    records.sort(key=lambda r: r['number'])
    last = records[-1]
    for record in records:
        if (record['gates'].keys() != last['gates'].keys()
                or record['kind'] != last['kind']):
            raise ValueError(
                f'{work_dir}/gates has {record["kind"]} {record["number"]} and '
                f'{last["kind"]} {last["number"]} of different searches: remove the '
                'files of the earlier search')
    return records


def read_costs(work_dir: Path) -> List[dict]:
    """Training logs with a cost; empty if there are none."""
    try:
        train, _, _ = read_scalars(work_dir)
    except FileNotFoundError:
        return []
    return [r for r in train if {'cost', 'iter'} <= r.keys()]


def plot_cost(ax: Axes, records: List[dict], logged: List[dict]) -> None:
    """Plot the cost by iteration if it was logged, else by the number of the record.

    Args:
        ax (Axes): Axes for the plot.
        records (list[dict]): Records of the search.
        logged (list[dict]): Logs of the iterations, may be empty.
    """
    target = records[-1]['target']
    divisor, unit = unit_of(records[-1]['unit'])
    kind, length = records[-1]['kind'], 1.
    if kind == 'epoch' and logged:
        # Iterations per epoch: the last ones of an epoch may not be logged.
        length = max(r['iter'] / r['epoch'] for r in logged)
    if logged:
        ax.plot([r['iter'] for r in logged],
                [r['cost'] / divisor for r in logged],
                color='#9ab6d3',
                label='during training')
    ax.plot([r['number'] * length for r in records],
            [r['cost'] / divisor for r in records],
            'o' if logged else 'o-',
            color='#1f4e79',
            label='in a record')
    if target is not None:
        ax.axhline(
            target / divisor,
            color='#c0392b',
            linestyle='--',
            linewidth=1,
            label='target')
    ax.set(
        xlabel='iteration' if logged else kind, ylabel=f'cost ({unit})')
    ax.set_ylim(bottom=0)
    if not logged:
        limit_numbers(ax, records)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    # The cost starts at the largest network's cost and rarely comes near 0.
    ax.legend(loc='lower left', ncol=3, fontsize=8)


def unit_of(unit: str) -> Tuple[float, str]:
    """The divisor of costs in the plot, and the unit after the division."""
    return (1e6, 'M MACs') if unit == 'MACs' else (1, unit)


def blocks_of(gates: Dict[str, dict]) -> Dict[str, Dict[str, dict]]:
    """The gates by block, such as ``layers.2.0``, and by decision."""
    blocks: Dict[str, Dict[str, dict]] = {}
    for name, gate in gates.items():
        block, decision = name.rsplit('.', 1)
        blocks.setdefault(block, {})[decision] = gate
    return blocks


def decisions_of(blocks: Dict[str, Dict[str, dict]]) -> List[str]:
    """The decisions that at least one block has, in order."""
    return [d for d in DECISIONS if any(d in b for b in blocks.values())]


def short_name(block: str) -> str:
    """``2.0`` for ``layers.2.0``."""
    return block.split('.', 1)[1]


def stage_starts(blocks: List[str]) -> List[int]:
    """Positions of the blocks that start a stage."""
    stages = [short_name(b).split('.')[0] for b in blocks]
    return [i for i, s in enumerate(stages) if i == 0 or s != stages[i - 1]]


def option_name(decision: str, option) -> str:
    """The name of an option in the plot."""
    if isinstance(option, bool):
        return 'yes' if option else 'no'
    if option == 0:
        return 'left out' if decision == 'expand_ratio' else 'none'
    return f'{option:.3g}'


def limit_numbers(ax: Axes, records: List[dict]) -> None:
    """Leave half of a record's distance beside the first and the last record."""
    first, last = records[0]['number'], records[-1]['number']
    half = 0.5 * (last - first) / (len(records) - 1) if len(records) > 1 else 0.5
    ax.set_xlim(first - half, last + half)


def plot_margins(ax: Axes, records: List[dict], decision: str,
                 colours: Dict[str, tuple]) -> None:
    """Plot the margins of a decision's gates over the search.

    There is one line for each block and option.

    Args:
        ax (Axes): Axes for the plot.
        records (list[dict]): Records of the search.
        decision (str): The decision, a key of :data:`DECISIONS`.
        colours (dict[str, tuple]): From a block to its colour.
    """
    numbers = [r['number'] for r in records]
    gates = {
        block: records[-1]['gates'][f'{block}.{decision}']
        for block in colours if f'{block}.{decision}' in records[-1]['gates']
    }
    # The smallest option has no gate.
    options = sorted({o for g in gates.values() for o in g['options'][1:]})
    styles = dict(zip(options, itertools.cycle(LINE_STYLES)))
    for block, gate in gates.items():
        margins = [r['gates'][f'{block}.{decision}']['margin']
                   for r in records]
        for option, line in zip(gate['options'][1:], zip(*margins)):
            ax.plot(
                numbers,
                line,
                styles[option],
                marker='o',
                markersize=2.5,
                linewidth=1,
                color=colours[block])
    ax.axhline(0, color='black', linewidth=0.8)
    low, high = ax.get_ylim()
    ax.axhspan(low, 0, color='#ececec', zorder=0)
    ax.set_ylim(low, high)
    limit_numbers(ax, records)
    ax.set_title(DECISIONS[decision], loc='left', fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=8)
    if len(options) > 1:
        handles = [
            Line2D([], [],
                   color='black',
                   linewidth=1,
                   linestyle=styles[option],
                   label=option_name(decision, option)) for option in options
        ]
        # beside the title, as any corner of the panel may have lines
        ax.legend(
            handles=handles,
            loc='lower right',
            bbox_to_anchor=(1, 1),
            ncol=len(options),
            fontsize=7,
            frameon=False,
            handlelength=1.8,
            columnspacing=0.8,
            borderaxespad=0)


def plot_all_margins(fig: SubFigure, records: List[dict]) -> None:
    """Plot the margins of all gates, with one panel for each decision.

    Args:
        fig (SubFigure): Figure for the panels.
        records (list[dict]): Records of the search.
    """
    blocks = blocks_of(records[-1]['gates'])
    colours = dict(
        zip(blocks, plt.get_cmap('plasma')(np.linspace(0, 0.9, len(blocks)))))
    decisions = decisions_of(blocks)
    columns = min(len(decisions), 3)
    rows = -(-len(decisions) // columns)
    axes = fig.subplots(rows, columns, sharex=True, squeeze=False)
    for ax, decision in zip(axes.flat, decisions):
        plot_margins(ax, records, decision, colours)
    for ax in axes.flat[len(decisions):]:
        ax.axis('off')
    for ax in axes[-1]:
        ax.set_xlabel(records[-1]['kind'], fontsize=8)
    fig.suptitle('margins of the gates: on above 0, off below', fontsize=10)
    bar = fig.colorbar(
        ScalarMappable(
            BoundaryNorm(np.arange(len(blocks) + 1) - 0.5, len(blocks)),
            ListedColormap(list(colours.values()))),
        ax=axes,
        aspect=40,
        pad=0.02)
    starts = stage_starts(list(blocks))
    bar.set_ticks(starts, labels=[short_name(list(blocks)[i]) for i in starts])
    bar.ax.tick_params(labelsize=8, length=0)
    bar.minorticks_off()
    bar.ax.invert_yaxis()
    bar.set_label('block (stage.block)', fontsize=8)


def is_unused(block: Dict[str, dict], decision: str) -> bool:
    """Whether a decision has no effect, as its block or LightNL is left out.

    Args:
        block (dict[str, dict]): The gates of the block by decision.
        decision (str): The decision, a key of :data:`DECISIONS`.
    """
    if decision != 'expand_ratio' and block.get('expand_ratio',
                                                {}).get('choice') == 0:
        return True
    return (decision in ('nl_ratio', 'nl_stride')
            and block.get('nl', {}).get('choice') is False)


def plot_choices(ax: Axes, gates: Dict[str, dict]) -> None:
    """Plot the choices as a table, with blocks as rows and decisions as columns.

    Args:
        ax (Axes): Axes for the table.
        gates (dict[str, dict]): The gates of the last record.
    """
    blocks = blocks_of(gates)
    decisions = decisions_of(blocks)
    ranks = np.full((len(blocks), len(decisions)), np.nan)
    for y, block in enumerate(blocks.values()):
        for x, decision in enumerate(decisions):
            if decision not in block:
                continue
            text = UNUSED
            if not is_unused(block, decision):
                options = block[decision]['options']
                choice = block[decision]['choice']
                ranks[y, x] = options.index(choice) / (len(options) - 1)
                text = option_name(decision, choice)
            ax.text(x, y, text, ha='center', va='center', fontsize=8)
    ax.imshow(ranks, cmap=RANKS, vmin=0, vmax=1, aspect='auto')
    for place in np.arange(0.5, len(blocks)):
        ax.axhline(place, color='white', linewidth=1.5)
    for place in np.arange(0.5, len(decisions)):
        ax.axvline(place, color='white', linewidth=1.5)
    for place in stage_starts(list(blocks))[1:]:
        ax.axhline(place - 0.5, color='black', linewidth=0.8)
    ax.set_xticks(
        range(len(decisions)),
        [DECISIONS[d].replace(' ', '\n') for d in decisions],
        fontsize=8)
    ax.set_yticks(range(len(blocks)), map(short_name, blocks), fontsize=8)
    # Without empty rows, the rows of a few blocks would be very high.
    ax.set_ylim(max(len(blocks), MIN_ROWS) - 0.5, -0.5)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.set_ylabel('block (stage.block)', fontsize=8)
    ax.set_xlabel(
        f'light: smallest option, dark: largest\n{UNUSED}: block or LightNL is '
        'left out, empty: nothing to choose',
        fontsize=8)


def plot(records: List[dict], logged: List[dict], name: str) -> Figure:
    """Plot a search.

    Args:
        records (list[dict]): Records of the search.
        logged (list[dict]): Logs of the iterations, may be empty.
        name (str): Name of the search.

    Returns:
        Figure: The plot.
    """
    last = records[-1]
    depth = len(blocks_of(last['gates']))
    fig = plt.figure(
        figsize=(12.5, max(7, 2 + 0.3 * depth)), layout='constrained')
    left, right = fig.subfigures(1, 2, width_ratios=(1.9, 1))
    top, bottom = left.subfigures(2, 1, height_ratios=(1, 2))
    plot_cost(top.subplots(), records, logged)
    plot_all_margins(bottom, records)
    plot_choices(right.subplots(), last['gates'])
    when = f'after {last["kind"]} {last["number"]}'
    right.suptitle(f'choices {when}', fontsize=10)
    divisor, unit = unit_of(last['unit'])
    top.suptitle(
        f'{name}: {last["cost"] / divisor:.4g} {unit} {when}', fontsize=10)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work dir of the search')
    parser.add_argument(
        '--out',
        type=Path,
        help='file for the plot; default: search.png in the work dir')
    args = parser.parse_args()
    out = args.out or args.work_dir / 'search.png'
    try:
        outputs.check_file('--out', args.out)
        fig = plot(
            read_records(args.work_dir), read_costs(args.work_dir),
            args.work_dir.resolve().name)
        outputs.save_figure(fig, out, dpi=110, bbox_inches='tight', pad_inches=0.15)
    except (OSError, ValueError) as e:
        sys.exit(f'plot_search.py: {e}')
    print(out)


if __name__ == '__main__':
    main()
