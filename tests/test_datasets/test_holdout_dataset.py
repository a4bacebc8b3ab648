# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Splits of any dataset: disjoint, complete, and closed in themselves."""
import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.dataset import BaseDataset, RepeatDataset
from mmengine.registry import DATASETS, init_default_scope

from autonl_mm.datasets import HoldoutDataset
from autonl_mm.datasets.holdout_dataset import count_shared


class Numbers(BaseDataset):
    """20 numbers; those that the pipeline refuses are replaced by others."""

    METAINFO = dict(classes=('even', 'odd'))

    def load_data_list(self):
        return [dict(number=i) for i in range(20)]

    def get_cat_ids(self, index):
        return [self.get_data_info(index)['number'] % 2]


class Pixels(Numbers):
    """As mmpretrain's CIFAR10: no paths."""

    def load_data_list(self):
        return [dict(img=np.full((2, 2), i)) for i in range(200)]


class Paths(Numbers):

    def load_data_list(self):
        return [dict(img_path=f'{self.metainfo["root"]}{i}.jpg') for i in range(20)]


def test_shared_images(tmp_path):
    pixels = Pixels()
    train, val = (HoldoutDataset(Pixels(), 50, s) for s in ('train', 'val'))
    assert count_shared(train, val) == 0
    assert count_shared(val, pixels) == count_shared(
        RepeatDataset(val.dataset, 2), val) == 50
    paths, same, others = (Paths(metainfo=dict(root=root))
                           for root in ('a/', f'{os.getcwd()}/a/', 'b/'))
    assert count_shared(paths, same) == 20 and count_shared(paths, others) == 0
    # links to the same files
    (tmp_path / 'c').mkdir()
    for i in range(20):
        (tmp_path / f'c/x{i}.jpg').touch()
    (tmp_path / 'd').symlink_to(tmp_path / 'c')
    (tmp_path / 'e').mkdir()
    os.link(tmp_path / 'c/x3.jpg', tmp_path / 'e/x5.jpg')
    files, soft, hard = (Paths(metainfo=dict(root=f'{tmp_path}/{name}/x'))
                         for name in 'cde')
    assert count_shared(files, soft) == 20 and count_shared(files, hard) == 1
    # nothing to compare
    for one, other in ((Numbers(), Numbers()), (pixels, paths), (pixels, [1, 2])):
        assert count_shared(one, other) is None


def test_a_few_duplicates_are_no_shared_images():
    val = HoldoutDataset(Pixels(), 100, 'val')
    one = HoldoutDataset(Pixels(), 100, 'train')
    one.dataset = BaseDatasetOf([*infos(one), infos(val)[0]])
    assert count_shared(val, one) == 0
    one.dataset = BaseDatasetOf([*infos(one), *infos(val)[:2]])
    assert count_shared(val, one) == 2


def infos(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


class BaseDatasetOf(list):

    get_data_info = list.__getitem__


def part(split, holdout=6, **kwargs):
    return HoldoutDataset(Numbers(**kwargs), holdout, split)


def numbers(dataset):
    return [dataset.get_data_info(i)['number'] for i in range(len(dataset))]


@pytest.mark.parametrize('serialize_data', [True, False])
def test_disjoint_and_complete(serialize_data):
    train, val = (part(s, serialize_data=serialize_data) for s in ('train', 'val'))
    assert len(train) == 14 and len(val) == 6
    assert sorted(numbers(train) + numbers(val)) == list(range(20))
    assert numbers(val) == numbers(part('val'))
    assert [train[i]['number'] for i in range(14)] == numbers(train)
    assert train.metainfo['classes'] == ('even', 'odd')
    assert train.get_cat_ids(3) == [numbers(train)[3] % 2]


def test_hooks_switch_the_pipeline():
    """mmdet's hook writes it on the loader's dataset, mmpretrain's if it has one."""
    from mmdet.engine.hooks import PipelineSwitchHook
    from mmpretrain.engine.hooks import SwitchRecipeHook
    for epoch in (0, 1):
        train = part('train')
        loader = SimpleNamespace(dataset=train)
        PipelineSwitchHook(1, [lambda info: 'switched']).before_train_epoch(
            SimpleNamespace(epoch=epoch, train_dataloader=loader,
                            logger=logging.getLogger()))
        assert (train[0] == 'switched') == (epoch == 1)
        assert train.pipeline is train.dataset.pipeline
    SwitchRecipeHook._switch_train_pipeline(
        SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader)),
        lambda info: 'again')
    assert train[0] == 'again'


def test_an_image_is_replaced_by_one_of_the_same_part():
    train = part('train')
    mine, seen = set(numbers(train)), set()
    train.dataset.pipeline = lambda info: info if info['number'] in (
        seen_allowed) else None
    seen_allowed = {min(mine), *numbers(part('val'))}
    for _ in range(5):
        seen |= {train[i]['number'] for i in range(14)}
    assert seen == {min(mine)}


@pytest.mark.parametrize('kwargs, words', [
    (dict(split='test'), "split is 'test'"),
    (dict(split='val', holdout=0), 'holdout is 0'),
    (dict(split='train', holdout=20), '20 images, expected more than the 20'),
])
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        part(**kwargs)
    with pytest.raises(ValueError, match='put HoldoutDataset inside of them'):
        HoldoutDataset(RepeatDataset(Numbers(), 2), 3, 'val')


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_of_the_other_codebases(task, tmp_path, scope, monkeypatch):
    make = load_tool('tools/dataset_converters/make_demo_data.py')
    monkeypatch.setattr('sys.argv', [
        'make_demo_data.py', '--out', str(tmp_path), '--sets', task,
        f'--{task}-train', '6', f'--{task}-val', '2'])
    make.main()
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/demo_{task}_bs8.py')
    init_default_scope('mmdet' if task == 'det' else 'mmseg')
    dataset = dict(cfg.train_dataloader.dataset, data_root=f'{tmp_path / task}/')
    settings = [dict(type='autonl_mm.HoldoutDataset', dataset=dataset, holdout=2,
                     split=split) for split in ('train', 'val')]
    parts = [DATASETS.build(s) for s in settings]
    paths = [[p.get_data_info(i)['img_path'] for i in range(len(p))] for p in parts]
    assert [len(p) for p in paths] == [4, 2] and len({*paths[0], *paths[1]}) == 6
    assert parts[1][0]['inputs'].shape == (3, 160, 160)
    repeated = DATASETS.build(dict(
        type='RepeatDataset', dataset=settings[0], times=3))
    assert len(repeated) == 12
