# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
from conftest import call_main, load_tool, main_error

tool = load_tool('tools/analysis_tools/contact_sheet.py')


def test_sheet(tmp_path, monkeypatch):
    folder = tmp_path / 'visualised/inner'
    folder.mkdir(parents=True)
    for i, shape in enumerate([(10, 20), (10, 20), (20, 20), (10, 20)]):
        cv2.imwrite(str(folder / f'{i}.png'),
                    np.full((*shape, 3), 40 * (i + 1), np.uint8))
    out = tmp_path / 'sheet.png'
    call_main(monkeypatch, tool, tmp_path / 'visualised', '--out', out,
              '--show-number', '3', '--columns', '2', '--width', '40')
    sheet = cv2.imread(str(out))
    # rows of 40 and 20 pixels and the gap of 6
    assert sheet.shape == (66, 86, 3)
    values = [sheet[5, 5, 0], sheet[35, 60, 0], sheet[60, 5, 0]]
    assert values == [40, 120, 160]
    assert sheet[30, 5, 0] == sheet[60, 60, 0] == 255

    # two folders: each row has the two images of a name
    other = tmp_path / 'other'
    other.mkdir()
    for i in range(4):
        cv2.imwrite(str(other / f'{i}.png'), np.zeros((10, 20, 3), np.uint8))
    call_main(monkeypatch, tool, tmp_path / 'visualised', other, '--out', out,
              '--show-number', '2', '--width', '40')
    sheet = cv2.imread(str(out))
    assert sheet.shape == (46, 86, 3)
    assert [sheet[y, x, 0] for y in (5, 40) for x in (5, 60)] == [40, 0, 160, 0]
    (other / '3.png').rename(other / '4.png')
    for folders, number, words in (
        ([tmp_path / 'visualised', other], 6, 'different names'),
        ([tmp_path], 0, '--show-number'),
    ):
        assert words in main_error(monkeypatch, tool, *folders, '--out',
                                   tmp_path / 'x.png', '--show-number', number)
    assert not (tmp_path / 'x.png').exists()
