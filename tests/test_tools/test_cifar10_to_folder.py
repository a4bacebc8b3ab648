# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from conftest import load_tool, main_error
from PIL import Image

tool = load_tool('tools/dataset_converters/cifar10_to_folder.py')


class Images(list):
    classes = ('cat', 'dog')


def test_write_folder(tmp_path):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images = Images((Image.fromarray(a), i % 2) for i, a in enumerate(arrays))
    assert tool.write_folder(images, tmp_path / 'train') == 5
    for i, array in enumerate(arrays):
        path = tmp_path / 'train' / ('cat', 'dog')[i % 2] / f'{i:05d}.png'
        assert np.array_equal(np.array(Image.open(path)), array)
    with pytest.raises(FileExistsError):
        tool.write_folder(images, tmp_path / 'train')


def test_existing_folder(tmp_path, monkeypatch):
    (tmp_path / 'train').mkdir()
    assert 'train exists' in main_error(monkeypatch, tool, tmp_path)
