# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What does not fit is found before training, with words that say what."""
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from autonl_mm.cli.checks import check_channels, check_datasets
from autonl_mm.engine.hooks import LabelCheckHook

RETINANET = 'mmdet/retinanet_autonl-s_fpn_1x_coco'
SSDLITE = 'mmdet/ssdlite_autonl-s_8xb24-600e_coco'
FPN = 'mmseg/autonl-s_fpn_4xb2-80k_cityscapes-512x1024'
DEEPLAB = 'mmseg/autonl-s-d16_deeplabv3plus_4xb2-80k_cityscapes-512x1024'
LRASPP = 'mmseg/autonl-s-d8_lraspp_4xb4-160k_cityscapes-512x1024'


@pytest.mark.parametrize('config, setting, words', [
    (RETINANET, {'model.neck.in_channels': [24, 32, 96, 320]},
     ['model.neck.in_channels is [24, 32, 96, 320]', '[24, 40, 96, 320]']),
    # an SSD head: too many maps, maps of a wrong width, of a wrong stride
    (SSDLITE, {'model.backbone.out_indices': (5, 7, 8)},
     ['gives 3 maps of [96, 320, 1280]', 'out_indices (5, 7, 8)',
      'model.neck.in_channels is [96, 1280]']),
    (SSDLITE, {'model.backbone.out_indices': (4, 8)},
     ['[80, 1280]', 'model.neck.in_channels is [96, 1280]']),
    (SSDLITE, {'model.backbone.output_stride': 16},
     ['anchor_generator.strides starts with [16, 32]', '[16, 16]']),
    (FPN, {'model.backbone.output_stride': 16},
     ['decode_head.feature_strides', '[4, 8, 16, 16]']),
    (DEEPLAB, {'model.backbone.out_indices': (1, 3, 5, 7)},
     ['decode_head.c1_in_channels is 24', 'c1_in_channels=16']),
    (DEEPLAB, {'model.backbone.out_indices': (2, 3, 5, 6)},
     ['decode_head.in_channels is 320', 'decode_head.in_channels=192']),
    (DEEPLAB, {'model.auxiliary_head.in_channels': 80},
     ['auxiliary_head.in_channels is 80', 'auxiliary_head.in_channels=96']),
    (LRASPP, {'model.backbone.out_indices': (1, 7)},
     ['decode_head.in_channels is [16, 24, 320]', 'gives 2 maps']),
    ('demo/autonl-s_1xb32_demo-cls', {'model.head.in_channels': 320},
     ['model.head.in_channels is 320', 'model.head.in_channels=1280']),
    ('demo/autonl-supernet_retinanet_1xb8_demo-det',
     {'model.model.neck.in_channels': [24, 40, 96]},
     ['model.neck.in_channels is [24, 40, 96]', '[24, 40, 80]']),
])
def test_what_does_not_fit_is_named(config, setting, words, scope):
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    check_channels(cfg.model, model)
    cfg.merge_from_dict(setting)
    model = MODELS.build(cfg.model)
    with pytest.raises(ValueError) as error:
        check_channels(cfg.model, model)
    for word in words:
        assert word in str(error.value)


def coco_runner(tmp_path, annotations, **dataset):
    """A runner with a detector's datasets and nothing else."""
    from mmdet.registry import DATASETS
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=1, file_name='1.jpg', width=64, height=64)],
        categories=[dict(id=1, name='digit_0')],
        annotations=annotations)))
    cfg = dict(type='CocoDataset', ann_file=str(path),
               data_prefix=dict(img=''), metainfo=dict(classes=['digit_0']),
               **dataset)

    class Runner:
        val_loop = None
        cfg_ = cfg

        @property
        def train_dataloader(self):
            return SimpleNamespace(dataset=DATASETS.build(self.cfg_))

    runner = Runner()
    runner.cfg = ConfigDict(train_dataloader=dict(dataset=cfg))
    return runner


BOX = dict(id=1, image_id=1, category_id=1, bbox=[8, 8, 32, 32], area=1024,
           iscrowd=0)


@pytest.mark.parametrize('dataset', [
    dict(filter_cfg=dict(filter_empty_gt=True)), dict(test_mode=True)
], ids=['filtered', 'unfiltered'])
def test_annotations_without_boxes(dataset, tmp_path, scope):
    init_default_scope('mmdet')
    check_datasets(coco_runner(tmp_path, [BOX], **dataset), train=True)
    with pytest.raises(ValueError, match=r'train_dataloader.*no box|'
                       r'train_dataloader.*empty') as error:
        check_datasets(coco_runner(tmp_path, [], **dataset), train=True)
    assert 'instances.json' in str(error.value)


def test_annotations_of_other_classes(tmp_path, scope):
    init_default_scope('mmdet')
    runner = coco_runner(tmp_path, [BOX])
    runner.cfg_['metainfo'] = dict(classes=['cat'])
    with pytest.raises(ValueError, match=r'metainfo\.classes'):
        check_datasets(runner, train=True)


def samples(scope):
    if scope == 'mmseg':
        from mmseg.structures import SegDataSample
        labels = torch.tensor([[[0, 255], [18, 25]]])
        return SegDataSample(gt_sem_seg=PixelData(data=labels))
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample
        return DetDataSample(gt_instances=InstanceData(
            bboxes=torch.zeros(2, 4), labels=torch.tensor([3, 25])))
    from mmpretrain.structures import DataSample
    return DataSample().set_gt_label(25)


@pytest.mark.parametrize('scope_name, config, last', [
    ('mmseg', FPN, 18), ('mmdet', SSDLITE, 79),
    ('mmpretrain', 'demo/autonl-s_1xb32_demo-cls', 9),
], ids=['mmseg', 'mmdet', 'mmpretrain'])
def test_labels_outside_of_the_classes(scope_name, config, last, scope):
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    init_default_scope(scope_name)
    model = MODELS.build(cfg.model)
    runner = SimpleNamespace(model=model)
    hook = LabelCheckHook()
    hook.before_run(runner)
    assert hook.num_classes == last + 1
    sample = samples(scope_name)
    sample.set_metainfo(dict(img_path='street/a.png'))
    batch = dict(inputs=[], data_samples=[sample])
    if last >= 25:
        hook.before_train_iter(runner, 0, batch)
        hook.num_classes = 20
    with pytest.raises(ValueError) as error:
        hook.before_train_iter(runner, 0, batch)
    for word in ('street/a.png', 'labels [25]', f'0 to {hook.num_classes - 1}'):
        assert word in str(error.value)
    if scope_name == 'mmseg':  # the label to ignore is none of them
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 25] = 255
        hook.before_train_iter(runner, 0, batch)
