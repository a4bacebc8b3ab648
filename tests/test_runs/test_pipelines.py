# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import mmseg.datasets.transforms  # noqa: F401
import pytest
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
)
from mmengine.registry import TRANSFORMS, init_default_scope

from autonl_mm.runs.pipelines import forward_pipelines, remove_annotations

LOAD = dict(type='LoadAnnotations')
FLIPS = [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0., 1.)]


@pytest.mark.parametrize('transforms', [
    [LOAD, *FLIPS],
    [dict(type='TestTimeAug', transforms=[FLIPS, [LOAD]])],
    [dict(type='RandomApply', transforms=[*FLIPS, LOAD])],
    [dict(type='RandomChoice', transforms=[[FLIPS[0], LOAD], [FLIPS[1], LOAD]])],
    [dict(type='KeyMapper', transforms=[
        dict(type='RandomApply', transforms=[LOAD, *FLIPS])])],
])
def test_annotations_are_not_loaded(transforms, scope):
    init_default_scope('mmseg')
    pipeline = TRANSFORMS.build(dict(type='Compose', transforms=transforms))
    assert 'LoadAnnotations' in repr(pipeline)
    remove_annotations(pipeline)
    assert 'LoadAnnotations' not in repr(pipeline)
    assert repr(pipeline).count('RandomFlip') == 2


def test_wrappers_forward_the_pipeline(monkeypatch):
    for wrapper in (ClassBalancedDataset, ConcatDataset, RepeatDataset):
        monkeypatch.delattr(wrapper, 'pipeline', raising=False)
    inner = [BaseDataset(pipeline=[], lazy_init=True) for _ in range(2)]
    for dataset in inner:
        dataset.load_data_list = lambda: [dict(number=i) for i in range(3)]
        dataset.full_init()
    forward_pipelines()
    for dataset in (ConcatDataset(inner), RepeatDataset(inner[0], 2)):
        dataset.pipeline = switched = lambda info: 'switched'
        assert [dataset[i] for i in range(len(dataset))] == ['switched'] * 6
        assert dataset.pipeline is switched
