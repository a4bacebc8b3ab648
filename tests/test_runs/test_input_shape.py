# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The image size that tools read from configs or from --input-shape."""
import argparse

import pytest
from mmengine.config import Config

from autonl_mm.runs import configs


def pipeline(*transforms, wrapped=False):
    dataset = dict(type='X', pipeline=[dict(t) for t in transforms])
    if wrapped:
        dataset = dict(type='ConcatDataset', datasets=[dataset])
    return Config(dict(test_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize('transforms, size', [
    ([dict(type='Resize', scale=64)], (64, 64)),
    ([dict(type='Resize', scale=(96, 64))], (64, 96)),
    ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)],
     (224, 224)),
    ([dict(type='autonl_mm.ReleaseCenterCrop', release='tf', size=192)], (192, 192)),
    ([dict(type='Resize', scale=(96, 64)), dict(type='Pad', size=(128, 96)),
      dict(type='Pad', size_divisor=32)], (96, 128)),
    ([dict(type='Resize', scale=64), dict(type='Pad', size=None, size_divisor=32)],
     (64, 64)),
])
@pytest.mark.parametrize('wrapped', [False, True])
def test_input_size(transforms, size, wrapped):
    assert configs.input_size(pipeline(*transforms, wrapped=wrapped)) == size


@pytest.mark.parametrize('cfg', [
    pipeline(dict(type='LoadImageFromFile')),
    pipeline(dict(type='Resize', scale_factor=0.5)),
    Config(dict(test_dataloader=None)),
    Config(dict()),
], ids=['no resize', 'by a factor', 'None', 'no dataloader'])
def test_no_size(cfg):
    with pytest.raises(ValueError, match=r'does not set the size .* --input-shape'):
        configs.input_size(cfg)


@pytest.mark.parametrize('options, size', [
    ([], (64, 96)), (['--input-shape', '32'], (32, 32)),
    (['--input-shape', '32', '48'], (32, 48)),
])
def test_input_shape_option(options, size):
    parser = argparse.ArgumentParser()
    configs.add_input_shape(parser)
    args = parser.parse_args(options)
    cfg = pipeline(dict(type='Resize', scale=(96, 64)))
    assert configs.parse_shape(args.input_shape, cfg) == size


@pytest.mark.parametrize('shape', [[0], [32, -1], [1, 2, 3]])
def test_bad_input_shape(shape):
    with pytest.raises(ValueError) as error:
        configs.parse_shape(shape)
    assert f'--input-shape is {shape}' in str(error.value)
