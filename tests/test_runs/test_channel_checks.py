# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What does not fit together is found before training, and is named."""
import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from tiny_models import CONFIGS
from torch import nn

from autonl_mm.config_checks import check_archs
from autonl_mm.runs.channel_checks import check_channels
from autonl_mm.runs.hooks import LabelCheckHook

RETINANET = 'mmdet/retinanet_autonl-s_fpn_1x_coco'
SSDLITE = 'mmdet/ssdlite_autonl-s_8xb24-600e_coco'
FPN = 'mmseg/autonl-s_fpn_4xb2-80k_cityscapes-512x1024'
DEEPLAB = 'mmseg/autonl-s-d16_deeplabv3plus_4xb2-80k_cityscapes-512x1024'
LRASPP = 'mmseg/autonl-s-d8_lraspp_4xb4-160k_cityscapes-512x1024'


@pytest.mark.parametrize('content, words', [
    (b'r1_k3_s11_e1_i8_o8\nr1_k4', r'line 2 .*expected an odd kernel'),
    (b'', 'no block found'), (b'\xff\xfe\0', 'is not a text file'),
    (None, 'there is no such file')], ids=['notation', 'empty', 'binary', 'missing'])
@pytest.mark.parametrize('place', ['backbone', 'model.backbone', 'backbone.parts.1'])
def test_a_file_that_is_no_network_is_named(place, content, words, tmp_path):
    path = tmp_path / 'arch.txt'
    if content is not None:
        path.write_bytes(content)
    cfg = Config(dict(model=dict(
        backbone=dict(parts=[{}, {}], type='x', arch='no'), model={})))
    check_archs(cfg.model)
    cfg.merge_from_dict({f'model.{place}': dict(
        type='autonl_mm.AutoNL', arch=str(path))}, allow_list_keys=True)
    start = rf'^model\.{place}\.arch: '
    with pytest.raises(ValueError, match=rf'{start}.*arch\.txt.*{words}'):
        check_archs(cfg.model)
    cfg.merge_from_dict({f'model.{place}.arch': str(tmp_path)})
    with pytest.raises(ValueError, match=rf'{start}.* is a folder'):
        check_archs(cfg.model)


@pytest.mark.parametrize('config, setting, words', [
    (RETINANET, {'model.neck.in_channels': [24, 32, 96, 320]},
     ['model.neck.in_channels is [24, 32, 96, 320]', '[24, 40, 96, 320]']),
    # an SSD head: too many feature maps, of another width, of another stride
    (SSDLITE, {'model.backbone.out_indices': (5, 7, 8)},
     ['gives 3 feature maps of [96, 320, 1280]', 'out_indices (5, 7, 8)',
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
     ['decode_head.in_channels is [16, 24, 320]', 'gives 2 feature maps']),
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


ATSS_NECKS = [
    dict(type='FPN', in_channels=[16, 24], out_channels=32, num_outs=3),
    dict(type='DyHead', in_channels=32, out_channels=32, num_blocks=1)
]
ATSS_HEAD = dict(
    type='ATSSHead', num_classes=4, in_channels=32, feat_channels=32,
    stacked_convs=0,
    anchor_generator=dict(
        type='AnchorGenerator', ratios=[1.0], octave_base_scale=8,
        scales_per_octave=1, strides=[4, 8, 16]),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder'))
LINEAR = dict(type='LinearNeck', in_channels=64, out_channels=8, gap_dim=2)


def tiny(name, **changes):
    """Config of a tiny task model with other settings of ``model``."""
    cfg = Config(copy.deepcopy(CONFIGS[name]))
    for key, value in changes.items():
        cfg.model[key] = copy.deepcopy(value)
    init_default_scope(cfg.default_scope)
    return cfg.model


def classifier(neck, in_channels, indices=(4, )):
    return tiny(
        'classifier',
        backbone=dict(CONFIGS['classifier']['model']['backbone'],
                      out_indices=indices),
        neck=neck,
        head=dict(type='LinearClsHead', num_classes=2, in_channels=in_channels))


def atss(second=ATSS_NECKS[1], head=ATSS_HEAD):
    return tiny('retinanet', type='ATSS', neck=[ATSS_NECKS[0], second],
                bbox_head=head)


@pytest.mark.parametrize('make', [
    lambda: atss(),
    lambda: classifier(LINEAR, 8),
    lambda: classifier(LINEAR, 8, (2, 3, 4)),
    lambda: classifier(dict(type='GlobalAveragePooling'), 64),
    lambda: classifier(dict(type='autonl_mm.PoolDropout'), 64),
    lambda: classifier([dict(type='GlobalAveragePooling')], 64),
    lambda: classifier(dict(type='GeneralizedMeanPooling'), 64),
    # its width is not known: the head is not checked
    lambda: classifier(
        dict(type='HRFuseScales', in_channels=[8, 16, 24, 64],
             out_channels=32), 32, (1, 2, 3, 4)),
    # in_channels from the last feature map to the first
    lambda: tiny(
        'retinanet', type='YOLOV3', backbone=dict(
            CONFIGS['retinanet']['model']['backbone'], out_indices=(2, 3)),
        neck=dict(type='YOLOV3Neck', num_scales=2, in_channels=[24, 16],
                  out_channels=[8, 4]),
        bbox_head=dict(
            type='YOLOV3Head', num_classes=4, in_channels=[8, 4],
            out_channels=[8, 4],
            anchor_generator=dict(
                type='YOLOAnchorGenerator', strides=[8, 4],
                base_sizes=[[(8, 8)] * 3, [(4, 4)] * 3]),
            bbox_coder=dict(type='YOLOBBoxCoder'),
            featmap_strides=[8, 4])),
    # several decode heads
    lambda: tiny(
        'segmentor', type='CascadeEncoderDecoder', num_stages=2, decode_head=[
            dict(CONFIGS['segmentor']['model']['decode_head']),
            dict(type='PointHead', in_channels=[16], in_index=[0], channels=8,
                 num_fcs=1, coarse_pred_each_layer=False, dropout_ratio=-1,
                 num_classes=3, align_corners=False)]),
], ids=['neck list', 'LinearNeck', 'LinearNeck of the last', 'pooling',
        'PoolDropout', 'pooling list', 'GeM', 'unknown width', 'reversed',
        'head list'])
def test_what_fits_passes(make, scope):
    cfg = make()
    model = MODELS.build(cfg).eval()
    check_channels(cfg, model)
    if 'num_stages' not in cfg and 'HRFuseScales' not in str(cfg.neck):
        with torch.no_grad():  # and it runs
            forward = getattr(model, '_forward', None) or model.extract_feat
            if cfg.type == 'ImageClassifier':
                logits = model(torch.zeros(1, 3, 64, 64), mode='tensor')
                assert logits.shape == (1, 2)
            else:
                assert forward(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize('make, words', [
    (lambda: classifier(dict(LINEAR, in_channels=24), 8),
     ['model.neck.in_channels is 24', 'model.neck.in_channels=64']),
    (lambda: classifier(LINEAR, 64),
     ['model.head.in_channels is 64', 'the neck in front of it gives [8]',
      'model.head.in_channels=8', 'out_channels of the neck']),
    (lambda: classifier(dict(type='GlobalAveragePooling'), 24),
     ['model.head.in_channels is 24', 'model.head.in_channels=64']),
    (lambda: atss(dict(ATSS_NECKS[1], in_channels=16)),
     ['model.neck.1.in_channels is 16', 'gives [32, 32, 32]',
      'model.neck.1.in_channels=32']),
    (lambda: atss(head=dict(ATSS_HEAD, in_channels=16)),
     ['model.bbox_head.in_channels is 16', 'model.bbox_head.in_channels=32']),
    (lambda: atss(head=dict(ATSS_HEAD, anchor_generator=dict(
        ATSS_HEAD['anchor_generator'], strides=[8, 16, 32]))),
     ['anchor_generator.strides starts with [8, 16]', '[4, 8]']),
], ids=['LinearNeck', 'behind LinearNeck', 'behind pooling', 'second neck',
        'behind two necks', 'strides behind two necks'])
def test_necks_that_do_not_fit(make, words, scope):
    cfg = make()
    model = MODELS.build(cfg)
    with pytest.raises(ValueError) as error:
        check_channels(cfg, model)
    for word in words:
        assert word in str(error.value)


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
    runner = SimpleNamespace(
        model=model, train_dataloader=SimpleNamespace(dataset=None))
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
    if scope_name == 'mmseg':  # the label to ignore is allowed
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 25] = 255
        hook.before_train_iter(runner, 0, batch)


@pytest.mark.parametrize('num_classes', [1, 2])
def test_labels_of_one_output_channel(num_classes):
    """They are 0 and 1, however many classes the head says."""
    pytest.importorskip('mmseg.models')
    from mmseg.models import FCNHead
    model = nn.Module()
    model.decode_head = FCNHead(
        in_channels=8, channels=8, num_classes=num_classes, out_channels=1)
    runner = SimpleNamespace(
        model=model, train_dataloader=SimpleNamespace(dataset=None))
    hook = LabelCheckHook()
    hook.before_run(runner)
    sample = samples('mmseg')
    labels = sample.gt_sem_seg.data
    labels.copy_(torch.arange(labels.numel()).view_as(labels) % 2)
    labels.view(-1)[0] = 255
    hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    labels.view(-1)[1] = 2
    with pytest.raises(ValueError, match=r'labels \[2\], .* classes 0 to 1'):
        hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
