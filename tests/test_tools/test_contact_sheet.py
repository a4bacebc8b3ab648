# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
from conftest import run_tool

TOOL = 'tools/analysis_tools/contact_sheet.py'


def test_sheet(tmp_path):
    folder = tmp_path / 'drawn/inner'
    folder.mkdir(parents=True)
    for i, shape in enumerate([(10, 20), (10, 20), (20, 20), (10, 20)]):
        cv2.imwrite(str(folder / f'{i}.png'),
                    np.full((*shape, 3), 40 * (i + 1), np.uint8))
    out = tmp_path / 'sheet.png'
    run_tool(TOOL, tmp_path / 'drawn', '--out', out, '--count', '3',
             '--columns', '2', '--width', '40')
    sheet = cv2.imread(str(out))
    # rows of 40 and 20 pixels and the gap of 6
    assert sheet.shape == (66, 86, 3)
    values = [sheet[5, 5, 0], sheet[35, 60, 0], sheet[60, 5, 0]]
    assert values == [40, 120, 160]
    assert sheet[30, 5, 0] == sheet[60, 60, 0] == 255

    # two folders: a row an image
    other = tmp_path / 'other'
    other.mkdir()
    for i in range(4):
        cv2.imwrite(str(other / f'{i}.png'), np.zeros((10, 20, 3), np.uint8))
    run_tool(TOOL, tmp_path / 'drawn', other, '--out', out, '--count', '2',
             '--width', '40')
    sheet = cv2.imread(str(out))
    assert sheet.shape == (46, 86, 3)
    assert [sheet[y, x, 0] for y in (5, 40) for x in (5, 60)] == [40, 0, 160, 0]
    (other / '3.png').rename(other / '4.png')
    failed = run_tool(TOOL, tmp_path / 'drawn', other, '--out', out,
                      check=False)
    assert failed.returncode == 1 and 'different names' in failed.stdout

    failed = run_tool(TOOL, tmp_path, '--out', tmp_path / 'x.png', '--count',
                      '0', check=False)
    assert failed.returncode == 1 and 'at least 1' in failed.stdout
