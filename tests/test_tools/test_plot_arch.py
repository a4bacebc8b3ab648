# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import pytest
from conftest import run_tool

TOOL = 'tools/analysis_tools/plot_arch.py'


def check_image(path, height):
    """The file is an image for a README, not blank, of about a height."""
    image = cv2.imread(str(path))
    assert abs(image.shape[0] - height) < 100
    assert 600 < image.shape[1] < 1500
    assert image.std() > 10


def test_named(tmp_path):
    out = tmp_path / 'new_folder/plot.png'
    result = run_tool(TOOL, 's', 'l', '--out', out)
    check_image(out, 700)
    assert 'AutoNL-S: 18 blocks, 267 M MACs' in result.stdout
    assert 'AutoNL-L: 21 blocks, 353 M MACs' in result.stdout


def test_file(tiny_arch, tmp_path):
    out = tmp_path / 'plot.png'
    result = run_tool(TOOL, tiny_arch, '--input-shape', 32, 32,
                      '--num-classes', 10, '--out', out)
    check_image(out, 360)
    assert 'tiny_arch: 4 blocks' in result.stdout
    assert '10 classes' in result.stdout


@pytest.mark.parametrize('text, args, words', [
    (None, (), 'is unknown'),
    ('r1_k4_s11_e1_i8_o8', (), 'expected an odd kernel'),
    ('r1_k3_s11_e1_i8_o8', ('--input-shape', 0, 32), 'input_shape is'),
    ('r1_k3_s11_e1_i8_o8', ('--out', 'plot.docx'), 'docx'),
])
def test_errors(text, args, words, tmp_path):
    path = tmp_path / 'arch.txt'
    if text:
        path.write_text(text)
    result = run_tool(TOOL, path, '--out', 'plot.png', *args, check=False,
                      cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith('plot_arch.py: ')
    assert words in result.stdout
    assert not list(tmp_path.glob('plot.*'))
