# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Inference with all weights and feature maps in half precision."""
import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import AverageClsScoreTTA
from sklearn.datasets import load_digits

from autonl_mm.half import use_half
from autonl_mm.measure.synthetic import make_batch
from autonl_mm.models import AutoNL, LightNL
from autonl_mm.runs.hooks import classifying_heads
from autonl_mm.runs.launch import replace_sync_bn

HALVES = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
CONFIGS = dict(
    classifier='demo/autonl-s_1xb32_demo-cls',
    retinanet='demo/retinanet_autonl-s_1xb8_demo-det',
    two_stages='mmdet/mask-rcnn_autonl-s_fpn_1x_coco',
    segmentor='demo/semantic-fpn_autonl-s_1xb8_demo-seg')


@pytest.fixture(scope='module', params=['size', 'rms'])
def digits(request):
    """A classifier trained for seconds, and images that it was not trained on."""
    torch.manual_seed(0)
    scans = load_digits()
    x = F.interpolate(torch.tensor(scans.images, dtype=torch.float32)[:, None],
                      scale_factor=3) / 8 - 1
    x, y = x.expand(-1, 3, -1, -1), torch.tensor(scans.target)
    model = Pooled(
        AutoNL(['r1_k3_s11_e1_i16_o16',
                'r1_k3_s22_e3_i16_o24_nonlocal0.25-1',
                'r1_k5_s11_e3_i24_o32_se0.5_nonlocal0.25-2', 'head64'],
               out_indices=(-1, ), norm_cfg=dict(type='BN'),
               normalize=request.param),
        nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(6):
        for batch in torch.randperm(1297).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval(), x[1297:], y[1297:]


class Pooled(nn.Module):
    """Backbone, pooling, linear layer."""

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        return self.head(self.backbone(x)[-1].mean((2, 3)))


@pytest.mark.long
@HALVES
@torch.no_grad()
def test_top1_of_a_trained_network(dtype, digits):
    model, x, y = digits
    norms = [m.norm for m in model.modules() if isinstance(m, LightNL)]
    assert min(n.weight.abs().max() for n in norms) > 0.01  # they take part
    before = model(x).argmax(1)
    assert (before == y).float().mean() > 0.9
    half = copy.deepcopy(model).to(dtype)
    scores = half(x.to(dtype))
    assert scores.dtype == dtype
    assert (scores.argmax(1) == before).float().mean() >= 0.99


@HALVES
@torch.no_grad()
def test_cascade_of_segmentors_heads(dtype, tiny_arch, scope):
    """The last head gives the result, from those of the first."""
    init_default_scope('mmseg')
    head = dict(in_channels=24, in_index=1, channels=8, num_classes=3,
                norm_cfg=dict(type='BN'))
    model = MODELS.build(dict(
        type='CascadeEncoderDecoder', num_stages=2, train_cfg=dict(),
        test_cfg=dict(mode='whole'), backbone=dict(
            type='autonl_mm.AutoNL', arch=str(tiny_arch), out_indices=(2, 3)),
        decode_head=[dict(head, type='FCNHead', num_convs=1),
                     dict(head, type='OCRHead', ocr_channels=8)])).eval()
    assert set(classifying_heads(model)) == {'decode_head.0', 'decode_head.1'}
    sizes = [dict(img_shape=(64, 64), ori_shape=(64, 64))]
    images = torch.randn(1, 3, 64, 64)
    expected = model.encode_decode(images, sizes)
    use_half(model, dtype)
    logits = model.encode_decode(images, sizes)
    assert logits.dtype == torch.float32 and not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)


@HALVES
@torch.no_grad()
def test_lists_of_a_detectors_heads(dtype):
    """As in Cascade R-CNN; each part of a list is one of the named parts."""
    class Cascade(nn.Module):

        def __init__(self):
            super().__init__()
            self.backbone, self.roi_head = nn.Conv2d(3, 4, 1), nn.Module()
            self.roi_head.bbox_roi_extractor = nn.ModuleList([nn.AvgPool2d(2)])
            self.roi_head.bbox_head = nn.ModuleList([nn.Conv2d(4, 2, 1)])

        def forward(self, x):
            maps = self.backbone(x)
            pooled = self.roi_head.bbox_roi_extractor[0](maps)
            return maps, pooled, self.roi_head.bbox_head[0](pooled)

    model, seen = Cascade(), []
    use_half(model, dtype)
    model.roi_head.bbox_roi_extractor[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].dtype))
    found = [x.dtype for x in model(torch.randn(1, 3, 8, 8))]
    assert found == [dtype, dtype, torch.float32] and seen == [torch.float32]


@HALVES
@pytest.mark.parametrize('name', CONFIGS)
@torch.no_grad()
def test_whole_models(name, dtype, tiny_arch, scope):
    """Predictions of a network in half precision are float32, near the exact ones."""
    cfg = Config.fromfile(ROOT / f'configs/{CONFIGS[name]}.py')
    backbone = cfg.model.backbone
    backbone.arch = str(tiny_arch)
    if name == 'classifier':
        backbone.out_indices = (-1, )
        cfg.model.head.in_channels = 64
        cfg.model.data_preprocessor = cfg.data_preprocessor
    else:
        maps = min(3, len(cfg.model.neck.in_channels))
        backbone.out_indices = (1, 2, 3)[-maps:]
        cfg.model.neck.in_channels = [8, 16, 24][-maps:]
    if name == 'two_stages':  # half precision is slow on a CPU
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.roi_head.bbox_head.fc_out_channels = 64
        cfg.model.roi_head.mask_head.num_convs = 1
        cfg.model.neck.out_channels = 32
        for part in (cfg.model.rpn_head, cfg.model.roi_head.bbox_head,
                     cfg.model.roi_head.mask_head):
            part.in_channels = 32
        cfg.model.rpn_head.feat_channels = 32
        for part in ('bbox_roi_extractor', 'mask_roi_extractor'):
            cfg.model.roi_head[part].out_channels = 32
    init_default_scope(cfg.default_scope)
    replace_sync_bn(cfg.model)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    batch = make_batch(cfg, 2, (64, 64), 'test')
    want = model.test_step(copy.deepcopy(batch))
    use_half(AverageClsScoreTTA(model) if name == 'classifier' else model, dtype)
    assert model.data_preprocessor.mean.dtype == torch.float32
    assert model.backbone.layers[0].conv.weight.dtype == dtype
    got = model.test_step(batch)
    for a, b in zip(got, want):
        if name == 'classifier':
            assert a.pred_score.dtype == torch.float32
            torch.testing.assert_close(
                a.pred_score, b.pred_score, rtol=0.02, atol=0.002)
        elif name == 'segmentor':
            assert a.seg_logits.data.dtype == torch.float32
            torch.testing.assert_close(
                a.seg_logits.data, b.seg_logits.data, rtol=0.05, atol=0.05)
        else:
            found, wanted = (s.pred_instances for s in (a, b))
            assert found.bboxes.dtype == torch.float32
            assert found.scores.dtype == torch.float32
            assert abs(len(found) - len(wanted)) <= 0.2 * len(wanted)
