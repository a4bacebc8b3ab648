# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import pytest
from conftest import call_main, load_tool, main_error

tool = load_tool('tools/analysis_tools/plot_arch.py')


def check_plot(path, height):
    """The plot has a size for a README and is not blank."""
    image = cv2.imread(str(path))
    assert abs(image.shape[0] - height) < 100
    assert 600 < image.shape[1] < 1500
    assert image.std() > 10


def test_named(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'new_folder/plot.png'
    call_main(monkeypatch, tool, 's', 'l', '--out', out)
    check_plot(out, 700)
    printed = capsys.readouterr().out
    assert 'AutoNL-S: 18 blocks, 267 M MACs' in printed
    assert 'AutoNL-L: 21 blocks, 353 M MACs' in printed


@pytest.mark.parametrize('shape', [(32, ), (32, 32)])
def test_file(shape, tiny_arch, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'plot.png'
    call_main(monkeypatch, tool, tiny_arch, '--input-shape', *shape,
              '--num-classes', 10, '--out', out)
    check_plot(out, 360)
    printed = capsys.readouterr().out
    assert 'tiny_arch: 4 blocks' in printed
    assert 'at 32\N{MULTIPLICATION SIGN}32, 10 classes' in printed


@pytest.mark.parametrize('text, args, words', [
    (None, (), 'is unknown'),
    ('r1_k4_s11_e1_i8_o8', (), 'expected an odd kernel'),
    ('r1_k3_s11_e1_i8_o8', ('--input-shape', 0, 32), '--input-shape is [0, 32]'),
    ('r1_k3_s11_e1_i8_o8', ('--out', 'plot.docx'), 'docx'),
])
def test_errors(text, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'arch.txt'
    if text:
        path.write_text(text)
    assert words in main_error(monkeypatch, tool, path, '--out', 'plot.png', *args)
    assert not list(tmp_path.glob('plot.*'))
