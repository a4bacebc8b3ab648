# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""tools/test.py --tta with data without labels and with exported models."""
import copy

import cv2
import mmengine
import pytest
import torch
from conftest import call_main, load_tool
from mmengine.config import Config
from tiny_models import CONFIGS, build, noise

from autonl_mm.export import export
from autonl_mm.export.engines import DYNAMIC, ENGINES, Settings
from autonl_mm.export.images import config_images

tool = load_tool('tools/test.py')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
TTA = dict(
    tta_model=dict(type='SegTTAModel'),
    tta_pipeline=[
        PIPELINE[0],
        dict(type='TestTimeAug', transforms=[
            [dict(type='Resize', scale_factor=s) for s in (1.0, 1.5)],
            [dict(type='RandomFlip', prob=p, direction='horizontal')
             for p in (0., 1.)],
            [PIPELINE[1]], [PIPELINE[2]]])])


@pytest.fixture
def segmentor(tmp_path, scope):
    """Config, checkpoint and exported model, and two images without label maps."""
    for i, image in enumerate(noise(2, 64, 96)):
        cv2.imwrite(str(tmp_path / f'{i}.png'), image.permute(1, 2, 0).numpy())
    cfg = Config(copy.deepcopy(dict(CONFIGS['segmentor'], **TTA)))
    model = build(cfg)
    cfg.update(
        load_from='missing.pth', resume=True,  # of the training
        test_cfg=dict(), test_evaluator=dict(type='IoUMetric'),
        test_dataloader=dict(
            batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='BaseSegDataset', data_root=str(tmp_path), img_suffix='.png',
                data_prefix=dict(img_path=''), pipeline=PIPELINE,
                metainfo=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0]] * 3))))
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'net.pth')
    export.write_file(ENGINES['onnxruntime'], export.make_graph(model, DYNAMIC),
                      Settings((1, 3, 64, 64), DYNAMIC), tmp_path / 'net.onnx')
    return cfg, tmp_path


def test_of_images_without_labels(segmentor, monkeypatch):
    """An exported segmentor predicts as the checkpoint does. What the training starts
    from is not looked for."""
    _, folder = segmentor
    maps = []
    for name, *options in (
            ('net.pth', '--tta'), ('net.onnx', '--tta'), ('net.pth', )):
        call_main(monkeypatch, tool, folder / 'config.py', folder / name, '--work-dir',
                  folder / 'work', '--out', folder / 'out.pkl', *options)
        maps.append(torch.stack([
            sample['pred_sem_seg']['data'].view(64, 96)
            for sample in mmengine.load(folder / 'out.pkl')]))
    augmented, exported, plain = maps
    assert len(augmented.unique()) > 1 and not torch.equal(augmented, plain)
    assert (augmented == exported).float().mean() > 0.999


def test_images_for_the_check_of_an_export(segmentor):
    cfg, _ = segmentor
    images = config_images(cfg, 'test_dataloader', 5)
    assert [image.shape for image in images] == [(3, 64, 96)] * 2
