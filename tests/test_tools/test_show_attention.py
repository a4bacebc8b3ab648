# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
import torch
from conftest import call_main, load_tool, main_error
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.models import LightNL

CONFIG = 'configs/mmpretrain/autonl-s_2xb128_cifar10.py'
tool = load_tool('tools/analysis_tools/show_attention.py')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """An image, bright at the left, and a checkpoint."""
    folder = tmp_path_factory.mktemp('attention')
    image = np.zeros((96, 160, 3), np.uint8)
    image[:, :80] = (40, 120, 230)
    cv2.imwrite(str(folder / 'image.png'), image)
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'net.pth')
    return folder / 'image.png', folder / 'net.pth'


def test_plot(files, tmp_path, scope, monkeypatch):
    monkeypatch.setenv('AUTONL_KEEP_MEMORY', '0')
    image, checkpoint = files
    out = tmp_path / 'attention.png'
    layers = ['backbone.layers.2.0.light_nl', 'backbone.layers.7.0.light_nl']
    plotted = []
    plot = tool.plot
    monkeypatch.setattr(tool, 'plot', lambda *args: (plotted.append(args), plot(*args)))
    call_main(monkeypatch, tool, image, CONFIG, checkpoint, '--layer', *layers,
              '--points', '10,20', '150,90', '80,48', '--out', out)
    one = cv2.imread(str(out))
    call_main(monkeypatch, tool, image, CONFIG, checkpoint, '--layer', layers[0],
              '--points', '10,20', '--input-shape', '64', '128', '--out', out)
    other = cv2.imread(str(out))
    # 4 columns and 2 rows against 2 columns and 1 row
    assert one.shape[1] == pytest.approx(2 * other.shape[1], abs=5)
    assert one.shape[0] > 1.5 * other.shape[0] and one.std() > 10
    # the points are scaled with the image
    resized, rows, points, size, _ = plotted[1]
    assert resized.shape == (64, 128, 3) and size == (64, 128)
    assert points == [(10 * 128 / 160, 20 * 64 / 96)] and list(rows) == layers[:1]


@pytest.mark.parametrize('codebase', ['mmpretrain', 'mmdet', 'mmseg'])
def test_rows_are_those_of_the_layer(codebase, files, scope):
    """Of the layer's own input, at the places asked for, after padding."""
    preprocessor = dict(
        mmpretrain=dict(type='ClsDataPreprocessor', mean=[0] * 3,
                        std=[255] * 3, to_rgb=True),
        mmdet=dict(type='DetDataPreprocessor', mean=[0] * 3, std=[255] * 3,
                   bgr_to_rgb=True, pad_size_divisor=64),
        mmseg=dict(type='SegDataPreProcessor', mean=[0] * 3, std=[255] * 3,
                   bgr_to_rgb=True, size_divisor=64,
                   test_cfg=dict(size_divisor=64)))[codebase]
    init_default_scope(codebase)
    __import__(f'{codebase}.models')
    model = torch.nn.Module()
    model.data_preprocessor = MODELS.build(preprocessor)
    model.backbone = MODELS.build(
        dict(type='autonl_mm.AutoNL', normalize='size', out_indices=(3, )))
    model.eval()
    image = cv2.imread(str(files[0]))
    layer = model.backbone.layers[2][0].light_nl
    assert isinstance(layer, LightNL)
    seen = []
    layer.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    points = [(10., 20.), (150., 90.)]
    rows, size = tool.attention(model, {'a': layer}, image, points)
    assert size == ((96, 160) if codebase == 'mmpretrain' else (128, 192))
    x, = seen
    h, w = size[0] // 4, size[1] // 4
    assert x.shape[2:] == (h, w) and rows['a'].shape == (2, h, w)
    k = layer.nl_channels
    for row, (px, py) in zip(rows['a'], points):
        query = x[0, :k, int(py) // 4, int(px) // 4]
        want = torch.einsum('i,iab->ab', query, x[0, :k]) / (h * w)
        torch.testing.assert_close(row, want)


def test_bad_input(files, tmp_path, monkeypatch, scope):
    image, checkpoint = files
    layer = ['--layer', 'backbone.layers.2.0.light_nl']
    points = ['--points', '1,1']
    for arguments, words in (
        ([image, CONFIG, checkpoint, '--layer', 'backbone.layers.2', *points],
         'backbone.layers.7.0.light_nl'),
        ([image, CONFIG, checkpoint, *layer, '--points', '400,1'],
         'outside of the image of width 160'),
        (['nowhere.png', CONFIG, checkpoint, *layer, *points],
         "'nowhere.png' does not exist"),
        ([CONFIG, CONFIG, checkpoint, *layer, *points], 'is not a readable image'),
        ([image, CONFIG, checkpoint, *layer, *points, '--input-shape', '0'],
         '--input-shape is [0]'),
    ):
        assert words in main_error(monkeypatch, tool, *arguments, '--out',
                                   tmp_path / 'attention.png')
    assert not list(tmp_path.iterdir())
