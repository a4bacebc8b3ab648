# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import logging

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.registry import TRANSFORMS

from autonl_mm.datasets import LoadImageOrSkip
from autonl_mm.runs.skipped_images import skipped_images


@pytest.fixture
def log():
    """Messages of level WARNING and above of mmengine's current logger."""
    records = []

    class Keep(logging.Handler):

        def emit(self, record):
            records.append(record.getMessage())

    logger = MMLogger.get_current_instance()
    handler = Keep(level=logging.WARNING)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def jpeg():
    image = np.random.RandomState(0).randint(0, 255, (40, 50, 3), np.uint8)
    return cv2.imencode('.jpg', image)[1].tobytes()


BROKEN = dict(
    garbage=b'not an image at all' * 20,
    empty=b'',
    header_only=jpeg()[:20],
    html=b'<!DOCTYPE html><html>404</html>')


class Images(BaseDataset):
    """A training dataset of the given paths."""

    def __init__(self, paths, **kwargs):
        self.paths = paths
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(img_path=str(path), number=i)
                for i, path in enumerate(self.paths)]


def dataset(paths, test_mode=False, max_refetch=50, **kwargs):
    transform = dict(type='autonl_mm.LoadImageOrSkip', **kwargs)
    return Images(
        paths,
        pipeline=[TRANSFORMS.build(transform)],
        test_mode=test_mode,
        max_refetch=max_refetch)


@pytest.fixture
def images(tmp_path):
    """Four good images, and one of each kind of broken image between them."""
    good, broken = [], []
    for i in range(4):
        good.append(tmp_path / f'good_{i}.jpg')
        good[-1].write_bytes(jpeg())
    for name, content in BROKEN.items():
        broken.append(tmp_path / f'{name}.jpg')
        broken[-1].write_bytes(content)
    return good, broken


def test_loads_as_mmcv_does(images):
    path = str(images[0][0])
    got = LoadImageOrSkip()(dict(img_path=path))
    assert got['img'].shape == (40, 50, 3) and got['img'].dtype == np.uint8
    assert np.array_equal(got['img'], cv2.imread(path))
    assert got['img_shape'] == got['ori_shape'] == (40, 50)
    gray = LoadImageOrSkip(
        color_type='grayscale', to_float32=True)(dict(img_path=path))
    assert gray['img'].ndim == 2 and gray['img'].dtype == np.float32


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_broken_images_are_skipped_and_logged(images, log, backend):
    good, broken = images
    paths = [p for pair in zip(good, broken) for p in pair]
    data = dataset(paths, imdecode_backend=backend)
    for i, path in [*enumerate(paths)] * 2:
        item = data[i]
        assert item['img'].shape == (40, 50, 3)
        assert item['img_path'] in map(str, good)
        if path in good:
            assert item['number'] == i
    # each once, in whatever order they were met
    assert len(log) == len(broken)
    for path in broken:
        line, = (text for text in log if str(path) in text)
        assert line.startswith(f'skipped: {path} is not a readable image')
    assert set(skipped_images(data)) == set(map(str, broken))


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('kind', sorted(BROKEN))
def test_without_skip_it_is_an_error(tmp_path, kind, backend, log):
    path = tmp_path / f'{kind}.jpg'
    path.write_bytes(BROKEN[kind])
    transform = LoadImageOrSkip(skip=False, imdecode_backend=backend)
    with pytest.raises(ValueError) as info:
        transform(dict(img_path=str(path)))
    assert str(path) in str(info.value)
    assert 'not a readable image' in str(info.value)
    assert not log


def test_truncated_image(tmp_path, log):
    path = tmp_path / 'truncated.jpg'
    path.write_bytes(jpeg()[:len(jpeg()) // 2])
    # Pillow refuses it. OpenCV may return the half that is there.
    assert LoadImageOrSkip(imdecode_backend='pillow')(
        dict(img_path=str(path))) is None
    assert str(path) in log[0]
    with pytest.raises(ValueError, match=r'truncated\.jpg'):
        LoadImageOrSkip(
            skip=False, imdecode_backend='pillow')(dict(img_path=str(path)))
    got = LoadImageOrSkip()(dict(img_path=str(path)))
    assert got is None or got['img'].shape == (40, 50, 3)


@pytest.mark.parametrize('skip', [True, False])
def test_missing_file_is_an_error_of_its_own(tmp_path, skip, log):
    path = str(tmp_path / 'none.jpg')
    with pytest.raises(FileNotFoundError, match=r'none\.jpg'):
        LoadImageOrSkip(skip=skip)(dict(img_path=path))
    with pytest.raises(FileNotFoundError):
        dataset([path], skip=skip)[0]
    assert not log


def test_image_without_pixels(images, monkeypatch, log):
    # what some versions of OpenCV make of an empty file
    monkeypatch.setattr('mmcv.imfrombytes',
                        lambda *a, **k: np.zeros((0, 0, 3), np.uint8))
    path = str(images[0][0])
    assert LoadImageOrSkip()(dict(img_path=path)) is None
    assert path in log[0] and 'no pixels' in log[0]
    with pytest.raises(ValueError, match='no pixels'):
        LoadImageOrSkip(skip=False)(dict(img_path=path))


def test_only_broken_images_end_in_an_error(images):
    with pytest.raises(Exception, match='Cannot find valid image'):
        dataset(images[1], max_refetch=5)[0]


def test_evaluation_does_not_lose_images(images):
    broken = images[1]
    with pytest.raises(ValueError, match=r'empty\.jpg'):
        dataset([broken[1]], test_mode=True, skip=False)[0]
    # even with skip, mmengine does not accept None from a test pipeline
    with pytest.raises(Exception, match='should not get `None`'):
        dataset([broken[1]], test_mode=True)[0]


# ------------------------------------------------------------------- decoders
class TurboJPEG:
    """The part of PyTurboJPEG that mmcv uses."""

    def decode(self, content, pixel_format):
        return cv2.imdecode(np.frombuffer(content, np.uint8), 1)


@pytest.mark.parametrize('spawned', [False, True])
def test_turbojpeg_is_started(spawned, images, monkeypatch):
    """mmcv 2.1 does not start it: its decoder is None and every image fails."""
    monkeypatch.setattr(mmcv.image.io, 'TurboJPEG', TurboJPEG)
    monkeypatch.setattr(mmcv.image.io, 'jpeg', None)
    load = LoadImageOrSkip(skip=False, imdecode_backend='turbojpeg')
    if spawned:  # a worker that was not forked has the transform, no decoder
        mmcv.image.io.jpeg = None
    image = load(dict(img_path=str(images[0][0])))['img']
    plain = LoadImageOrSkip()(dict(img_path=str(images[0][0])))['img']
    assert np.array_equal(image, plain)
    assert mmcv.image.io.imread_backend == 'cv2'  # what all else uses


def test_turbojpeg_is_not_installed(monkeypatch):
    monkeypatch.setattr(mmcv.image.io, 'TurboJPEG', None)
    monkeypatch.setattr(mmcv.image.io, 'jpeg', None)
    with pytest.raises(ValueError, match=r"'turbojpeg'.*pip install"):
        LoadImageOrSkip(imdecode_backend='turbojpeg')
    assert mmcv.image.io.imread_backend == 'cv2'
