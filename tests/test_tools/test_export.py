# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import re
import sys

import onnx
import pytest
import torch
from conftest import call_main, load_tool, main_error
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny_models import CONFIGS, build, noise
from torch import nn

from autonl_mm.deploy import load
from autonl_mm.export import export
from autonl_mm.export.engines import DYNAMIC, ENGINES
from autonl_mm.export.engines.onnx_graph import operators
from autonl_mm.export.graphs import graph_type
from autonl_mm.models import LightNL

tool = load_tool('tools/deployment/export.py')


@MODELS.register_module()
class Baked(nn.Module):
    """Multiplies by the size, read in Python: a trace fixes that of its input."""

    def forward(self, feats):
        return tuple(x.mean((2, 3)) * int(x.shape[3]) for x in feats)


@MODELS.register_module()
class Summed(nn.Module):
    """Global pooling by an einsum."""

    def forward(self, feats):
        return tuple(torch.einsum('nchw->nc', x) for x in feats)


@pytest.fixture
def files(tmp_path, scope):
    """Makes config and checkpoint of a tiny model."""

    def make(name, **model):
        name, *normalize = name.split()
        cfg = Config(copy.deepcopy(CONFIGS[name]))
        cfg.model.backbone.normalize = normalize[0] if normalize else 'size'
        cfg.model.update(model)
        net = build(cfg)
        cfg.dump(tmp_path / 'config.py')
        torch.save(
            dict(state_dict=net.state_dict(),
                 meta=dict(dataset_meta=dict(classes=('a', 'b')))),
            tmp_path / 'net.pth')
        return tmp_path / 'config.py', tmp_path / 'net.pth', net

    return make


def rows(text):
    """Cells of the rows of tables whose first cell is a shape."""
    return re.findall(r'^\| ([\dx]+) \| (\S+) \| (\S+) \|$', text, re.M)


@pytest.mark.long
@pytest.mark.parametrize('name, options, output', [
    ('classifier', [], 'logits'),
    ('classifier rms', [], 'logits'),
    ('segmentor', [], 'logits'),
    ('segmentor', ['--labels'], 'labels'),
    ('retinanet', [], 'dets'),
    ('ssdlite', [], 'dets'),
])
def test_every_task_at_any_size(name, options, output, files, monkeypatch,
                                capfd):
    config, weights, model = files(name)
    images = noise(9, 96, 96)
    monkeypatch.setattr(tool, 'check_images',
                        lambda *args: (list(images), 'squares'))
    call_main(monkeypatch, tool, config, weights, '--input-shape', 64, 96, '--dynamic',
              'batch', 'size', '--rounds', 1, *options)
    out, err = capfd.readouterr()
    assert 'Warning' not in out + err
    assert [row[0] for row in rows(out)] == [
        '1x3x64x96', '2x3x85x136', '3x3x128x105']
    assert all(float(row[2]) < 1e-3 for row in rows(out))
    for engine in ('PyTorch', 'PyTorch, deploy form', 'onnxruntime'):
        assert re.search(rf'^\| {engine} \| [\d.]+ \|', out, re.M)

    file = weights.with_suffix('.onnx')
    session = load(file)
    assert session.outputs[0] == output
    assert session.batch is None and session.size == (None, None)
    assert session.info['classes'] == ['a', 'b']
    assert session.info['light_nl_scales'] == ['rms' if 'rms' in name else 'paper']
    kinds = operators(onnx.load(file))
    assert 'Einsum' not in kinds
    assert ('NonMaxSuppression' in kinds) == (output == 'dets')
    # sizes and numbers that the check did not see
    graph = export.make_graph(model, DYNAMIC, bool(options))
    images = noise(5, 110, 75)
    with torch.no_grad():
        expected = graph.reference(model, images)
    absolute, scale = graph.difference(session(images), expected)
    assert absolute <= 1e-3 * scale
    orders = [{m.order for m in net.modules() if isinstance(m, LightNL)}
              for net in (graph, model)]
    assert orders == [{'channel'}, {'auto'}]
    if output == 'dets':
        dets, labels = session(noise(2, 96, 96))
        assert (labels >= 0).sum() > 5 and (labels < 0).any()
        assert not dets[labels < 0].any()
        # what the graph computes in PyTorch is the same
        with torch.no_grad():
            again = graph(noise(2, 96, 96))
        assert graph.difference(again, [dets, labels])[0] < 1e-3


def test_fixed_size_and_batch(files, monkeypatch, capsys, tmp_path):
    config, weights, model = files('classifier')
    call_main(monkeypatch, tool, config, weights, '--input-shape', 64,
              '--batch-size', 2, '--rounds', 1, '--out', tmp_path / 'two.onnx')
    out = capsys.readouterr().out
    assert 'images (2, 3, 64, 64)' in out and 'images of noise' in out
    assert [row[0] for row in rows(out)] == ['2x3x64x64'] * 3
    session = load(tmp_path / 'two.onnx')
    # any number, in parts of two
    images = noise(5, 64, 64)
    logits, = session(images)
    expected, = export.make_graph(model).reference(model, images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='takes images of 64x64'):
        session(noise(1, 64, 96))
    assert 'Sigmoid' in operators(onnx.load(tmp_path / 'two.onnx'))


@pytest.mark.parametrize('neck, words', [
    ('Baked', ['differ by', '1x3x85x104']),
    ('Summed', ['Einsum']),
])
def test_refused(neck, words, files, monkeypatch, tmp_path):
    """An existing file is not changed."""
    config, weights, _ = files('classifier', neck=dict(type=neck))
    out = tmp_path / 'net.onnx'
    for before in (None, b'older'):
        if before:
            out.write_bytes(before)
        message = main_error(monkeypatch, tool, config, weights, '--input-shape', 64,
                             '--dynamic', 'size')
        assert message.startswith('export.py: ')
        for word in words:
            assert word in message
        assert (out.read_bytes() if out.exists() else None) == before
    assert {p.suffix for p in tmp_path.iterdir()} == {'.py', '.pth', '.onnx'}


def test_nothing_detected_is_no_check(files, monkeypatch, tmp_path):
    config, weights, _ = files('retinanet')
    message = main_error(monkeypatch, tool, config, weights, '--input-shape', 64,
                         '--cfg-options', 'model.test_cfg.score_thr=0.9999')
    assert 'nothing was detected' in message and '--images' in message
    assert not list(tmp_path.glob('*.onnx*'))


def test_images_of_a_folder(files, monkeypatch, image_folder, capsys):
    config, weights, _ = files('classifier')
    call_main(monkeypatch, tool, config, weights, '--input-shape', 64, '--rounds', 1,
              '--images', image_folder)
    assert f'on 3 images of {image_folder}' in capsys.readouterr().out


@pytest.mark.parametrize('module', ['onnx', 'onnxruntime'])
def test_missing_libraries(module, files, monkeypatch):
    config, weights, _ = files('classifier')
    monkeypatch.setitem(sys.modules, module, None)
    message = main_error(monkeypatch, tool, config, weights)
    assert f'need {module}' in message
    assert "pip install -e '.[onnxruntime]'" in message


@pytest.mark.parametrize('arguments, words', [
    (['--labels'], 'label maps are for segmentors'),
    (['--batch-size', 0], '--batch-size is 0'),
    (['--out', 'nowhere/x.onnx'], "folder 'nowhere' does not exist"),
    (['--images', 'nowhere'], "'nowhere' has no image"),
    (['--input-shape', 64, 64, 64], 'expected a positive height and width'),
    (['--cfg-options', 'model.head.num_classes=3'], 'size mismatch'),
    (['--opset', 3], 'torch.onnx cannot convert'),
])
def test_bad_input(arguments, words, files, monkeypatch):
    config, weights, _ = files('classifier')
    if '--input-shape' not in arguments:
        arguments = ['--input-shape', 64, *arguments]
    assert words in main_error(monkeypatch, tool, config, weights, *arguments)


def test_weights_of_another_file(files, monkeypatch, tmp_path):
    """OpenVINO's and ncnn's files of one name would share x.bin."""
    monkeypatch.setattr(ENGINES['ncnn'], 'modules', ())
    config, weights, _ = files('classifier')
    (tmp_path / 'x.xml.json').touch()
    message = main_error(monkeypatch, tool, config, weights, '--engine', 'ncnn',
                         '--out', tmp_path / 'x.param')
    assert 'x.bin, a part of' in message and 'x.xml: give another name' in message


@pytest.mark.parametrize('arguments, words', [
    (['--engine', 'mnn', '--out', 'x.onnx'], 'expected a name that ends in .mnn for'),
    (['--engine', 'litert', '--dynamic', 'batch'], '--dynamic batch cannot be'),
    (['--engine', 'ncnn', '--precision', 'int8'], '--precision int8 cannot be'),
    (['--agreement', 2], '--agreement is 2.0, expected a share'),
])
def test_what_does_not_fit_the_engine(arguments, words, files, monkeypatch):
    for engine in ENGINES.values():
        monkeypatch.setattr(engine, 'modules', ())
    config, weights, _ = files('classifier')
    assert words in main_error(monkeypatch, tool, config, weights, *arguments)


def test_missing_files(files, monkeypatch, tmp_path):
    config, weights, _ = files('classifier')
    assert "'no.py' does not exist" in main_error(monkeypatch, tool, 'no.py', weights)
    assert "'no.pth' does not exist" in main_error(monkeypatch, tool, config, 'no.pth')


@pytest.mark.parametrize('change, words', [
    (dict(nms_pre=-1), 'nms_pre is -1'),
    (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), 'soft_nms'),
])
def test_unsupported_detectors(change, words, scope):
    cfg = copy.deepcopy(CONFIGS['retinanet'])
    cfg['model']['test_cfg'].update(change)
    with pytest.raises(ValueError, match=words):
        graph_type(build(cfg))


def test_multi_task_heads(files, monkeypatch, tmp_path):
    """They are refused by name before anything is computed."""
    monkeypatch.setattr(tool, 'check_images', None)
    linear = dict(type='LinearClsHead', num_classes=2, in_channels=64)
    config, weights, _ = files('classifier', head=dict(
        type='MultiTaskHead', task_heads=dict(a=linear, b=linear)))
    message = main_error(monkeypatch, tool, config, weights, '--input-shape', 64)
    assert 'ImageClassifier with the head MultiTaskHead cannot be exported' in message
    assert not list(tmp_path.glob('*.onnx*'))


@pytest.mark.parametrize('name, change, words', [
    ('classifier', dict(head=None), 'the head NoneType cannot'),
    ('classifier', dict(head=dict(type='ConformerHead', num_classes=2,
                                  in_channels=[64, 64])), 'ConformerHead cannot'),
    ('segmentor', dict(type='DepthEstimator'), 'DepthEstimator cannot be exported'),
])
def test_models_without_logits_of_labels(name, change, words, scope):
    cfg = Config(copy.deepcopy(CONFIGS[name]))
    init_default_scope(cfg.default_scope)
    cfg.model.update(change)
    with pytest.raises(ValueError, match=words):
        graph_type(MODELS.build(cfg.model))


def test_unsupported_models(scope):
    with pytest.raises(ValueError, match='Linear cannot be exported'):
        graph_type(nn.Linear(2, 2))
    cfg = copy.deepcopy(CONFIGS['retinanet'])
    cfg['model'].update(type='FCOS', bbox_head=dict(
        type='FoveaHead', num_classes=4, in_channels=8, strides=[4, 8, 16],
        base_edge_list=[16, 32, 64],
        scale_ranges=((8, 32), (16, 64), (32, 128))))
    with pytest.raises(ValueError, match='FoveaHead cannot be exported because'):
        graph_type(build(cfg))
    cfg['model']['bbox_head'] = dict(
        type='FCOSHead', num_classes=4, in_channels=8, feat_channels=8, norm_cfg=None,
        strides=[4, 8, 16],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)))
    model = build(cfg)
    with pytest.raises(ValueError, match='FCOSHead gives 3 outputs, such as centern'):
        graph_type(model)(model)(torch.zeros(1, 3, 64, 64))
