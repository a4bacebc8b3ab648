# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Visualising data and plotting logs, also with the libraries' own tools."""
import json
import runpy
import sys
from pathlib import Path

import cv2
import mmdet
import mmpretrain
import mmseg
import numpy as np
import pytest
from conftest import FORKS, ROOT, call_main, load_tool, run_tool

browse = load_tool('tools/analysis_tools/browse_dataset.py')


def run(library, tool, *args, monkeypatch):
    """Run a tool of a library's wheel in this process."""
    path = Path(library.__file__).parent / '.mim/tools' / tool
    monkeypatch.setattr(sys, 'argv', [str(path), *map(str, args)])
    runpy.run_path(str(path), run_name='__main__')


@pytest.fixture(scope='module')
def demo_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', root,
             *[f'--{s}-{part}={n}' for s in ('cls', 'det', 'seg')
               for part, n in (('train', 2), ('val', 1))])
    return root


CONFIGS = pytest.mark.parametrize('config, task', [
    ('autonl-s_1xb32_demo-cls', 'cls'),
    ('retinanet_autonl-s_1xb8_demo-det', 'det'),
    ('semantic-fpn_autonl-s_1xb8_demo-seg', 'seg'),
], ids=['mmpretrain', 'mmdet', 'mmseg'])


@CONFIGS
def test_browse(config, task, demo_data, tmp_path, monkeypatch, scope, capsys):
    """Our tool works for all three; two of the libraries' own fail."""
    items = []
    visualize = browse.visualize

    def spy(visualizer, scope, item, out_file):
        items.append(item['inputs'].numpy().transpose(1, 2, 0))
        visualize(visualizer, scope, item, out_file)

    monkeypatch.setattr(browse, 'visualize', spy)
    call_main(monkeypatch, browse, ROOT / f'configs/demo/{config}.py', '--out',
              tmp_path / 'out', '--cfg-options',
              f'train_dataloader.dataset.data_root={demo_data / task}/')
    assert '2 of 2 images' in capsys.readouterr().out
    images = [cv2.imread(str(p)) for p in sorted((tmp_path / 'out').iterdir())]
    assert len(images) == len(items) == 2
    for image, item in zip(images, items):
        # the annotation is on it
        plain = cv2.resize(item, image.shape[1::-1]).astype(int)
        assert np.abs(image - plain).max() > 50


def test_browse_masks(demo_data, tmp_path, monkeypatch, scope):
    """Boxes and masks of the images for Mask R-CNN."""
    root = demo_data / 'det'
    names = [f'digit_{i}' for i in range(10)]
    call_main(monkeypatch, browse,
              ROOT / 'configs/mmdet/mask-rcnn_autonl-s_fpn_1x_coco.py',
              '--out', tmp_path / 'out', '--show-number', '1', '--cfg-options',
              f'train_dataloader.dataset.data_root={root}/',
              'train_dataloader.dataset.ann_file=annotations/instances_train.json',
              'train_dataloader.dataset.data_prefix.img=train/',
              f'train_dataloader.dataset.metainfo.classes={names}'.replace(' ', ''))
    assert len(list((tmp_path / 'out').iterdir())) == 1


def test_browse_by_mmdet(demo_data, tmp_path, monkeypatch, scope):
    run(mmdet, 'analysis_tools/browse_dataset.py',
        ROOT / 'configs/demo/retinanet_autonl-s_1xb8_demo-det.py',
        '--output-dir', tmp_path / 'out', '--not-show', '--cfg-options',
        f'train_dataloader.dataset.data_root={demo_data / "det"}/',
        monkeypatch=monkeypatch)
    assert len(list((tmp_path / 'out').rglob('*.*g'))) == 2


# The fork of mmdet plots in a style of seaborn by default and asks matplotlib for it.
MMDET_ARGS = ['--style', 'default'] if FORKS else []


@pytest.mark.parametrize('library, args', [
    (mmpretrain, ['plot_curve']), (mmdet, ['plot_curve', *MMDET_ARGS]), (mmseg, []),
], ids=['mmpretrain', 'mmdet', 'mmseg'])
def test_log_plot(library, args, tmp_path, monkeypatch):
    """With logs as tools/train.py writes them."""
    log = tmp_path / 'scalars.json'
    records = [dict(lr=0.1, loss=1 / i, epoch=1 + i // 3, iter=i, step=i)
               for i in range(1, 6)]
    log.write_text('\n'.join(map(json.dumps, records)) + '\n')
    out = tmp_path / 'loss.png'
    run(library, 'analysis_tools/analyze_logs.py', *args, log, '--keys', 'loss',
        '--out', out, monkeypatch=monkeypatch)
    assert cv2.imread(str(out)).std() > 10
