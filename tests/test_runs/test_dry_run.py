# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Parts of a model that do not fit are found before training, and are named."""
import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from tiny_models import CONFIGS
from torch.utils.data import DataLoader

from autonl_mm.runs.dry_run import check_forward, try_batch

RETINANET = 'mmdet/retinanet_autonl-s_fpn_1x_coco'
SSDLITE = 'mmdet/ssdlite_autonl-s_8xb24-600e_coco'
FPN = 'mmseg/autonl-s_fpn_4xb2-80k_cityscapes-512x1024'
DEEPLAB = 'mmseg/autonl-s-d16_deeplabv3plus_4xb2-80k_cityscapes-512x1024'
LRASPP = 'mmseg/autonl-s-d8_lraspp_4xb4-160k_cityscapes-512x1024'


def item(scope, size=64):
    """An image with its annotation."""
    info = dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1., 1.))
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample
        sample = DetDataSample(metainfo=info, gt_instances=InstanceData(
            bboxes=torch.tensor([[8., 8., 40., 48.]]), labels=torch.tensor([1])))
    elif scope == 'mmseg':
        from mmseg.structures import SegDataSample
        sample = SegDataSample(metainfo=info, gt_sem_seg=PixelData(
            data=torch.ones(1, size, size, dtype=torch.long)))
    else:
        from mmpretrain.structures import DataSample
        sample = DataSample(metainfo=info).set_gt_label(1)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    return dict(inputs=image, data_samples=sample)


def batch(scope, size=64):
    return pseudo_collate([item(scope, size) for _ in range(2)])


def try_config(config, setting):
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    init_default_scope(cfg.default_scope)
    size = {SSDLITE: 320, LRASPP: 392}.get(config, 64)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (size, size)
    cfg.merge_from_dict(setting)
    try_batch(MODELS.build(cfg.model), batch(cfg.default_scope, size), True)


# not LR-ASPP, which takes long
@pytest.mark.parametrize('config', [
    RETINANET, SSDLITE, FPN, DEEPLAB, 'demo/autonl-s_1xb32_demo-cls',
    'demo/autonl-supernet_retinanet_1xb8_demo-det'])
def test_configs_fit(config, scope):
    try_config(config, {})


@pytest.mark.parametrize('config, setting, words', [
    (RETINANET, {'model.neck.in_channels': [24, 32, 96, 320]},
     ['model.neck.in_channels is [24, 32, 96, 320]', '[24, 40, 96, 320]',
      '(in neck.lateral_convs.0', 'to have 32 channels, but got 40']),
    # an SSD head: too many feature maps, of another width, of another stride
    (SSDLITE, {'model.backbone.out_indices': (5, 7, 8)},
     ['gives 3 feature maps of [96, 320, 1280]', 'out_indices (5, 7, 8)',
      'model.bbox_head cannot']),
    (SSDLITE, {'model.backbone.out_indices': (4, 8)},
     ['[80, 1280]', 'model.bbox_head.in_channels is [96, 1280']),
    (SSDLITE, {'model.backbone.output_stride': 16},
     ['anchor_generator.strides starts with [16, 32', '[16, 16']),
    (FPN, {'model.backbone.output_stride': 16},
     ['decode_head.feature_strides', '[4, 8, 16, 16]']),
    (FPN, {'model.backbone.in_channels': 1},
     ['(in backbone). Change model.backbone, or the data preprocessor']),
    (DEEPLAB, {'model.backbone.out_indices': (1, 3, 5, 7)},
     ['(in decode_head.c1_bottleneck', 'to have 24 channels, but got 16', '[16, ']),
    (DEEPLAB, {'model.backbone.out_indices': (2, 3, 5, 6)},
     ['decode_head.in_channels is 320', '192] channels']),
    (DEEPLAB, {'model.auxiliary_head.in_channels': 80},
     ['auxiliary_head.in_channels is 80', '96, 320] channels']),
    (LRASPP, {'model.backbone.out_indices': (1, 7)},
     ['decode_head.in_channels is [16, 24, 320]', 'gives 2 feature maps']),
    ('demo/autonl-s_1xb32_demo-cls', {'model.head.in_channels': 320},
     ['model.head.in_channels is 320', 'neck PoolDropout gives 1 feature maps of '
      '[1280]']),
    ('demo/autonl-supernet_retinanet_1xb8_demo-det',
     {'model.model.neck.in_channels': [24, 40, 96]},
     ['model.neck.in_channels is [24, 40, 96]', '[24, 40, 80]']),
])
def test_what_does_not_fit_is_named(config, setting, words, scope):
    with pytest.raises(ValueError) as error:
        try_config(config, setting)
    assert '\n' not in str(error.value)
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
        backbone=dict(CONFIGS['classifier']['model']['backbone'], out_indices=indices),
        neck=neck,
        head=dict(type='LinearClsHead', num_classes=2, in_channels=in_channels))


def atss(second=ATSS_NECKS[1], head=ATSS_HEAD):
    return tiny('retinanet', type='ATSS', neck=[ATSS_NECKS[0], second], bbox_head=head)


@pytest.mark.parametrize('make', [
    lambda: atss(),
    lambda: classifier(LINEAR, 8),
    lambda: classifier(LINEAR, 8, (2, 3, 4)),
    lambda: classifier(dict(type='GlobalAveragePooling'), 64),
    lambda: classifier(dict(type='autonl_mm.PoolDropout'), 64),
    lambda: classifier([dict(type='GlobalAveragePooling')], 64),
    lambda: classifier(dict(type='GeneralizedMeanPooling'), 64),
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
        'PoolDropout', 'pooling list', 'GeM', 'reversed',
        'head list'])
def test_what_fits_passes(make, scope):
    cfg = make()
    model = MODELS.build(cfg).eval()
    for train in (True, False):
        try_batch(model, batch(DefaultScope.get_current_instance().scope_name), train)
    if 'num_stages' not in cfg:
        with torch.no_grad():  # and it runs
            forward = getattr(model, '_forward', None) or model.extract_feat
            if cfg.type == 'ImageClassifier':
                logits = model(torch.zeros(1, 3, 64, 64), mode='tensor')
                assert logits.shape == (1, 2)
            else:
                assert forward(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize('make, words', [
    (lambda: classifier(dict(LINEAR, in_channels=24), 8),
     ['model.neck.in_channels', 'gives 1 feature maps of [64]']),
    (lambda: classifier(LINEAR, 64),
     ['model.head.in_channels is 64', 'neck LinearNeck gives 1 feature maps of [8]']),
    (lambda: classifier(dict(type='GlobalAveragePooling'), 24),
     ['model.head.in_channels is 24', 'gives 1 feature maps of [64]']),
    (lambda: atss(dict(ATSS_NECKS[1], in_channels=16)),
     ['model.neck.1 ', 'to have 16 channels, but got 32']),
    (lambda: atss(head=dict(ATSS_HEAD, in_channels=16, stacked_convs=1)),
     ['model.bbox_head.in_channels is 16', 'feature maps of [32, 32, 32]']),
    (lambda: atss(head=dict(ATSS_HEAD, anchor_generator=dict(
        ATSS_HEAD['anchor_generator'], strides=[8, 16, 32]))),
     ['anchor_generator.strides starts with [8, 16, 32]', '[4, 8, 16]']),
], ids=['LinearNeck', 'after LinearNeck', 'after pooling', 'second neck',
        'after two necks', 'strides after two necks'])
@pytest.mark.parametrize('train', [True, False])
def test_necks_that_do_not_fit(make, words, train, scope):
    cfg = make()
    model = MODELS.build(cfg)
    with pytest.raises(ValueError) as error:
        try_batch(model, batch(DefaultScope.get_current_instance().scope_name), train)
    for word in words:
        assert word in str(error.value)


class Items(torch.utils.data.Dataset):
    """Images whose transform counts them, as one that mixes images keeps them."""

    def __init__(self, label=1):
        self.pipeline, self.label = [], label

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.pipeline.append(torch.rand(()))
        sample = item('mmpretrain')
        sample['data_samples'].set_gt_label(self.label)
        return sample


def runner_of(cfg, dataset):
    loader = DataLoader(dataset, 2, sampler=DefaultSampler(dataset),
                        collate_fn=pseudo_collate)
    return SimpleNamespace(model=MODELS.build(cfg), train_dataloader=loader,
                           test_dataloader=loader)


@pytest.mark.parametrize('train', [True, False])
def test_the_run_does_not_change(train, scope):
    """And no layer sees that there are other ranks, so that none waits for them."""
    cfg, dataset = classifier(dict(type='GlobalAveragePooling'), 64), Items()
    runner = runner_of(cfg, dataset)
    before = copy.deepcopy(runner.model.state_dict())
    asked, state = [], torch.get_rng_state()
    runner.model.head.register_forward_pre_hook(
        lambda *args: asked.append(dist.is_initialized()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, 'is_initialized', lambda: True)
        check_forward(runner, train)
        assert dist.is_initialized()
    assert not dataset.pipeline and torch.equal(state, torch.get_rng_state())
    after = runner.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert runner.model.training and asked and not any(asked)


def test_labels_are_checked_before_a_kernel_meets_them(scope):
    cfg = classifier(dict(type='GlobalAveragePooling'), 64)
    check_forward(runner_of(cfg, Items(5)), False)
    with pytest.raises(ValueError, match=r'labels \[5\], .* classes 0 to 1'):
        check_forward(runner_of(cfg, Items(5)), True)


def test_models_and_batches_that_cannot_be_tried(scope):
    """They pass: whatever is wrong shows itself in the run."""
    cfg = classifier(dict(type='GlobalAveragePooling'), 64)
    runner = runner_of(cfg, Items())
    runner.model.forward = None  # TypeError, as of a state that is set later
    check_forward(runner, True)
    runner.train_dataloader.collate_fn = None  # no batch
    check_forward(runner, True)
    try_batch(torch.nn.Identity(), {}, True)
