# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Markdown tables."""
from typing import Any, Iterable, Sequence


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table: the first column is left-aligned, all others right-aligned.

    Args:
        header (Sequence): Titles of the columns.
        rows (Iterable[Sequence]): Cells of each row, as many as there are titles.
            All cells are converted by ``str``.

    Returns:
        str: The lines of the table, without a newline at the end.

    Raises:
        ValueError: If a row has another number of cells; names the row.
    """
    lines = [list(header), ['---'] + ['---:'] * (len(header) - 1)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f'the row {list(row)} has {len(row)} cells, expected '
                             f'{len(header)} for {list(header)}')
        lines.append([str(cell).replace('|', r'\|') for cell in row])
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)
