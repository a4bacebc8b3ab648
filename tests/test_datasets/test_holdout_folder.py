# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS

NAMES = [f'{c}/{i}.png' for c in ('cat', 'dog') for i in range(5)]


def write(root, names=NAMES):
    for name in names:
        path = root / 'train' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 4, 3), 7, np.uint8))
    return root


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def build(root, split, holdout=3, **kwargs):
    return DATASETS.build(
        dict(
            type='autonl_mm.HoldoutFolder',
            data_root=str(root),
            data_prefix='train',
            holdout=holdout,
            split=split,
            **kwargs))


def names(dataset):
    """(path below the folder, label) of each image, in order."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [('/'.join(info['img_path'].split('/')[-2:]), info['gt_label'])
            for info in infos]


ALL = {(name, int(name.startswith('dog'))) for name in NAMES}


@pytest.mark.parametrize('holdout', [1, 3, 9])
def test_splits_are_disjoint_and_complete(folder, holdout):
    train = names(build(folder, 'train', holdout))
    val = names(build(folder, 'val', holdout))
    assert len(val) == holdout and len(train) == 10 - holdout
    assert set(train) | set(val) == ALL  # labels too


def test_the_split_is_known(folder):
    # numpy.random.RandomState(0).permutation(10), which numpy never changes
    order = [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert [n for n, _ in names(build(folder, 'train'))] == [
        NAMES[i] for i in order[:-3]
    ]
    assert [n for n, _ in names(build(folder, 'val'))] == [
        NAMES[i] for i in order[-3:]
    ]


def test_the_split_does_not_depend_on_the_file_system(folder, tmp_path):
    other = write(tmp_path / 'other', NAMES[::-1])
    np.random.seed(3)
    for split in 'train', 'val':
        assert names(build(folder, split)) == names(build(other, split))
        assert names(build(folder, split)) == names(build(folder, split))


def test_seed(folder):
    splits = {
        frozenset(names(build(folder, 'val', seed=seed)))
        for seed in range(3)
    }
    assert len(splits) > 1
    for seed in range(3):
        both = names(build(folder, 'val', seed=seed)) + names(
            build(folder, 'train', seed=seed))
        assert len(both) == 10 and set(both) == ALL


def test_reads_images(folder):
    dataset = build(
        folder, 'val', pipeline=[dict(type='autonl_mm.LoadImageOrSkip')])
    for i in range(3):
        assert (dataset[i]['img'] == 7).all()
    assert dataset.metainfo['classes'] == ('cat', 'dog')


@pytest.mark.parametrize('holdout', [10, 11, 5000])
def test_folder_must_have_more_than_is_held_out(folder, holdout):
    for split in 'train', 'val':
        with pytest.raises(ValueError) as info:
            build(folder, split, holdout)
        message = str(info.value)
        assert str(folder / 'train') in message
        assert '10 images' in message and str(holdout) in message


@pytest.mark.parametrize('kwargs,words', [
    (dict(split='test'), "split is 'test', expected 'train' or 'val'"),
    (dict(split=None), 'split is None'),
    (dict(split='val', holdout=0), 'holdout is 0'),
    (dict(split='val', holdout=-3), 'holdout is -3'),
    (dict(split='val', holdout=0.1), 'holdout is 0.1'),
    (dict(split='val', holdout='3'), "holdout is '3'"),
])
def test_bad_argument_is_named(folder, kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(folder, **kwargs)
