# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import cv2
import pytest
from conftest import call_main, load_tool, main_error

tool = load_tool('tools/analysis_tools/analyze_logs.py')


def write_run(work_dir, name, epochs, top1):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (work_dir / name / f'{name}.log').write_text('')
    records = []
    for epoch in epochs:
        records.append(dict(loss=1 / epoch, iter=epoch * 10, step=epoch * 10))
        records.append({'accuracy/top1': top1 + epoch, 'step': epoch})
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))


def test_later_starts_replace_earlier_ones(tmp_path, monkeypatch, capsys):
    """An abandoned run, then a shorter one, resumed."""
    write_run(tmp_path, '20260101_000000', range(1, 9), 10)
    write_run(tmp_path, '20260101_010000', (1, 2), 50)
    write_run(tmp_path, '20260101_020000', (3, ), 50)
    call_main(monkeypatch, tool, tmp_path)
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith('| ')]
    assert rows[1:] == ['| 1 | 51 |', '| 2 | 52 |', '| 3 | 53 |']
    assert 'accuracy/top1 53 after' in out


def test_runs_side_by_side(tmp_path, monkeypatch, capsys):
    for name, epochs in (('a', (1, 2)), ('b', (2, 3))):
        write_run(tmp_path / name, '20260101_000000', epochs, 50)
    call_main(monkeypatch, tool, tmp_path / 'a', tmp_path / 'b', '--out',
              tmp_path / 'out/both.png')
    out = capsys.readouterr().out
    assert out.splitlines()[:5] == [
        '| step | accuracy/top1, a | accuracy/top1, b |', '|---|---|---|',
        '| 1 | 51 | - |', '| 2 | 52 | 52 |', '| 3 | - | 53 |'
    ]
    assert 'a: accuracy/top1 52' in out and 'b: accuracy/top1 53' in out
    assert cv2.imread(str(tmp_path / 'out/both.png')).std() > 10


@pytest.mark.parametrize('args, words', [
    ((), 'has no */vis_data/scalars.json'),
    (('--metric', 'mIoU'), "metric 'mIoU' was not logged"),
])
def test_errors(args, words, tmp_path, monkeypatch):
    if args:
        write_run(tmp_path, '20260101_000000', (1, ), 10)
    assert words in main_error(monkeypatch, tool, tmp_path, *args)
