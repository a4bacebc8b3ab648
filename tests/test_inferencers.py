# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The libraries' own ways of using a config and a checkpoint."""
import math

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import save_checkpoint

CLASSIFIER = 'mmpretrain/autonl-s_2xb128_cifar10.py'
DETECTOR = 'mmdet/ssdlite_autonl-s_8xb24-600e_coco.py'
SEGMENTOR = 'mmseg/autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image.jpg'
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3))
    cv2.imwrite(str(path), noise.astype(np.uint8))
    return path


@pytest.fixture
def trained(tmp_path, scope):
    """Makes config file and checkpoint of a config, its network tiny."""

    def make(name):
        cfg = Config.fromfile(ROOT / 'configs' / name)
        init_default_scope(cfg.default_scope)
        if cfg.default_scope == 'mmpretrain':
            cfg.model.data_preprocessor = cfg.data_preprocessor
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        path = tmp_path / 'config.py'
        cfg.dump(path)
        with DATASETS.switch_scope_and_registry(None) as registry:
            dataset = registry.get(cfg.test_dataloader.dataset.type)
        # as CheckpointHook saves it
        meta = dict(dataset_meta=dataset.METAINFO
                    or dict(classes=[str(i) for i in range(10)]))
        weights = tmp_path / 'epoch_1.pth'
        save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), str(weights))
        return path, weights, model

    return make


def test_image_classification_inferencer(trained, image, capsys):
    from mmpretrain import ImageClassificationInferencer
    config, weights, model = trained(CLASSIFIER)
    inferencer = ImageClassificationInferencer(
        str(config), pretrained=str(weights), device='cpu')
    # the weights are those of the file
    for name, value in inferencer.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    result, = inferencer(str(image))
    assert 0 <= result['pred_label'] < 10
    assert result['pred_scores'].sum() == pytest.approx(1, abs=1e-4)


def test_get_model(trained):
    from mmpretrain import get_model
    config, weights, model = trained(CLASSIFIER)
    built = get_model(str(config), pretrained=str(weights), device='cpu')
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(
            built.eval().extract_feat(x)[0], model.eval().extract_feat(x)[0])


def test_det_inferencer(trained, image, tmp_path):
    from mmdet.apis import DetInferencer
    config, weights, _ = trained(DETECTOR)
    inferencer = DetInferencer(str(config), str(weights), device='cpu')
    result = inferencer(str(image), out_dir=str(tmp_path / 'out'), pred_score_thr=0.)
    prediction, = result['predictions']
    assert len(prediction['bboxes']) == len(prediction['scores'])
    assert (tmp_path / 'out/vis/image.jpg').exists()


def test_seg_inferencer(trained, image, tmp_path):
    from mmseg.apis import MMSegInferencer
    config, weights, _ = trained(SEGMENTOR)
    inferencer = MMSegInferencer(str(config), str(weights), device='cpu')
    result = inferencer(str(image), out_dir=str(tmp_path / 'out'))
    assert result['predictions'].shape == (64, 96)
    assert list((tmp_path / 'out').rglob('image*'))


@pytest.mark.parametrize('name', [
    CLASSIFIER, 'mmdet/retinanet_autonl-s_fpn_1x_coco.py', SEGMENTOR
], ids=['classifier', 'detector', 'segmentor'])
def test_test_time_augmentation(name, image, scope):
    """The config's own tta_model and tta_pipeline, on one small image."""
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate
    cfg = Config.fromfile(ROOT / 'configs' / name)
    init_default_scope(cfg.default_scope)
    if cfg.default_scope == 'mmpretrain':
        cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(dict(cfg.tta_model, module=cfg.model)).eval()
    pipeline = cfg.tta_pipeline
    for group in pipeline[1].transforms:  # half an hour of a CPU otherwise
        for transform in group:
            if 'scale' in transform:
                transform.scale = (96, 64)
            if 'scale_factor' in transform:
                transform.scale_factor = 1.
    pipeline[1].transforms = [
        [t for t in group if t.type != 'LoadAnnotations']
        for group in pipeline[1].transforms
    ]
    pipeline[1].transforms = [g for g in pipeline[1].transforms if g]
    data = Compose(pipeline)(dict(
        img_path=str(image), img_id=0, reduce_zero_label=False))
    views = len(data['inputs'])
    assert views == math.prod(map(len, pipeline[1].transforms)) >= 2
    with torch.no_grad():
        result, = model.test_step(pseudo_collate([data]))
    if cfg.default_scope == 'mmdet':
        assert result.pred_instances.bboxes.shape[1] == 4
    elif cfg.default_scope == 'mmseg':
        assert result.pred_sem_seg.shape == (64, 96)
    else:
        assert result.pred_score.sum() == pytest.approx(1, abs=1e-4)
