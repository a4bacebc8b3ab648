# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Folders with images of many kinds, broken ones, and files that are no images."""
import json
import os
import re

import cv2
import numpy as np
import pytest
from conftest import run_tool, tiny_training
from mmengine.config import Config
from PIL import Image

RNG = np.random.default_rng(0)


def pixels(channels=3):
    return RNG.integers(0, 256, (32, 32, channels)).astype(np.uint8).squeeze()


def write_kinds(folder):
    """Images of many kinds; returns how many there are."""
    folder.mkdir(parents=True)
    for name in ('plain.jpg', 'UPPER.JPG', 'photo 🙂.jpg', 'line\nbreak.jpg',
                 "quote'\".jpeg", 'bitmap.bmp', 'graphics.png'):
        Image.fromarray(pixels()).save(
            folder / name, 'JPEG' if 'j' in name.lower()[-4:] else None)
    Image.fromarray(pixels(4), 'CMYK').save(folder / 'cmyk.jpg')
    Image.fromarray(pixels()).convert('P').save(folder / 'palette.png')
    Image.fromarray(pixels(4), 'RGBA').save(folder / 'transparent.png')
    Image.fromarray(pixels(1)).save(folder / 'gray.png')
    Image.fromarray(pixels(1)).convert('1').save(folder / 'bits.png')
    cv2.imwrite(str(folder / 'sixteen.png'), pixels(1).astype(np.uint16) * 257)
    cv2.imwrite(str(folder / 'sixteen.tif'), pixels().astype(np.uint16) * 257)
    return len(list(folder.iterdir()))


BROKEN = dict(empty=b'', text=b'<html>404</html>', header=b'\xff\xd8\xff\xe0\0\x10JFIF')


@pytest.fixture
def root(tmp_path):
    root = tmp_path / 'images'
    for part in ('train', 'val'):
        for name in 'ab':
            write_kinds(root / part / name)
    return root


@pytest.fixture
def config(root, tmp_path):
    """One epoch of a tiny network."""
    cfg = tiny_training(root, batch_size=4, max_epochs=1)
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def train(config, *options, check=True):
    return run_tool('tools/train.py', config, '--work-dir', config.parent / 'run',
                    *options, check=check)


def test_many_kinds(root, config):
    """Broken images are left out and listed once by several workers."""
    for name, content in BROKEN.items():
        (root / f'train/a/{name}.jpg').write_bytes(content)
    for name in ('train/a/moves.gif', 'train/b/moves.gif', 'train/b/notes.txt',
                 'train/b/.hidden'):
        (root / name).write_bytes(b'GIF89a')
    log = train(config, '--cfg-options', 'train_dataloader.num_workers=2',
                'train_cfg.max_epochs=2', 'param_scheduler.total_steps=2').stdout
    listed = json.loads((config.parent / 'run/skipped_images.json').read_text())
    assert set(listed) == {str(root / f'train/a/{n}.jpg') for n in BROKEN}
    lines = re.findall(r'(\d+) training images could not be read', log)
    assert lines == ['3']
    for name in BROKEN:
        assert log.count(f'skipped: {root}/train/a/{name}.jpg') <= 2
    assert ("train_dataloader.dataset: 4 files in "
            f"'{root}/train' are left out") in log
    assert '2 .gif' in log and '1 .txt' in log and 'notes.txt' in log
    assert 'accuracy/top1' in log

    # as many images are evaluated as are there
    out = run_tool('tools/test.py', config, config.parent / 'run/epoch_2.pth',
                   '--work-dir', config.parent / 'test', '--out',
                   config.parent / 'predictions.pkl').stdout
    assert 'accuracy/top1' in out
    (root / 'val/a/text.jpg').write_bytes(BROKEN['text'])
    failed = run_tool('tools/test.py', config, config.parent / 'run/epoch_2.pth',
                      '--work-dir', config.parent / 'test', check=False)
    assert failed.returncode and 'val/a/text.jpg is not a readable image' in \
        failed.stdout


def test_a_link_to_the_folder_that_it_lies_in(root, config):
    os.symlink(root / 'train/a', root / 'train/a/again')
    failed = train(config, check=False)
    line = failed.stdout.strip().splitlines()[-1]
    assert failed.returncode == 1 and line.startswith('train.py: ')
    assert f"'{root}/train/a/again' is a link to a folder that it lies in" in line
    # others are followed
    os.remove(root / 'train/a/again')
    os.symlink(root / 'val/a', root / 'train/a/more')
    train(config)


def test_images_of_many_sizes(root, config):
    Image.fromarray(pixels()).resize((40, 36)).save(root / 'train/a/0.png')
    cfg = Config.fromfile(config)
    del cfg.train_dataloader.dataset.pipeline[1]
    cfg.dump(config)
    failed = train(config, check=False)
    line = failed.stdout.strip().splitlines()[-1]
    assert failed.returncode == 1 and line.startswith('train.py: ')
    for words in ('(3, 36, 40)', '(3, 32, 32)', 'train_dataloader',
                  'RandomResizedCrop'):
        assert words in line, line
    # an image that is not among those that are looked at
    os.rename(root / 'train/a/0.png', root / 'train/b/gray_too.png')
    failed = train(config, check=False)
    line = failed.stdout.strip().splitlines()[-1]
    assert failed.returncode == 1 and line.startswith('train.py: ')
    assert 'different shapes' in line and '36' in line and 'ResizeEdge' in line
    # one by one they do not meet
    train(config, '--cfg-options', 'train_dataloader.batch_size=1')
