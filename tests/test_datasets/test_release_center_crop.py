# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Both releases' evaluation crops against independent implementations."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from release_crops import normalize, resize_matrix, tf_reference, torch_reference

from autonl_mm.datasets import ReleaseCenterCrop, tf_bicubic


def images():
    """Photographs that come with scikit-learn, and those of data/, if any."""
    paths = sorted((Path(sklearn.__file__).parent / 'datasets/images').glob(
        '*.jpg'))
    for folder in ('coco128', 'camvid/leftImg8bit'):
        paths += sorted((ROOT / 'data' / folder).glob('**/*.jpg'))[:6]
    return paths


def run_config(release, path):
    """Input of the network in a release's config, ``(3, 224, 224)``."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(
        ROOT / f'configs/mmpretrain/autonl-s_3rdparty-{release}_in1k.py')
    for name in ('val_dataloader', 'test_dataloader'):
        dataset = cfg[name].dataset
        assert dataset.pipeline == cfg.test_pipeline
        assert dataset.split == 'val'
    packed = Compose(cfg.test_pipeline)(dict(img_path=str(path), gt_label=0))
    preprocessor = MODELS.build(
        dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
    batch = preprocessor(
        dict(
            inputs=packed['inputs'][None],
            data_samples=[packed['data_samples']]))
    return batch['inputs'][0].numpy()


@pytest.mark.parametrize('path', images(), ids=lambda p: p.stem)
def test_tf_config_on_photographs(path, scope):
    rgb = np.array(Image.open(path).convert('RGB'))
    got = run_config('tf', path)
    assert got.dtype == np.float32
    assert np.abs(got - normalize(tf_reference(rgb))).max() < 1e-4


@pytest.mark.parametrize('path', images(), ids=lambda p: p.stem)
def test_torch_config_on_photographs(path, scope):
    rgb = np.array(Image.open(path).convert('RGB'))
    got = run_config('torch', path)
    assert np.abs(got - normalize(torch_reference(rgb))).max() < 1e-5


SIZES = [(375, 500), (500, 375), (256, 256), (300, 257), (64, 91), (31, 40),
         (1, 2), (2, 2), (700, 333)]


@pytest.mark.parametrize('size', SIZES)
def test_sizes(size):
    """Odd and even margins, enlarging, the smallest images."""
    img = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    if min(size) * 224 < 256:
        for release in ('tf', 'torch'):
            with pytest.raises(ValueError, match=r'x\.png of 1x2 is too small'):
                ReleaseCenterCrop(release)(dict(img=img, img_path='x.png'))
        return
    got = ReleaseCenterCrop('tf')(dict(img=img))
    assert got['img_shape'] == (224, 224)
    assert got['img'].dtype == np.float32
    assert np.abs(got['img'] - tf_reference(img)).max() < 1e-3
    got = ReleaseCenterCrop('torch')(dict(img=img))
    assert got['img_shape'] == (224, 224)
    assert np.array_equal(got['img'], torch_reference(img))


def test_tf_bicubic_is_no_library_mode():
    img = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    got = tf_bicubic(img, (30, 30))
    assert got.min() < 0 and got.max() > 255  # neither clipped nor rounded
    others = dict(
        opencv=cv2.resize(
            img.astype(np.float32), (30, 30), interpolation=cv2.INTER_CUBIC),
        pillow=np.array(
            Image.fromarray(img).resize((30, 30), Image.BICUBIC), float),
        torch=torch.nn.functional.interpolate(
            torch.tensor(img).float().permute(2, 0, 1)[None], (30, 30),
            mode='bicubic', align_corners=True)[0].permute(1, 2, 0).numpy())
    for name, other in others.items():
        assert np.abs(got - other).max() > 10, name


def test_tf_bicubic_shapes():
    img = np.random.default_rng(0).normal(size=(9, 7))
    got = tf_bicubic(img, (18, 5))
    assert got.shape == (18, 5)
    expected = resize_matrix(9, 18) @ img @ resize_matrix(7, 5).T
    assert np.allclose(got, expected, atol=1e-5)
    same = tf_bicubic(img, (9, 7))
    assert np.allclose(same, img)


def test_orientation_tags_are_ignored(tmp_path, scope):
    """Both releases ignore them too."""
    img = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / 'turned.jpg'
    Image.fromarray(img).save(path, exif=exif, quality=95)
    rgb = np.array(Image.open(path))
    assert rgb.shape == img.shape
    assert np.abs(
        run_config('tf', path) - normalize(tf_reference(rgb))).max() < 1e-4
    assert np.abs(run_config('torch', path) -
                  normalize(torch_reference(rgb))).max() < 1e-5


@pytest.mark.parametrize('kwargs, word', [
    (dict(release='jax'), "release is 'jax'"),
    (dict(release='tf', size=0), 'size is 0'),
    (dict(release='tf', size=2.5), 'size is 2.5'),
    (dict(release='tf', padding=-1), 'padding is -1'),
])
def test_bad_arguments(kwargs, word):
    with pytest.raises(ValueError, match=word):
        ReleaseCenterCrop(**kwargs)
