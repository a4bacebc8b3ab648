# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A classifier, a segmentor and two detectors with a tiny backbone."""
import copy

import torch
from conftest import TINY_ARCH
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import autonl_mm.models.dense_heads.ssdlite_head  # noqa: F401
from autonl_mm.models import LightNL

NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
# Feature maps of 16 and 24 channels at strides 4 and 8
BACKBONE = dict(type='autonl_mm.AutoNL', arch=TINY_ARCH.splitlines(),
                out_indices=(2, 3))
NMS = dict(nms_pre=50, score_thr=0.5, max_per_img=200,
           nms=dict(type='nms', iou_threshold=0.45))
CONFIGS = dict(
    classifier=dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            data_preprocessor=dict(to_rgb=True, **NORM),
            backbone=dict(BACKBONE, out_indices=(4, )),
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=64))),
    segmentor=dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='SegDataPreProcessor', bgr_to_rgb=True,
                test_cfg=dict(size_divisor=8), **NORM),
            backbone=BACKBONE,
            decode_head=dict(
                type='FPNHead', in_channels=[16, 24], in_index=[0, 1],
                feature_strides=[4, 8], channels=8, num_classes=3,
                norm_cfg=dict(type='BN'), align_corners=False),
            test_cfg=dict(mode='whole'))),
    retinanet=dict(
        default_scope='mmdet',
        model=dict(
            type='RetinaNet',
            data_preprocessor=dict(
                type='DetDataPreprocessor', bgr_to_rgb=True,
                pad_size_divisor=32, **NORM),
            backbone=BACKBONE,
            neck=dict(type='FPN', in_channels=[16, 24], out_channels=8, num_outs=3),
            bbox_head=dict(
                type='RetinaHead', num_classes=4, in_channels=8,
                feat_channels=8, stacked_convs=1,
                anchor_generator=dict(
                    type='AnchorGenerator', octave_base_scale=4,
                    scales_per_octave=1, ratios=[0.5, 1.0],
                    strides=[4, 8, 16]),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
            test_cfg=NMS)),
    ssdlite=dict(
        default_scope='mmdet',
        model=dict(
            type='SingleStageDetector',
            data_preprocessor=dict(type='DetDataPreprocessor', bgr_to_rgb=True, **NORM),
            backbone=BACKBONE,
            neck=dict(
                type='SSDNeck', in_channels=(16, 24), out_channels=(16, 24, 32),
                level_strides=(2, ), level_paddings=(1, ), l2_norm_scale=None,
                use_depthwise=True, norm_cfg=dict(type='BN'),
                act_cfg=dict(type='ReLU6')),
            bbox_head=dict(
                type='autonl_mm.SSDLiteHead', in_channels=(16, 24, 32),
                num_classes=4, use_depthwise=True, norm_cfg=dict(type='BN'),
                act_cfg=dict(type='ReLU6'),
                anchor_generator=dict(
                    type='SSDAnchorGenerator', scale_major=False,
                    strides=[4, 8, 16], ratios=[[2, 3]] * 3,
                    min_sizes=[8, 16, 32], max_sizes=[16, 32, 48]),
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_stds=[0.1, 0.1, 0.2, 0.2])),
            test_cfg=dict(NMS, min_bbox_size=0))))


def noise(count, height, width):
    """Images ``(N, 3, H, W)`` of bright and dark squares."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(count, 3, 8, 8, generator=generator) * 255
    return nn.functional.interpolate(squares, (height, width)).round()


def build(cfg):
    """A config's model with fitting BN statistics and scores that differ."""
    cfg = Config(copy.deepcopy(dict(cfg)))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
        if isinstance(module, LightNL):
            nn.init.constant_(module.norm.weight, 0.3)
        if isinstance(module, nn.Conv2d) and 'head' in name:
            nn.init.normal_(module.weight, std=0.3 * module.weight[0].numel()**-0.5)
    inputs = (noise(4, 96, 96) - 120) / 58
    with torch.no_grad():
        model.train()
        if hasattr(model, '_forward'):
            model._forward(inputs)
        else:
            model(inputs, mode='tensor')
    return model.eval()
