# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Draw a search: its cost, the margins of its gates, and what it chose.

Reads the records that SearchHook wrote to the work dir, and what mmengine
logged there.
"""
import argparse
import itertools
import json
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

from autonl_mm.benchmark.records import read_scalars

# The order of the panels and of the map's columns.
DECISIONS = dict(
    expand_ratio='expand ratio',
    kernel_size='kernel size',
    se_ratio='SE ratio',
    nl='LightNL',
    nl_ratio='LightNL ratio',
    nl_stride='LightNL stride')
KEYS = {'epoch', 'cost', 'target', 'unit', 'gates'}
LINE_STYLES = ('-', '--', ':', '-.')
# Dark text must stay readable on its darkest colour.
RANKS = ListedColormap(plt.get_cmap('Blues')(np.linspace(0.05, 0.5, 64)))
LEAST_ROWS = 8
MOOT = '\N{EN DASH}'


def read_records(work_dir: Path) -> List[dict]:
    """The records of a search, by epoch.

    Args:
        work_dir (Path): The work dir.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If a file is something else, or not all are of one
            search.
    """
    records = []
    for path in work_dir.glob('gates/epoch_*.json'):
        try:
            record = json.loads(path.read_text())
        except ValueError as e:
            raise ValueError(f'{path} is not JSON: {e}') from e
        if not isinstance(record, dict) or KEYS - record.keys():
            raise ValueError(f"{path} is not a search's record, expected a "
                             f'dict with {sorted(KEYS)}')
        records.append(record)
    if not records:
        raise FileNotFoundError(
            f'{work_dir} has no gates/epoch_N.json: expected the work dir of '
            'a search with the SearchHook that has finished an epoch')
    records.sort(key=lambda r: r['epoch'])
    last = records[-1]
    for record in records:
        if record['gates'].keys() != last['gates'].keys():
            raise ValueError(
                f'{work_dir}/gates has epochs {record["epoch"]} and '
                f'{last["epoch"]} of different search spaces: remove what an '
                'earlier search left there')
    return records


def read_costs(work_dir: Path) -> List[dict]:
    """What was logged in training with a cost; empty if nothing was."""
    try:
        train, _, _ = read_scalars(work_dir)
    except FileNotFoundError:
        return []
    return [r for r in train if {'cost', 'iter', 'epoch'} <= r.keys()]


def draw_cost(ax: Axes, records: List[dict], logged: List[dict]) -> None:
    """Cost by iteration if it was logged, else by epoch.

    Args:
        ax (Axes): Where to.
        records (list[dict]): Of the epochs.
        logged (list[dict]): Of the iterations, may be empty.
    """
    target = records[-1]['target']
    divisor, unit = shown_unit(records[-1]['unit'])
    # Iterations an epoch: the last ones of an epoch may not be logged.
    length = max((r['iter'] / r['epoch'] for r in logged), default=1)
    if logged:
        ax.plot([r['iter'] for r in logged],
                [r['cost'] / divisor for r in logged],
                color='#9ab6d3',
                label='in training')
    ax.plot([r['epoch'] * length for r in records],
            [r['cost'] / divisor for r in records],
            'o' if logged else 'o-',
            color='#1f4e79',
            label='after an epoch')
    if target is not None:
        ax.axhline(
            target / divisor,
            color='#c0392b',
            linestyle='--',
            linewidth=1,
            label='target')
    ax.set(
        xlabel='iteration' if logged else 'epoch', ylabel=f'cost ({unit})')
    ax.set_ylim(bottom=0)
    if not logged:
        ax.set_xlim(records[0]['epoch'] - 0.5, records[-1]['epoch'] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    # Costs start at the largest network and seldom come near 0.
    ax.legend(loc='lower left', ncol=3, fontsize=8)


def shown_unit(unit: str) -> Tuple[float, str]:
    """What costs are divided by to be shown, and their unit then."""
    return (1e6, 'M MACs') if unit == 'MACs' else (1, unit)


def blocks_of(gates: Dict[str, dict]) -> Dict[str, Dict[str, dict]]:
    """Gates by block, such as ``layers.2.0``, and by decision."""
    blocks: Dict[str, Dict[str, dict]] = {}
    for name, gate in gates.items():
        block, decision = name.rsplit('.', 1)
        blocks.setdefault(block, {})[decision] = gate
    return blocks


def decisions_of(blocks: Dict[str, Dict[str, dict]]) -> List[str]:
    """The decisions that some block has to take, in order."""
    return [d for d in DECISIONS if any(d in own for own in blocks.values())]


def short(block: str) -> str:
    """``2.0`` of ``layers.2.0``."""
    return block.split('.', 1)[1]


def stage_starts(blocks: List[str]) -> List[int]:
    """Places of the blocks that start a stage."""
    stages = [short(b).split('.')[0] for b in blocks]
    return [i for i, s in enumerate(stages) if i == 0 or s != stages[i - 1]]


def word(decision: str, option) -> str:
    """How an option is called in the image."""
    if isinstance(option, bool):
        return 'yes' if option else 'no'
    if option == 0:
        return 'left out' if decision == 'expand_ratio' else 'none'
    return f'{option:.3g}'


def draw_margins(ax: Axes, records: List[dict], decision: str,
                 colours: Dict[str, tuple]) -> None:
    """Margins of one decision's gates by epoch, a line a block and option.

    Args:
        ax (Axes): Where to.
        records (list[dict]): Of the epochs.
        decision (str): Which decision.
        colours (dict[str, tuple]): From a block to its colour.
    """
    epochs = [r['epoch'] for r in records]
    gates = {
        block: records[-1]['gates'][f'{block}.{decision}']
        for block in colours if f'{block}.{decision}' in records[-1]['gates']
    }
    # The smallest option has no gate.
    parts = sorted({o for g in gates.values() for o in g['options'][1:]})
    styles = dict(zip(parts, itertools.cycle(LINE_STYLES)))
    for block, gate in gates.items():
        margins = [r['gates'][f'{block}.{decision}']['margin']
                   for r in records]
        for option, line in zip(gate['options'][1:], zip(*margins)):
            ax.plot(
                epochs,
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
    ax.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    ax.set_title(DECISIONS[decision], loc='left', fontsize=9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=8)
    if len(parts) > 1:
        handles = [
            Line2D([], [],
                   color='black',
                   linewidth=1,
                   linestyle=styles[part],
                   label=word(decision, part)) for part in parts
        ]
        # beside the title: no corner of the panel is sure to be empty
        ax.legend(
            handles=handles,
            loc='lower right',
            bbox_to_anchor=(1, 1),
            ncol=len(parts),
            fontsize=7,
            frameon=False,
            handlelength=1.8,
            columnspacing=0.8,
            borderaxespad=0)


def draw_all_margins(fig: SubFigure, records: List[dict]) -> None:
    """A panel for every decision.

    Args:
        fig (SubFigure): Where to.
        records (list[dict]): Of the epochs.
    """
    blocks = blocks_of(records[-1]['gates'])
    colours = dict(
        zip(blocks, plt.get_cmap('plasma')(np.linspace(0, 0.9, len(blocks)))))
    decisions = decisions_of(blocks)
    columns = min(len(decisions), 3)
    rows = -(-len(decisions) // columns)
    axes = fig.subplots(rows, columns, sharex=True, squeeze=False)
    for ax, decision in zip(axes.flat, decisions):
        draw_margins(ax, records, decision, colours)
    for ax in axes.flat[len(decisions):]:
        ax.axis('off')
    for ax in axes[-1]:
        ax.set_xlabel('epoch', fontsize=8)
    fig.suptitle('margins of the gates: above 0 on, below off', fontsize=10)
    bar = fig.colorbar(
        ScalarMappable(
            BoundaryNorm(np.arange(len(blocks) + 1) - 0.5, len(blocks)),
            ListedColormap(list(colours.values()))),
        ax=axes,
        aspect=40,
        pad=0.02)
    starts = stage_starts(list(blocks))
    bar.set_ticks(starts, labels=[short(list(blocks)[i]) for i in starts])
    bar.ax.tick_params(labelsize=8, length=0)
    bar.minorticks_off()
    bar.ax.invert_yaxis()
    bar.set_label('block (stage.block)', fontsize=8)


def is_moot(own: Dict[str, dict], decision: str) -> bool:
    """Whether what a decision is about is not there.

    Args:
        own (dict[str, dict]): The block's gates by decision.
        decision (str): Which decision.
    """
    if decision != 'expand_ratio' and own.get('expand_ratio',
                                              {}).get('choice') == 0:
        return True
    return (decision in ('nl_ratio', 'nl_stride')
            and own.get('nl', {}).get('choice') is False)


def draw_map(ax: Axes, gates: Dict[str, dict]) -> None:
    """The choices: a row a block, a column a decision.

    Args:
        ax (Axes): Where to.
        gates (dict[str, dict]): The last record's.
    """
    blocks = blocks_of(gates)
    decisions = decisions_of(blocks)
    ranks = np.full((len(blocks), len(decisions)), np.nan)
    for y, own in enumerate(blocks.values()):
        for x, decision in enumerate(decisions):
            if decision not in own:
                continue
            text = MOOT
            if not is_moot(own, decision):
                options = own[decision]['options']
                choice = own[decision]['choice']
                ranks[y, x] = options.index(choice) / (len(options) - 1)
                text = word(decision, choice)
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
    ax.set_yticks(range(len(blocks)), map(short, blocks), fontsize=8)
    # A few blocks would become towers.
    ax.set_ylim(max(len(blocks), LEAST_ROWS) - 0.5, -0.5)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.set_ylabel('block (stage.block)', fontsize=8)
    ax.set_xlabel(
        f'light: smallest option, dark: largest\n{MOOT}: block or LightNL is '
        'left out, empty: no choice',
        fontsize=8)


def draw(records: List[dict], logged: List[dict], name: str) -> Figure:
    """Draw a search.

    Args:
        records (list[dict]): Of the epochs.
        logged (list[dict]): Of the iterations, may be empty.
        name (str): Of the search.

    Returns:
        Figure: The image.
    """
    last = records[-1]
    depth = len(blocks_of(last['gates']))
    fig = plt.figure(
        figsize=(12.5, max(7, 2 + 0.3 * depth)), layout='constrained')
    left, right = fig.subfigures(1, 2, width_ratios=(1.9, 1))
    top, bottom = left.subfigures(2, 1, height_ratios=(1, 2))
    draw_cost(top.subplots(), records, logged)
    draw_all_margins(bottom, records)
    draw_map(right.subplots(), last['gates'])
    right.suptitle(f'choices after epoch {last["epoch"]}', fontsize=10)
    divisor, unit = shown_unit(last['unit'])
    top.suptitle(
        f'{name}: {last["cost"] / divisor:.4g} {unit} after epoch '
        f'{last["epoch"]}',
        fontsize=10)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument(
        '--out', type=Path, help='default: search.png in the work dir')
    args = parser.parse_args()
    out = args.out or args.work_dir / 'search.png'
    try:
        fig = draw(
            read_records(args.work_dir), read_costs(args.work_dir),
            args.work_dir.resolve().name)
        out.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(out, dpi=110, bbox_inches='tight', pad_inches=0.15)
    except (OSError, ValueError) as e:
        sys.exit(f'plot_search.py: {e}')
    print(out)


if __name__ == '__main__':
    main()
