# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""tools/train.py and tools/test.py with a detector and a segmentor."""
import json
import textwrap

import pytest
from conftest import run_tool

COMMON = """\
custom_imports = dict(imports=['autonl_mm'])
backbone = dict(
    _delete_=True, type='AutoNL', arch='s', out_indices=(2, 3, 5, 7))
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
"""
DETECTOR = COMMON + """\
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
root = '{root}/det/'
classes = tuple(f'digit_{{i}}' for i in range(10))
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[24, 40, 96, 320]),
    bbox_head=dict(num_classes=10),
    test_cfg=dict(score_thr=0.))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    dataset=dict(
        data_root=root, ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'), metainfo=dict(classes=classes),
        pipeline=train_pipeline), **loader)
test_pipeline.insert(1, dict(type='Resize', scale=(160, 160)))
val_dataloader = dict(
    dataset=dict(
        data_root=root, ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'), metainfo=dict(classes=classes),
        pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""
SEGMENTOR = COMMON + """\
_base_ = 'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py'
root = '{root}/seg/'
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(160, 160)),
    backbone=backbone,
    neck=dict(in_channels=[24, 40, 96, 320]))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        data_root=root, pipeline=pipeline,
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train')),
    **loader)
val_dataloader = dict(
    dataset=dict(
        data_root=root, pipeline=pipeline,
        data_prefix=dict(
            img_path='leftImg8bit/val', seg_map_path='gtFine/val')),
    num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
"""


@pytest.fixture(scope='module')
def demo_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', root,
             '--sets', 'det', 'seg', '--det-train', '4', '--det-val', '2',
             '--seg-train', '4', '--seg-val', '2')
    return root


@pytest.mark.parametrize('text, metric, checkpoint', [
    (DETECTOR, 'coco/bbox_mAP_50', 'epoch_1.pth'),
    (SEGMENTOR, 'mIoU', 'iter_2.pth'),
], ids=['detector', 'segmentor'])
def test_train_and_test(text, metric, checkpoint, demo_data, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(textwrap.dedent(text.format(root=demo_data)))
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run')
    metrics = tmp_path / 'metrics.json'
    run_tool('tools/test.py', config, tmp_path / 'run' / checkpoint,
             '--work-dir', tmp_path / 'test', '--out', metrics,
             '--out-item', 'metrics', '--show-dir', tmp_path / 'drawn')
    assert metric in json.loads(metrics.read_text())
    assert len(list((tmp_path / 'drawn').rglob('*.*g'))) == 2
