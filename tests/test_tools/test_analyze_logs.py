# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import call_main, load_tool, main_error

from autonl_mm.runs.scalars import format_metrics

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
    assert rows[2:] == ['| 1 | 51 |', '| 2 | 52 |', '| 3 | 53 |']
    assert 'accuracy/top1 53 after' in out


def test_runs_side_by_side(tmp_path, monkeypatch, capsys):
    for name, epochs in (('a', (1, 2)), ('b', (2, 3))):
        write_run(tmp_path / name, '20260101_000000', epochs, 50)
    call_main(monkeypatch, tool, tmp_path / 'a', tmp_path / 'b', '--out',
              tmp_path / 'out/both.png')
    out = capsys.readouterr().out
    head, _, *rows = out.splitlines()[:5]
    assert head == '| step | accuracy/top1, a | accuracy/top1, b |'
    assert rows == ['| 1 | 51 | - |', '| 2 | 52 | 52 |', '| 3 | - | 53 |']
    assert 'a: accuracy/top1 52' in out and 'b: accuracy/top1 53' in out
    assert cv2.imread(str(tmp_path / 'out/both.png')).std() > 10


def test_records_of_a_search_that_was_killed(tmp_path, monkeypatch, capsys):
    """Gates are logged before the evaluation, which may never come."""
    write_run(tmp_path, '20260101_000000', (1, 2), 10)
    path = tmp_path / '20260101_000000/vis_data/scalars.json'
    gates = json.dumps({'gates/1.1.nl/on': 0.5, 'step': 3})
    path.write_text(f'{path.read_text()}\n{gates}\n{{"loss": 0.3, "st')
    call_main(monkeypatch, tool, tmp_path)
    out = capsys.readouterr().out
    assert 'accuracy/top1 12 after' in out and '| 3 |' not in out


def test_metrics_that_only_some_evaluations_have(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, '20260101_000000', (1, ), 10)
    path = tmp_path / '20260101_000000/vis_data/scalars.json'
    path.write_text(path.read_text() + '\n' + json.dumps(dict(mIoU=7., step=2)))
    call_main(monkeypatch, tool, tmp_path, '--metric', 'accuracy/top1')
    assert '| 2 |' not in capsys.readouterr().out


def test_metrics_of_all_libraries_are_printed():
    metrics = dict(
        python=1.25, integer=3, mmseg=np.float32(88.126), array=np.array(2.),
        tensor=torch.tensor(0.5), classes=[1, 2], per_class=np.ones(3), name='x')
    assert format_metrics(metrics) == (
        'python 1.25, integer 3, mmseg 88.13, array 2, tensor 0.5')


@pytest.mark.parametrize('args, words', [
    ((), 'has no */vis_data/scalars.json'),
    (('--metric', 'mIoU'), "metric 'mIoU' was not logged"),
])
def test_errors(args, words, tmp_path, monkeypatch):
    if args:
        write_run(tmp_path, '20260101_000000', (1, ), 10)
    assert words in main_error(monkeypatch, tool, tmp_path, *args)
