# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What makes or breaks transfer, in every detection and segmentation config."""
import math
import re

import pytest
import torch
from conftest import ROOT, without_downloads
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm

from autonl_mm import AUTONL_L, AUTONL_S
from autonl_mm.converters.donors import LITE
from autonl_mm.runs.launch import replace_sync_bn

# test_configs.py builds the supernets
CONFIGS = sorted(p for folder in ('mmdet', 'mmseg')
                 for p in ROOT.glob(f'configs/{folder}/*.py')
                 if 'supernet' not in p.name)
# those of the steps have other backbones, which test_compare_steps.py builds
AUTONL = [p for p in CONFIGS if 'autonl' in p.name and 'steps' not in p.name]
# remapped and fine-tuned ones differ in weights, normalisation and activation only
S = [p for p in AUTONL if 'autonl-s' in p.name
     and '_remapped_' not in p.name and '_finetuned_' not in p.name]
# Parameters in the tables of the pages; MACs come by the same rows.
MILLIONS = {ROOT / 'configs' / folder / name: millions for folder in ('mmdet', 'mmseg')
            for name, millions in re.findall(
                r'\]\(([\w.-]+\.py)\) \| ([\d.]+) M \|',
                (ROOT / f'configs/{folder}/README.md').read_text())}
PRETRAINING = Config.fromfile(
    ROOT / 'configs/_base_/datasets/imagenet_bs128.py').data_preprocessor


def by_name(path):
    return path.stem


def load(path, **options):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    init_default_scope(cfg.default_scope)
    without_downloads(cfg)
    return cfg


def test_each_method_has_its_three_backbones():
    names = {p.name for p in CONFIGS if 'holdout' not in p.name}
    own = ('coco128', '2400i', '600i', '_remapped_', '_finetuned_')
    for name in names:
        for kind in ('autonl-l', 'mobilenetv2'):
            if 'autonl-s' in name and not any(word in name for word in own):
                assert name.replace('autonl-s', kind) in names
    assert len([p for p in S if p.parent.name == 'mmdet']) == 5 + 1
    assert len([p for p in S if p.parent.name == 'mmseg']) == 6 + 2
    for name in names:
        assert name.replace('_remapped', '') in names
    assert len([name for name in names if '_remapped_' in name]) == 4 + 4
    assert len(MILLIONS) >= 30


@pytest.mark.parametrize('path', CONFIGS, ids=by_name)
def test_model_builds_and_fits(path, scope):
    """The parts fit each other, and normalisation is that of pretraining.

    Remapped weights are of EfficientNet-Lite0, whose images were normalised otherwise.
    """
    cfg = load(path)
    model = MODELS.build(cfg.model)
    if path in MILLIONS:
        params = sum(p.numel() for p in model.parameters())
        assert f'{params / 1e6:.2f}' == MILLIONS[path]

    # An image of one colour, in BGR as OpenCV reads it.
    image = torch.tensor([10, 100, 200], dtype=torch.uint8)
    data = model.data_preprocessor(dict(
        inputs=[image[:, None, None].expand(3, 64, 64)],
        data_samples=[sample(cfg.default_scope, 64, 0)]))
    backbone = cfg.model.backbone
    if 'forms' in path.name:  # inside of the backbone with plug-ins
        backbone = backbone.backbone
    weights = (backbone.get('init_cfg') or {}).get('checkpoint', '')
    assert ('lite0' in weights) == bool(
        '_remapped_' in path.name or 'lite0' in path.name)
    # Fine-tuned networks had such weights at the start of their first training.
    mean, std = ((LITE.mean, LITE.std) if weights or 'finetuned' in path.name else
                 (PRETRAINING['mean'], PRETRAINING['std']))
    expected = [(x - m) / s for x, m, s in zip((200, 100, 10), mean, std)]
    assert data['inputs'][0, :, 5, 5].tolist() == pytest.approx(expected)

    if path not in AUTONL:
        return
    assert model.backbone.arch() == (
        AUTONL_S if 'autonl-s' in path.name else AUTONL_L)
    norms = [m for m in model.backbone.modules() if isinstance(m, _BatchNorm)]
    assert {m.eps for m in norms} == {1e-3}
    # SyncBN wherever a GPU sees but a few images at a time
    sync = isinstance(norms[0], torch.nn.SyncBatchNorm)
    assert sync == (cfg.train_dataloader.batch_size <= 4 or 'rtmdet' in path.name)
    assert replace_sync_bn(cfg.model) == 0 or sync
    assert not any(p.dtype != torch.float32 for p in model.parameters())


@pytest.mark.parametrize('path', [
    next(p for p in S if p.parent.name == folder) for folder in ('mmdet', 'mmseg')],
    ids=by_name)
def test_arch_from_file(path, scope, tmp_path):
    arch = tmp_path / 'arch.txt'
    arch.write_text(AUTONL_S.to_text().replace('_k5', '_k7'))
    cfg = load(path, **{'model.backbone.arch': str(arch)})
    backbone = MODELS.build(cfg.model.backbone)
    assert {b.kernel_size for b in backbone.arch().blocks} == {3, 7}


def sample(scope, size, label, with_mask=False):
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        instances = InstanceData(
            bboxes=torch.tensor([[8., 8., 40., 48.]]),
            labels=torch.tensor([label]))
        if with_mask:
            masks = torch.zeros(1, size, size)
            masks[:, 8:48, 8:40] = 1
            instances.masks = BitmapMasks(masks.numpy(), size, size)
        shape = (size, size)
        return DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape,
                          batch_input_shape=shape, scale_factor=(1., 1.)),
            gt_instances=instances)
    from mmseg.structures import SegDataSample
    return SegDataSample(
        metainfo=dict(img_shape=(size, size), ori_shape=(size, size)),
        gt_sem_seg=PixelData(data=torch.full((1, size, size), label)))


# Other data for a model that another config trains a step of
OTHER_DATA = ('coco128', 'camvid', '2400i')


# At output stride 8 the window of LR-ASPP's head needs large images.
@pytest.mark.parametrize('path', [
    pytest.param(path, marks=pytest.mark.slow) if 'lraspp' in path.name else path
    for path in S if not any(word in path.name for word in OTHER_DATA)], ids=by_name)
def test_trains_a_step_and_predicts(path, scope):
    cfg = load(path)
    size = 392 if 'lraspp' in path.name else 64
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (size, size)
    if 'rpn_head' in cfg.model:  # of 1,000 proposals
        cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        cfg.model.test_cfg.rpn.max_per_img = 20
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    batch = dict(
        inputs=[
            torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
            for _ in range(2)
        ],
        data_samples=[
            sample(cfg.default_scope, size, i, 'mask-rcnn' in path.name)
            for i in range(2)
        ])
    before = model.backbone.layers[0].conv.weight.clone()
    losses = model.train_step(batch, build_optim_wrapper(model, cfg.optim_wrapper))
    assert math.isfinite(losses['loss'].item())
    assert not torch.equal(before, model.backbone.layers[0].conv.weight)

    model.eval()
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.test_cfg = None
    with torch.no_grad():
        result = model.test_step(batch)[0]
    if cfg.default_scope == 'mmdet':
        assert result.pred_instances.bboxes.shape[1] == 4
    else:
        assert result.pred_sem_seg.shape == (size, size)


def test_frozen_statistics_and_stages(scope):
    """For small batches on one GPU, from pretrained weights."""
    cfg = load(ROOT / 'configs/mmdet/retinanet_autonl-s_fpn_1x_coco.py', **{
        'model.backbone.norm_cfg.type': 'BN',
        'model.backbone.norm_eval': True,
        'model.backbone.frozen_stages': 2})
    model = MODELS.build(cfg.model).train()
    backbone = model.backbone
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    before = [m.running_mean.clone() for m in norms]
    losses = model.loss(torch.rand(1, 3, 64, 64), [sample('mmdet', 64, 0)])
    sum(sum(v) if isinstance(v, list) else v for v in losses.values()).backward()
    for norm, mean in zip(norms, before):
        assert not norm.training
        assert torch.equal(norm.running_mean, mean)
    for i, layer in enumerate(backbone.layers):
        for name, param in layer.named_parameters():
            frozen = i <= 2
            assert param.requires_grad != frozen
            assert (param.grad is None) == frozen, name


def test_learning_rate_multipliers(scope):
    """RTMDet's config has them: no decay of norms and biases."""
    cfg = load(ROOT / 'configs/mmdet/rtmdet-tiny_autonl-s_8xb32-300e_coco.py')
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    decay = {id(p): g['weight_decay'] for g in groups for p in g['params']}
    backbone = model.backbone
    assert decay[id(backbone.layers[0].conv.weight)] == 0.05
    assert decay[id(backbone.layers[0].bn.weight)] == 0
    assert decay[id(backbone.layers[2][0].light_nl.norm.weight)] == 0
    assert decay[id(backbone.layers[4][0].se.reduce.bias)] == 0


@pytest.mark.parametrize('stride', [16, 8])
def test_output_stride_keeps_pretrained_weights_valid(stride, scope):
    """All tensors load, and what comes before the exchange is the same.

    After it, every stride-th position of the dilated network is what the
    network that strides has there, but at the borders, which padding reaches,
    for blocks that look at nothing else: LightNL and squeeze-excite see all
    of the map.
    """
    from autonl_mm import ArchSpec
    from autonl_mm.models import AutoNL
    arch = ArchSpec.from_text(AUTONL_S.to_text().replace('_nonlocal0.25-1', '')
                              .replace('_nonlocal0.25-2', '')
                              .replace('_se0.25', '').replace('_se0.5', ''))
    torch.manual_seed(0)
    plain = AutoNL(arch, out_indices=(3, 7)).eval()
    dilated = AutoNL(arch, out_indices=(3, 7), output_stride=stride).eval()
    assert plain.state_dict().keys() == dilated.state_dict().keys()
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        early, deep = plain(x)
        early_dilated, deep_dilated = dilated(x)
    assert torch.equal(early, early_dilated)
    step = 32 // stride
    same = deep_dilated[:, :, ::step, ::step]
    assert same.shape == deep.shape
    # the centre, out of reach of the border's padding
    centre = slice(7, 9)
    torch.testing.assert_close(same[:, :, centre, centre],
                               deep[:, :, centre, centre],
                               rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if 'mnasnet' in p.name], ids=by_name)
def test_light_nl_comes_after_the_stages_of_timms_mnasnet(path, scope):
    backbone = MODELS.build(load(path).model.backbone)
    layers = {name: placed.light_nl for name, placed in backbone.plugins.items()}
    assert list(layers) == [f'timm_model-blocks-{i}' for i in range(1, 7)]
    assert [(nl.norm.num_features, nl.stride) for nl in layers.values()] == [
        (24, 2), (40, 2), (80, 1), (96, 1), (192, 1), (320, 1)]


def test_light_nl_in_a_pretrained_resnet_starts_as_identity(scope, tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/mmdet/retinanet_r50-lightnl_fpn_1x_coco.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    plain = cfg.model.backbone.copy()
    plain.update(plugins=None, init_cfg=None)
    plain = MODELS.build(plain)
    plain.eval()
    path = tmp_path / 'resnet50.pth'
    torch.save(plain.state_dict(), path)
    cfg.model.backbone.init_cfg.checkpoint = str(path)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    backbone.eval()
    names = [n for n, m in backbone.named_modules() if n.endswith('light_nl')]
    assert len(names) == 4 + 6
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(plain(x), backbone(x)):
            assert torch.equal(a, b)
