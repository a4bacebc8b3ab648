# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What a user of the installed package does who has mmengine and mmcv-lite alone:
builds, trains a step, searches a step, exports. Run outside of the checkout, whose
path is the argument."""
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn as nn
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

import autonl_mm
from autonl_mm.nas.supernet.export import export_subnet

SPACE = dict(
    stem_channels=8,
    head_channels=32,
    stages=[dict(channels=8, depth=1, stride=1, nl_ratio=(0, 0.5)),
            dict(channels=16, depth=2, stride=2, nl_ratio=(0, 0.25))])


@MODELS.register_module()
class Classifier(BaseModel):
    """The smallest task model there is."""

    def __init__(self, backbone, channels, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)
        self.fc = nn.Linear(channels, 2)

    def forward(self, inputs, data_samples, mode='loss'):
        logits = self.fc(self.backbone(inputs)[-1].mean((2, 3)))
        return dict(loss=nn.functional.cross_entropy(logits, data_samples))


def train_step(model):
    """One step on random images; returns the logged losses."""
    model.train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.01))
    before = [p.detach().clone() for p in model.parameters()]
    logs = model.train_step(
        dict(inputs=torch.randn(2, 3, 32, 32), data_samples=torch.tensor([0, 1])),
        wrapper)
    assert all(torch.isfinite(v).all() for v in logs.values())
    assert any((a != b).any() for a, b in zip(before, model.parameters()))
    return logs


def main():
    package = Path(autonl_mm.__file__).resolve().parent
    assert Path(sys.argv[1]).resolve() not in package.parents, package
    assert not [n for n in ('mmpretrain', 'mmdet', 'mmseg') if n in sys.modules]
    autonl_mm.checkpoint.install()

    assert list((package / '.mim/configs/demo').glob('*.py'))
    net = MODELS.build(dict(
        type='Classifier', channels=1280, backbone=dict(type='autonl_mm.AutoNL')))
    train_step(net)
    assert autonl_mm.count_macs(net.backbone.arch()).total == 266974944

    search = MODELS.build(dict(
        type='autonl_mm.CostAwareModel',
        cost_weight=0.1,
        model=dict(
            type='Classifier',
            channels=32,
            backbone=dict(type='autonl_mm.AutoNLSuperNet', space=SPACE))))
    assert 'loss_cost' in train_step(search)

    spec, weights = export_subnet(search.model.backbone.eval())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'arch.txt'
        file.write_text(spec.to_text())
        subnet = MODELS.build(dict(
            type='autonl_mm.AutoNL', arch=str(file), out_indices=(-1, )))
    subnet.load_state_dict(weights)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        exported = torch.export.export(subnet.eval(), (images, )).module()
        torch.testing.assert_close(exported(images), subnet(images))
        torch.testing.assert_close(
            subnet(images), search.model.backbone(images), rtol=1e-5, atol=1e-5)
    print('used', autonl_mm.__version__)


if __name__ == '__main__':
    main()
