# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
from conftest import run_tool

TOOL = 'tools/analysis_tools/contact_sheet.py'


def test_sheet(tmp_path):
    folder = tmp_path / 'drawn/inner'
    folder.mkdir(parents=True)
    for i, shape in enumerate([(10, 20), (20, 20), (10, 20), (10, 20)]):
        cv2.imwrite(str(folder / f'{i}.png'),
                    np.full((*shape, 3), 40 * (i + 1), np.uint8))
    out = tmp_path / 'sheet.png'
    run_tool(TOOL, tmp_path / 'drawn', '--out', out, '--count', '3',
             '--columns', '2', '--width', '40')
    sheet = cv2.imread(str(out))
    # rows of 40 and 20 pixels and the gap of 6
    assert sheet.shape == (66, 86, 3)
    values = [sheet[5, 5, 0], sheet[35, 60, 0], sheet[60, 5, 0]]
    assert values == [40, 80, 120]
    assert sheet[30, 5, 0] == sheet[60, 60, 0] == 255

    failed = run_tool(TOOL, tmp_path, '--out', tmp_path / 'x.png', '--count',
                      '0', check=False)
    assert failed.returncode == 1 and 'at least 1' in failed.stdout
