# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import pytest
from conftest import run_tool


def write_run(work_dir, name, epochs, top1):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (work_dir / name / f'{name}.log').write_text('')
    records = []
    for epoch in epochs:
        records.append(dict(loss=1 / epoch, iter=epoch * 10, step=epoch * 10))
        records.append({'accuracy/top1': top1 + epoch, 'step': epoch})
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))


def test_later_starts_replace_earlier_ones(tmp_path):
    """An abandoned run, then a shorter one, resumed."""
    write_run(tmp_path, '20260101_000000', range(1, 9), 10)
    write_run(tmp_path, '20260101_010000', (1, 2), 50)
    write_run(tmp_path, '20260101_020000', (3, ), 50)
    out = run_tool('tools/analysis_tools/summarize_run.py', tmp_path).stdout
    rows = [line for line in out.splitlines() if line.startswith('| ')]
    assert rows[1:] == ['| 1 | 51 |', '| 2 | 52 |', '| 3 | 53 |']
    assert 'accuracy/top1 53 after' in out


@pytest.mark.parametrize('args, words', [
    ((), 'has no */vis_data/scalars.json'),
    (('--metric', 'mIoU'), "metric 'mIoU' was not logged"),
])
def test_errors(args, words, tmp_path):
    if args:
        write_run(tmp_path, '20260101_000000', (1, ), 10)
    result = run_tool('tools/analysis_tools/summarize_run.py', tmp_path, *args,
                      check=False)
    assert result.returncode == 1
    assert words in result.stdout
