# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Models to be measured on another device, and the table of their times.

``tools/analysis_tools/measure_latency.py --for-device`` writes models and the table
without times. ``tools/deployment/run_on_device.py`` adds the times. Then
``measure_latency.py --from-device`` turns the table into the costs of a search.
"""
import statistics
from os import PathLike
from typing import Dict, Sequence, Union

from autonl_mm.runs.text_files import check_json, read_json

from .timing import without_drift

# Name of the table without times, beside the models
MANIFEST = 'manifest.json'
# A block has the key that it has in a LatencyTable, a whole network its notation.
FORM = {
    'engine': str,
    'cfgs': object,
    'files': [{'file': str, 'shape': [int, int, int, int], 'key?': str, 'arch?': str,
               'ms?': [float], 'refused?': str}],
    'device?': str,
    'settings?': {'threads': int, 'runs': int, 'command': str},
}


def read_table(path: Union[str, PathLike]) -> dict:
    """Read a table, with or without times.

    Args:
        path (str | PathLike): The JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a table.
    """
    table = read_json(path)
    check_json(table, FORM, f'{path} is not a table of models for a device',
               'write it with tools/analysis_tools/measure_latency.py --for-device')
    return table


def median_times(rows: Sequence[dict]) -> Dict[str, float]:
    """Median milliseconds by file, with each round scaled to the median round.

    Args:
        rows (Sequence[dict]): ``files`` of a table.

    Raises:
        ValueError: If a file has no time; names it.
    """
    for row in rows:
        if not row.get('ms'):
            raise ValueError(
                f'{row["file"]} has no time ({row.get("refused", "not measured yet")}):'
                ' run tools/deployment/run_on_device.py again')
    times = without_drift({row['file']: row['ms'] for row in rows})
    return {file: statistics.median(ms) for file, ms in times.items()}
