# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What a COCO file lacks is named before datasets are built."""
import copy
import json

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from autonl_mm.runs.dataset_configs import check_data, check_evaluator

GOOD = dict(
    images=[dict(id=i, file_name=f'{i}.jpg', width=64, height=48) for i in (1, 2)],
    annotations=[dict(id=i, image_id=i, category_id=1, bbox=[8, 8, 57, 9.5], area=100,
                      iscrowd=i - 1) for i in (1, 2)],
    categories=[dict(id=1, name='cat')])
PANOPTIC = dict(GOOD, annotations=[dict(image_id=1, file_name='1.png', segments_info=[
    dict(GOOD['annotations'][0], bbox=[0, 0, 9, 9])])], categories=[
        dict(id=1, name='cat', isthing=1)])
LVIS = dict(GOOD, images=[dict(id=1, coco_url='http://x/1.jpg', width=64, height=48)])


@pytest.fixture
def write(scope, tmp_path):
    pytest.importorskip('mmdet.datasets')

    def write(content, kind='CocoDataset', metric='CocoMetric', **evaluator):
        path = tmp_path / 'a.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        dataset = dict(type=kind, data_root=str(tmp_path), ann_file='a.json',
                       data_prefix=dict(img=''), metainfo=dict(classes=('cat', )))
        init_default_scope('mmdet')
        return Config(dict(
            default_scope='mmdet', val_dataloader=dict(dataset=dict(
                type='RepeatDataset', times=2, dataset=dataset)),
            val_evaluator=dict(type=metric, ann_file=str(path), **evaluator)))

    return write


def changed(part, key, value=...):
    content = copy.deepcopy(GOOD)
    content[part][1][key] = value
    if value is ...:
        del content[part][1][key]
    return content


def without(*parts):
    return {part: items for part, items in GOOD.items() if part not in parts}


@pytest.mark.parametrize('content, words', [
    (changed('images', 'height'),
     "images[1] has no 'height', as 1 of 2 images: write its height in pixels"),
    (changed('images', 'width', None), "images[1] has no 'width', as 1 of 2 images"),
    (changed('images', 'file_name'), "images[1] has no 'file_name'"),
    (changed('annotations', 'area'), "annotations[1] has no 'area', as 1 of 2 annot"),
    (changed('annotations', 'category_id'), "annotations[1] has no 'category_id'"),
    (changed('annotations', 'bbox', [1, 2, float('nan'), 3]),
     'annotations[1] has the bbox [1, 2, nan, 3]'),
    (changed('annotations', 'bbox', [1, 2]),
     'the bbox [1, 2], as 1 of 2 annotations: write [x, y, width, height] in pixels'),
    (changed('annotations', 'bbox', []), "annotations[1] has no 'bbox'"),
    (without('categories'), "has no list 'categories'"),
    (without('images'), "has no list 'images'"),
    (dict(GOOD, categories=['cat']), "categories[0] has no 'id'"),
    (dict(GOOD, annotations={}), "has no list 'annotations'"),
    ([1], "has no list 'images'")])
def test_what_lacks_is_named(content, words, write, tmp_path):
    with pytest.raises(ValueError) as error:
        check_data(write(content), ['val_dataloader'])
    place = 'val_dataloader.dataset.dataset.ann_file: '
    assert str(error.value).startswith(f'{place}{tmp_path}/a.json')
    assert words in str(error.value)


def test_a_file_that_is_not_json(write, tmp_path):
    with pytest.raises(ValueError, match=rf'^{tmp_path}/a\.json is not JSON'):
        check_data(write('{'), ['val_dataloader'])


def test_without_iscrowd_only_evaluation_fails(write):
    cfg = write(changed('annotations', 'iscrowd'))
    check_data(cfg, ['val_dataloader'])
    DATASETS.build(cfg.val_dataloader.dataset)
    for place, metrics in (
            ('', cfg.val_evaluator), ('.0', [cfg.val_evaluator]),
            ('.metrics', dict(type='Evaluator', metrics=cfg.val_evaluator)),
            ('.metrics.0', dict(type='Evaluator', metrics=[cfg.val_evaluator]))):
        with pytest.raises(ValueError, match=(
                rf"^val_evaluator{place}\.ann_file: .*a\.json: annotations\[1\] has no "
                "'iscrowd', as 1 of 2 annotations: write 0, or 1 for a group")):
            check_evaluator(Config(dict(cfg, val_evaluator=metrics)), 'val')
    cfg.val_evaluator.ann_file = 'none.json'
    with pytest.raises(FileNotFoundError, match=r'^val_evaluator\.ann_file: .none'):
        check_evaluator(cfg, 'val')
    cfg.val_evaluator.format_only = True
    check_evaluator(cfg, 'val')


@pytest.mark.parametrize('content, kind, metric', [
    (GOOD, 'CocoDataset', 'CocoMetric'),
    (GOOD, 'mmdet.CocoDataset', 'mmdet.CocoMetric'),
    (json.loads(json.dumps(GOOD).replace('id": 1', 'id": "img_1"')), 'CocoDataset',
     'CocoMetric'),
    (without('annotations'), 'CocoDataset', 'CocoMetric'),
    (PANOPTIC, 'CocoPanopticDataset', 'CocoPanopticMetric'),
    (LVIS, 'LVISV1Dataset', 'CocoMetric'), ({}, 'ODVGDataset', 'VOCMetric'),
    ({}, 'NoDataset', 'NoMetric')])
def test_good_files_pass(content, kind, metric, write):
    cfg = write(content, kind, metric)
    check_data(cfg, ['val_dataloader'])
    check_evaluator(cfg, 'val')


def test_classes_of_the_config_may_be_types(write):
    import mmdet.datasets
    cfg = write(without('categories'), mmdet.datasets.CocoDataset)
    with pytest.raises(ValueError, match="no list 'categories'"):
        check_data(cfg, ['val_dataloader'])


def test_a_changed_file_is_read_again(write):
    with pytest.raises(ValueError):
        check_data(write(without('categories')), ['val_dataloader'])
    check_data(write(GOOD), ['val_dataloader'])


@pytest.mark.parametrize('key', ['metainfo.classes', 'classes'])
def test_a_string_of_classes(key, tmp_path):
    """Its letters would be the classes."""
    cfg = Config(dict(val_dataloader=dict(dataset=dict(type='X'))))
    cfg.merge_from_dict({f'val_dataloader.dataset.{key}': 'cat'})
    with pytest.raises(ValueError, match=(
            rf"^val_dataloader\.dataset\.{key} is the string 'cat', .* \('cat', \)")):
        check_data(cfg, ['val_dataloader'])
    (tmp_path / 'names.txt').write_text('cat\n')
    for good in str(tmp_path / 'names.txt'), ('cat', ), ['cat']:
        cfg.merge_from_dict({f'val_dataloader.dataset.{key}': good})
        check_data(cfg, ['val_dataloader'])
