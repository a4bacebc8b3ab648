# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Labels that are no classes are found before a kernel meets them."""
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from autonl_mm.runs.hooks import LabelCheckHook

SSDLITE = 'mmdet/ssdlite_autonl-s_8xb24-600e_coco'
FPN = 'mmseg/autonl-s_fpn_4xb2-80k_cityscapes-512x1024'


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
def test_labels_of_one_output_channel(num_classes, scope):
    """They are 0 and 1, however many classes the head says."""
    pytest.importorskip('mmseg.models')
    from mmseg.models import FCNHead
    init_default_scope('mmseg')
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


def test_labels_of_stuff(scope):
    """A detector with a semantic head has classes of things, and more of stuff."""
    pytest.importorskip('mmdet.structures')
    model = nn.Module()
    for name, count in dict(bbox_head=80, semantic_head=54).items():
        model.add_module(name, nn.Module())
        model.get_submodule(name).num_classes = count
    hook = LabelCheckHook()
    hook.before_run(SimpleNamespace(model=model))
    sample = samples('mmdet')
    sample.gt_sem_seg = PixelData(sem_seg=torch.tensor([[[132, 255]]]))
    sample.gt_instances.labels[0] = 79
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=None))
    hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    sample.gt_instances.labels[0] = 80
    with pytest.raises(ValueError, match=r'labels \[80\], .* classes 0 to 79'):
        hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
