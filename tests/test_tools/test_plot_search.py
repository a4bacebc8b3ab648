# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import cv2
import pytest
from conftest import call_main, load_tool, main_error

tool = load_tool('tools/analysis_tools/plot_search.py')
OPTIONS = dict(
    expand_ratio=[0, 3, 6],
    kernel_size=[3, 5],
    se_ratio=[0, 0.25, 0.5],
    nl=[False, True],
    nl_ratio=[0.125, 0.25],
    nl_stride=[2, 1])


def write_epoch(work_dir, epoch, decisions=tuple(OPTIONS), unit='MACs', target=8e6):
    """A record of three blocks, whose gates go off one after the other."""
    gates = {}
    for i, block in enumerate(('2.0', '2.1', '3.0')):
        for name in decisions:
            options = OPTIONS[name]
            on = max(0, len(options) - 1 - max(0, epoch - i))
            margin = [0.5 if k < on else -0.5 for k in range(len(options) - 1)]
            gates[f'layers.{block}.{name}'] = dict(
                options=options,
                choice=options[on],
                value=margin,
                threshold=[0] * len(margin),
                margin=margin)
    folder = work_dir / 'gates'
    folder.mkdir(exist_ok=True)
    record = dict(
        epoch=epoch,
        cost=9e6 / epoch,
        target=target,
        unit=unit,
        arch=[],
        gates=gates)
    (folder / f'epoch_{epoch}.json').write_text(json.dumps(record))


def write_scalars(work_dir):
    folder = work_dir / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    records = [
        dict(loss=1, cost=9e6, iter=i, step=i, epoch=1 + i // 60)
        for i in range(10, 120, 10)
    ]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))


def check_plot(path):
    """The plot has a size for a README and is not blank."""
    image = cv2.imread(str(path))
    assert 700 < image.shape[0] < 1000
    assert 1200 < image.shape[1] < 1500
    assert image.std() > 10


def test_plot(tmp_path, monkeypatch, capsys):
    for epoch in range(1, 13):
        write_epoch(tmp_path, epoch)
    write_scalars(tmp_path)
    call_main(monkeypatch, tool, tmp_path)
    assert capsys.readouterr().out.strip() == str(tmp_path / 'search.png')
    check_plot(tmp_path / 'search.png')


def test_few_decisions_and_no_target(tmp_path, monkeypatch):
    """A space of kernel sizes, with latency as the cost."""
    write_epoch(tmp_path, 1, ('kernel_size', ), 'ms', None)
    out = tmp_path / 'plots/plot.png'
    call_main(monkeypatch, tool, tmp_path, '--out', out)
    check_plot(out)


def no_gates(work_dir):
    pass


def no_json(work_dir):
    write_epoch(work_dir, 1)
    (work_dir / 'gates/epoch_2.json').write_text('{')


def no_record(work_dir):
    write_epoch(work_dir, 1)
    (work_dir / 'gates/epoch_2.json').write_text('{"epoch": 2}')


def two_searches(work_dir):
    write_epoch(work_dir, 1)
    write_epoch(work_dir, 2, ('nl', ))


def no_numbers(work_dir):
    write_epoch(work_dir, 1)
    path = work_dir / 'gates/epoch_1.json'
    path.write_text(path.read_text().replace('"margin": [', '"margin": ["x", '))


@pytest.mark.parametrize('write, words', [
    (no_gates, 'has no gates/epoch_N.json or iter_N.json: expected'),
    (no_json, 'epoch_2.json is not JSON'),
    (no_record, 'epoch_2.json is not a record of a search'),
    (no_numbers, "margin[0] is 'x', expected a number: remove it"),
    (two_searches, 'epoch 1 and epoch 2 of different searches'),
])
def test_errors(write, words, tmp_path, monkeypatch):
    write(tmp_path)
    assert words in main_error(monkeypatch, tool, tmp_path)
