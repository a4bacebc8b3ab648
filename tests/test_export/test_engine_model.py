# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A model and its exported model make the same predictions."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, init_default_scope
from tiny_models import CONFIGS, NORM, build, noise

from autonl_mm.deploy import load
from autonl_mm.export import export, quantize
from autonl_mm.export.engines import DYNAMIC, ENGINES, Settings

POOL = CONFIGS['classifier']['model']['neck']


@pytest.fixture
def make(tmp_path, scope):
    """Makes a tiny model and the ONNX model of it, for any size."""

    def make(name, labels=False, **changes):
        cfg = copy.deepcopy(CONFIGS[name])
        cfg['model'].update(changes)
        model = build(cfg)
        graph = export.make_graph(model, DYNAMIC, labels)
        export.write_file(ENGINES['onnxruntime'], graph,
                          Settings((1, 3, 64, 64), DYNAMIC), tmp_path / 'x.onnx')
        return model, MODELS.build(dict(
            type='autonl_mm.EngineModel', file=str(tmp_path / 'x.onnx'),
            model=Config(cfg).model))

    return make


def test_classifier(make):
    from mmpretrain.structures import DataSample
    model, twin = make('classifier')
    results = [
        net.test_step(dict(inputs=inputs, data_samples=[
            DataSample().set_gt_label(i) for i in (0, 1, 1)]))
        for net, inputs in ((model, noise(3, 64, 96)),
                            (twin, noise(3, 64, 96)),
                            (twin, list(noise(3, 64, 96).byte())))
    ]
    for others in results[1:]:
        for a, b in zip(results[0], others):
            torch.testing.assert_close(a.pred_score, b.pred_score, rtol=1e-3,
                                       atol=1e-4)
            assert a.gt_label == b.gt_label
    with pytest.raises(ValueError, match="mode is 'loss'"):
        twin(noise(1, 64, 64), mode='loss')


@pytest.mark.parametrize('head, neck', [
    (dict(type='MultiLabelLinearClsHead'), POOL),
    (dict(type='MultiLabelLinearClsHead', thr=0.52), POOL),
    (dict(type='MultiLabelLinearClsHead', topk=2), POOL),
    (dict(type='CSRAClsHead', num_heads=2, lam=0.1), None),
])
def test_multi_label_classifier(head, neck, make):
    """Labels and metrics are those of the head's own rule."""
    from mmpretrain.evaluation import AveragePrecision, MultiLabelMetric
    from mmpretrain.structures import DataSample
    model, twin = make('classifier', neck=neck, head=dict(
        head, num_classes=6, in_channels=64))
    images = noise(8, 64, 96)
    # The labels that the model predicts are the true ones.
    truth = [s.pred_label for s in model.test_step(dict(inputs=images))]
    assert len({tuple(t.tolist()) for t in truth}) > 2
    metrics = []
    for net in model, twin:
        samples = net.test_step(dict(inputs=images, data_samples=[
            DataSample().set_gt_label(t) for t in truth]))
        assert [s.pred_label.tolist() for s in samples] == [t.tolist() for t in truth]
        rule = dict(topk=2) if 'topk' in head else dict(thr=head.get('thr', 0.5))
        evaluator = Evaluator([
            MultiLabelMetric(average='micro', **rule), AveragePrecision()])
        evaluator.process(samples)
        metrics.append(evaluator.evaluate(len(samples)))
    assert metrics[0] == pytest.approx(metrics[1])
    rates = [value for name, value in metrics[1].items() if 'mAP' not in name]
    assert rates == [100, 100, 100]


@pytest.mark.parametrize('labels', [False, True])
def test_segmentor(make, labels):
    from mmseg.structures import SegDataSample
    model, twin = make('segmentor', labels)
    # images were enlarged from this size; label maps cannot be resized exactly
    ori_shape = (64, 96) if labels else (50, 70)
    a, b = (
        net.test_step(dict(
            inputs=list(noise(2, 64, 96)),
            data_samples=[
                SegDataSample(metainfo=dict(
                    img_shape=(64, 96), ori_shape=ori_shape))
                for _ in range(2)
            ])) for net in (model, twin))
    for x, y in zip(a, b):
        x, y = x.pred_sem_seg.data, y.pred_sem_seg.data
        assert x.shape == y.shape == (1, *ori_shape)
        assert (x == y).float().mean() > 0.999
        assert len(x.unique()) > 1


def test_segmentor_with_images_of_several_sizes(make):
    """Each is predicted on its own; mmseg's own model takes no such batch."""
    from mmseg.structures import SegDataSample
    model, twin = make('segmentor')
    images = [noise(1, 64, 96)[0], noise(1, 96, 64)[0]]

    def predict(net, images):
        return [s.pred_sem_seg.data for s in net.test_step(dict(
            inputs=images, data_samples=[
                SegDataSample(metainfo=dict(img_shape=image.shape[1:],
                                            ori_shape=image.shape[1:]))
                for image in images]))]

    for got, image in zip(predict(twin, images), images):
        expected, = predict(model, [image])
        assert got.shape == expected.shape
        assert (got == expected).float().mean() > 0.999


def test_segmentor_with_test_time_augmentation(make):
    from mmseg.structures import SegDataSample
    results = []
    for net in make('segmentor'):
        tta = MODELS.build(dict(type='SegTTAModel', module=net))
        image = noise(1, 64, 96)[0]
        meta = dict(img_shape=(64, 96), ori_shape=(64, 96), img_path='a.png')
        result, = tta.test_step(dict(
            inputs=[[image], [image.flip(2)]], data_samples=[
                [SegDataSample(metainfo=dict(meta, **flip))]
                for flip in ({}, dict(flip=True, flip_direction='horizontal'))]))
        results.append(result.pred_sem_seg.data)
    assert (results[0] == results[1]).float().mean() > 0.999


@pytest.mark.parametrize('name', ['retinanet', 'ssdlite'])
def test_detector(make, name):
    """Images of two sizes, boxes in pixels of the original ones."""
    from mmdet.structures import DetDataSample
    model, twin = make(name)
    images = [noise(1, 64, 96)[0], noise(1, 96, 64)[0]]
    results = []
    for net in (model, twin):
        results.append([
            net.test_step(dict(inputs=[image], data_samples=[
                DetDataSample(metainfo=dict(
                    img_shape=tuple(image.shape[1:]), ori_shape=(32, 32),
                    scale_factor=(2., 3.)))]))[0].pred_instances
            for image in images])
    for a, b in zip(*results):
        assert len(a) == len(b) > 2
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-3, atol=0.01)
        assert torch.equal(a.labels, b.labels)
    batch = twin.test_step(dict(inputs=images, data_samples=[
        DetDataSample(metainfo=dict(scale_factor=(2., 3.)))
        for _ in images]))
    for a, b in zip(batch, results[1]):
        assert torch.equal(a.pred_instances.bboxes, b.bboxes)


@pytest.mark.parametrize('name', ['retinanet', 'segmentor'])
def test_smaller_images_than_a_fixed_size(name, make, tmp_path):
    """As the model does with the same images, padded to that size by the mean."""
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample
    model, _ = make(name)
    file = tmp_path / 'y.onnx'
    export.write_file(ENGINES['onnxruntime'], export.make_graph(model),
                      Settings((1, 3, 96, 96)), file)
    twin = MODELS.build(dict(type='autonl_mm.EngineModel', file=str(file),
                             model=Config(CONFIGS[name]).model))
    image = noise(1, 64, 96)[0]
    mean = torch.tensor(NORM['mean'][::-1])
    padded = mean.view(3, 1, 1).repeat(1, 96, 96)
    padded[:, :64] = image
    kind = DetDataSample if name == 'retinanet' else SegDataSample
    (expected, ), (got, ) = (
        net.test_step(dict(inputs=[x], data_samples=[kind(metainfo=dict(
            img_shape=tuple(x.shape[1:]), ori_shape=tuple(x.shape[1:]),
            scale_factor=(1., 1.)))])) for net, x in ((model, padded), (twin, image)))
    if name == 'segmentor':
        found = got.pred_sem_seg.data
        assert found.shape == (1, 64, 96)
        assert (found == expected.pred_sem_seg.data[:, :64]).float().mean() > 0.999
        return
    a, b = expected.pred_instances, got.pred_instances
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
    a.bboxes[:, 1::2].clamp_(max=64)
    torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-3, atol=0.01)
    with pytest.raises(ValueError, match=r'images of 96x96, got an image of 96x128'):
        twin.test_step(dict(inputs=[noise(1, 96, 128)[0]],
                            data_samples=[DetDataSample()]))


def test_of_another_light_nl(make, tmp_path, scope):
    """The metadata describe LightNL."""
    make('classifier')
    file = str(tmp_path / 'x.onnx')
    assert load(file).info['light_nl_scales'] == ['paper']
    cfg = Config(dict(model=copy.deepcopy(CONFIGS['classifier']['model'])))
    cfg.model.backbone.normalize = 'rms'
    with pytest.raises(ValueError, match='LightNL with normalize size, but the '
                       'config has LightNL with normalize rms'):
        MODELS.build(dict(type='autonl_mm.EngineModel', file=file, model=cfg.model))
    session = load(file)
    assert quantize.is_cubic(session.info)
    for scales in [], ['rms']:
        session.info['light_nl_scales'] = scales
        assert not quantize.is_cubic(session.info)


def test_metadata_name_the_activations(make, tmp_path):
    acts = dict(act_cfg=dict(type='HSwish'), se_act_cfg=dict(type='Swish'))
    make('classifier', backbone=dict(
        CONFIGS['classifier']['model']['backbone'], **acts))
    assert load(str(tmp_path / 'x.onnx')).info['activations'] == acts


def test_of_another_task(make, tmp_path):
    make('segmentor')
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match='is for segmentation, but'):
        MODELS.build(dict(
            type='autonl_mm.EngineModel', file=str(tmp_path / 'x.onnx'),
            model=Config(CONFIGS['classifier']).model))


def test_files_of_others(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'not ONNX')
    with pytest.raises(ValueError, match='does not load'):
        load(tmp_path / 'x.onnx')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load(tmp_path / 'y.onnx')
    import onnx
    from onnx import helper
    x, y = (helper.make_tensor_value_info(n, 1, [1]) for n in 'xy')
    onnx.save(helper.make_model(
        helper.make_graph([helper.make_node('Abs', ['x'], ['y'])], 'g', [x],
                          [y]),
        ir_version=8, opset_imports=[helper.make_opsetid('', 17)]),
        tmp_path / 'z.onnx')
    with pytest.raises(ValueError, match=r'not written by .*export\.py'):
        load(tmp_path / 'z.onnx')
