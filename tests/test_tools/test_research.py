# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Each script runs and prints its table."""
import platform
import re
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from conftest import ROOT, call_main, known_to_forks, load_tool, main_error
from mmengine.config import Config

from autonl_mm.runs.allocator import SWITCH


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='about glibc on Linux')
def test_allocator(tiny_arch, tmp_path, monkeypatch, capsys, scope):
    """In this process, where freed memory is kept from the second setting on: a
    process of its own takes 10 seconds to start."""
    tool = load_tool('tools/research/benchmark_allocator.py')
    cfg = Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py')
    cfg.model.backbone.update(arch=str(tiny_arch), out_indices=(-1, ))
    cfg.model.head.in_channels = 64
    cfg.dump(tmp_path / 'tiny.py')
    monkeypatch.setenv(SWITCH, '1')
    for name, value in dict(
            BATCH_SIZE=2, SIZE=(32, 32), PROCESSES=1, STEPS=2, ProcessPoolExecutor=
            lambda workers, context: ThreadPoolExecutor(workers)).items():
        monkeypatch.setattr(tool, name, value)
    call_main(monkeypatch, tool, tmp_path / 'tiny.py')
    found = re.findall(r'\| tiny \| ([\w ]+) (?:\| \d+ \([^|]+ ){2}\| [\d.]+ \|',
                       capsys.readouterr().out)
    assert found == ['training step', 'prediction']


def test_memory(capsys, scope):
    tool = load_tool('tools/research/benchmark_memory.py')
    with known_to_forks(tool) as patch:
        call_main(patch, tool, ROOT / 'configs/mmseg/autonl-s_fpn_1xb8-2400i_'
                  'cityscapes-256x256.py', '--input-shapes', '128x256', '256x512')
    out = capsys.readouterr().out
    assert re.search(r'\| 128x256 \| [\d,]+ \| - \|', out)
    pixel, = re.search(r'\| 256x512 \| [\d,]+ \| ([\d,]+) \|', out).groups()
    # the logits of 19 classes at full size
    assert int(pixel.replace(',', '')) >= 19 * 4


@pytest.mark.long
def test_search(capsys, scope):
    tool = load_tool('tools/research/benchmark_search.py')
    with known_to_forks(tool) as patch:
        call_main(patch, tool, '--batch-size', '2', '--input-shape', '32', '--rounds',
                  '2', '--device', 'cpu')
    memory = re.search(r'\| ratio \| [\d.]+ \| ([\d.]+) \|', capsys.readouterr().out)
    # the supernet has all weights of the largest network, and its gates
    assert float(memory[1]) > 1


def test_canvases_of_repeated_crops():
    """Pixels are equal to those of the same crop elsewhere where the label says so."""
    tool = load_tool('tools/research/repeated_crops.py')
    rng = np.random.default_rng(0)
    crops = rng.normal(size=(6, 12, 12, 3)).astype(np.float32)
    images, labels = tool.draw(crops, 5, rng)
    for image, label in zip(images, labels):
        assert (label == 1).sum() == (label == 0).sum() == 4 * 9
        corners = {1: [], 0: []}  # values that no other crop has
        for value in crops[:, 0, 0, 0]:
            for y, x in np.argwhere(image[0].numpy() == value):
                corners[int(label[y // 4, x // 4])].append(value)
        assert len(corners[1]) == 4 and len(set(corners[1])) == 2
        assert len(corners[0]) == len(set(corners[0])) == 4
        assert (image[:, label.isnan().repeat_interleave(4, 0)
                      .repeat_interleave(4, 1)] == 0).all()


@pytest.mark.long
def test_repeated_crops(tmp_path, monkeypatch, capsys, scope):
    tool = load_tool('tools/research/repeated_crops.py')
    for i in range(10):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.random.default_rng(i).integers(
            0, 256, (60, 50, 3)).astype(np.uint8))
    monkeypatch.setattr(tool.logging, 'disable', lambda level: None)
    call_main(monkeypatch, tool, tmp_path, '--steps', 'none', 'bounded', '--seeds', 1,
              '--iterations', 2, '--batch-size', 2)
    rows = re.findall(r'^\| (\w+) \| [\d.]+ \| ([\d.]+) \|$', capsys.readouterr().out,
                      re.MULTILINE)
    assert [name for name, _ in rows] == ['none', 'bounded']
    assert all(20 < float(value) < 80 for _, value in rows)
    (tmp_path / '3.png').unlink()
    assert 'has 9 images .jpg, .jpeg, .png, expected at least 10' in main_error(
        monkeypatch, tool, tmp_path)
