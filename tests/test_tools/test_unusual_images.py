# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Images of one, four and twelve channels, one class, a thousand classes with long
names, through the tools that count, probe, train, export, quantise and print."""
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_ARCH, call_main, load_tool, run_tool
from mmengine.config import Config

from autonl_mm import ArchSpec, count_macs

# Loads images as arrays, of any number of channels
MODULE = """\
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadArray(BaseTransform):
    def transform(self, results):
        image = np.load(results['img_path'])
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that makes a dataset and a config of a classifier."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'load_array.py').write_text(MODULE)

    def make(channels, classes, loading=None):
        rng = np.random.default_rng(0)
        for part in ('train', 'val'):
            for name in classes:
                folder = tmp_path / 'data' / part / name
                folder.mkdir(parents=True)
                for i in range(max(1, 8 // len(classes))):
                    image = rng.integers(0, 256, (64, 48 + 16 * (i % 2), channels),
                                         dtype=np.uint8)
                    if loading:
                        cv2.imwrite(str(folder / f'{i}.png'), image)
                    else:
                        np.save(folder / f'{i}.npy', image)
        cfg = Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py')
        cfg.model.backbone.update(arch=TINY_ARCH.splitlines(), out_indices=(-1, ),
                                  in_channels=channels)
        cfg.model.head.update(in_channels=64, num_classes=len(classes), topk=1)
        cfg.data_preprocessor = dict(
            num_classes=len(classes), mean=[127.] * channels, std=[60.] * channels)
        for name in ('train', 'val', 'test'):
            loader = cfg[f'{name}_dataloader']
            loader.update(batch_size=max(4, len(classes) // 8), num_workers=0,
                          persistent_workers=False)
            part = 'train' if name == 'train' else 'val'
            loader.dataset = dict(
                type='CustomDataset', data_root=str(tmp_path / 'data'),
                data_prefix=part, extensions=('.npy', '.png'), pipeline=[
                    loading or dict(type='LoadArray'),
                    dict(type='Resize', scale=32), dict(type='PackInputs')])
        if len(classes) == 1:
            cfg.val_evaluator = cfg.test_evaluator = dict(type='Accuracy', topk=1)
        cfg.train_cfg.max_epochs = cfg.param_scheduler.total_steps = 1
        cfg.custom_imports.imports.append('load_array')
        cfg.dump(tmp_path / 'config.py')
        return tmp_path / 'config.py'

    return make


def test_macs_of_the_stem():
    arch = ArchSpec.from_text(TINY_ARCH)
    three, five = (count_macs(arch, 32, 2, in_channels=n).total for n in (3, 5))
    assert five - three == 16 * 16 * 9 * 2 * arch.stem_channels


@pytest.mark.long
@pytest.mark.parametrize('channels, classes, loading', [
    pytest.param(1, ['a', 'b'], dict(type='LoadImageFromFile', color_type='grayscale'),
                 marks=pytest.mark.slow),
    pytest.param(4, ['only one class'], None, marks=pytest.mark.slow),
    (12, [f'class number {i:03}, {"which has a long name " * 4}' for i in range(1000)],
     None),
], ids=['1', '4', '12'])
def test_through_all(channels, classes, loading, make, tmp_path, monkeypatch, capsys,
                     scope):
    config = make(channels, classes, loading)
    env = dict(PYTHONPATH=f'{ROOT}:{tmp_path}')
    run = tmp_path / 'run'
    run_tool('tools/train.py', config, '--work-dir', run, env=env)
    checkpoint = run / 'epoch_1.pth'
    printed = run_tool('tools/test.py', config, checkpoint, '--work-dir', run,
                       env=env).stdout
    assert 'accuracy/top1' in printed

    def call(script, *arguments):
        call_main(monkeypatch, load_tool(script), *arguments)
        return capsys.readouterr().out

    out = call('tools/analysis_tools/get_flops.py', config, '--input-shape', '32')
    assert 'backbone' in out
    call('tools/benchmarks/benchmark_forward.py', config, '--input-shapes', '32x32',
         '--rounds', '1')
    onnx, int8 = tmp_path / 'network.onnx', tmp_path / 'int8.onnx'
    out = call('tools/deployment/export.py', config, checkpoint, '--out', onnx,
               '--input-shape', '32', '--dynamic', 'batch')
    assert f'x{channels}x32x32' in out and "the config's test data" in out
    out = call('tools/deployment/quantize_onnx.py', onnx, config, '--out', int8,
               '--num-samples', '4')
    assert int8.exists()
    for file in (onnx, int8):
        printed = run_tool('tools/test.py', config, file, '--work-dir', run,
                           env=env).stdout
        assert 'accuracy/top1' in printed
    published = load_tool('tools/model_converters/publish_model.py')
    call_main(monkeypatch, published, checkpoint, tmp_path / 'published.pth')
    file, = tmp_path.glob('published*.pth')
    meta = torch.load(file, weights_only=False).get('meta') or {}
    assert json.dumps(meta.get('dataset_meta', {}))
