# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Exported models of all engines give the outputs of PyTorch, or are not written.

The fast tests need the engines with small packages. The slow tests need the other
engines, and say what to install.
"""
import copy
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from pages import snippets
from scripts import server
from tiny_models import CONFIGS, build, noise
from torch import nn

from autonl_mm.deploy import load
from autonl_mm.export import check, export
from autonl_mm.export.boxes import select_boxes
from autonl_mm.export.engines import ENGINES, ExportError, Settings, engine_of
from autonl_mm.export.engines.base import Session
from autonl_mm.models import LightNL
from autonl_mm.models.layers.export_and_precision import for_xnnpack
from autonl_mm.models.layers.light_nl import light_nl

FAST = ['onnxruntime', 'openvino', 'mnn', 'ncnn']
SLOW = ['litert', 'executorch', 'coreml']
# engines with a slow converter are marked
ALL = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
NEEDED = dict(mnn='MNN', litert='litert_torch', coreml='coremltools')


def need(name, *modules):
    """Skip a test whose engine is not installed, and say which."""
    for module in (NEEDED.get(name, name), *modules):
        pytest.importorskip(
            module, reason=f"{module} is missing: pip install -e '.[{name}]'")


@pytest.fixture
def make(scope):
    """Makes a tiny model with the bounded LightNL."""

    def make(name, normalize='rms'):
        cfg = copy.deepcopy(CONFIGS[name])
        cfg['model']['backbone'] = dict(cfg['model']['backbone'], normalize=normalize)
        return build(cfg)

    return make


def run_export(name, model, file, shape=(1, 3, 64, 96), preprocess=True, minimum=0.5,
               images=9, subprocess=False, **settings):
    """Export, with the check in this process or in a subprocess."""
    server()  # whose forks have imported the libraries
    engine = ENGINES[name]
    settings = Settings(shape, **settings)
    engine.check(settings)
    graph = export.make_graph(model, settings.dynamic, False, preprocess,
                              engine.selects_boxes)
    if settings.precision == 'int8':
        settings = settings._replace(calibration=[
            graph.prepare(image[None])[0] for image in noise(9, *shape[2:])])
    exporter = export.Exporter(engine, model, graph, settings,
                               list(noise(images, 96, 96)), engine.tolerance, minimum)
    with pytest.MonkeyPatch.context() as patch:
        if not subprocess:
            patch.setattr(
                check, 'run_engine', lambda function, *args: function(*args))
        return exporter.export(file)


def reference(model, images):
    graph = export.make_graph(model)
    with torch.no_grad():
        return graph, graph.reference(model, images)


@pytest.mark.parametrize('name', ALL)
def test_classifier(name, make, tmp_path):
    """Any number of images, also of an engine that takes one at a time."""
    need(name)
    model, file = make('classifier'), tmp_path / f'x{ENGINES[name].ending}'
    found = run_export(name, model, file, subprocess=name in ('onnxruntime', 'mnn'))
    if not ENGINES[name].runs:
        assert not found.differences
        with pytest.raises(ValueError, match='runs on macOS and iOS'):
            load(file)
        return
    assert [d.shape for d in found.differences] == [(1, 3, 64, 96)] * 3
    assert max(d.relative for d in found.differences) < 1e-5
    session = load(file)
    assert engine_of(file).name == name and session.outputs == ['logits']
    assert session.info['light_nl_scales'] == ['rms']
    images = noise(3, 64, 96)
    for taken in images, images.numpy(), images.byte():
        logits, = session(taken)
        _, (expected, ) = reference(model, images)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(
            ValueError, match='takes images of 64x96, got an image of 96x64'):
        session(noise(1, 96, 64))
    with pytest.raises(ValueError, match=r'images \(N, 3, H, W\)'):
        session(images[:, :1])


@pytest.mark.parametrize('name, task', [
    ('openvino', 'segmentor'), *((name, task) for name in ('mnn', 'ncnn')
                                 for task in ('segmentor', 'ssdlite')),
    *(pytest.param(name, task, marks=pytest.mark.slow) for name in SLOW
      for task in ('segmentor', 'ssdlite', 'retinanet'))])
def test_other_tasks(name, task, make, tmp_path):
    """NMS in the file and in post-processing give the same boxes."""
    need(name)
    model, file = make(task), tmp_path / f'x{ENGINES[name].ending}'
    run_export(name, model, file)
    if not ENGINES[name].runs:
        return
    session, images = load(file), noise(2, 64, 96)
    graph, expected = reference(model, images)
    got = session(images)
    assert session.outputs == list(graph.outputs)
    absolute, scale = graph.difference(got, expected)
    assert absolute < 1e-3 * scale
    assert [g.shape for g in got] == [e.shape for e in expected]


@pytest.mark.parametrize('name, dynamic', [
    ('openvino', ('batch', 'size')), ('mnn', ('batch', 'size'))])
def test_dynamic(name, dynamic, make, tmp_path):
    need(name)
    model, file = make('classifier'), tmp_path / f'x{ENGINES[name].ending}'
    found = run_export(name, model, file, dynamic=dynamic)
    assert [d.shape[2:] for d in found.differences] == [(64, 96), (85, 136), (128, 105)]
    assert [d.shape[0] for d in found.differences] == [1, 2, 3]
    images = noise(2, 110, 75)  # a size that the check did not see
    _, (expected, ) = reference(model, images)
    torch.testing.assert_close(load(file)(images)[0], expected, rtol=1e-4, atol=1e-4)


def test_detector_of_any_size(make, tmp_path):
    need('openvino')
    model, file = make('ssdlite'), tmp_path / 'x.xml'
    run_export('openvino', model, file, dynamic=('batch', 'size'))
    images = noise(2, 96, 80)
    graph, expected = reference(model, images)
    assert graph.difference(load(file)(images), expected)[0] < 1e-3


@pytest.mark.parametrize('name', ['onnxruntime', 'ncnn'])
def test_without_preprocessing(name, make, tmp_path):
    need(name)
    model, file = make('classifier'), tmp_path / f'x{ENGINES[name].ending}'
    run_export(name, model, file, preprocess=False)
    session, images = load(file), noise(2, 64, 96)
    assert session.info['preprocess'] is False
    inputs = model.data_preprocessor(dict(inputs=images))['inputs']
    _, (expected, ) = reference(model, images)
    torch.testing.assert_close(session(inputs)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name, precision, needs', [
    ('onnxruntime', 'fp16', []), ('openvino', 'fp16', []), ('mnn', 'fp16', []),
    ('ncnn', 'fp16', []), ('onnxruntime', 'int8', []), ('mnn', 'int8', []),
    pytest.param('openvino', 'int8', ['nncf'], marks=pytest.mark.slow),
    *(pytest.param(n, p, [], marks=pytest.mark.slow) for n, p in (
        ('litert', 'fp16'), ('litert', 'int8'), ('executorch', 'fp16'),
        ('coreml', 'fp16')))])
def test_lower_precision(name, precision, needs, make, tmp_path):
    """The file is smaller, or another one, and predicts nearly the same."""
    need(name, *needs)
    model, file = make('classifier'), tmp_path / f'x{ENGINES[name].ending}'
    found = run_export(name, model, file, precision=precision)
    if not ENGINES[name].runs:
        return
    assert found.agreement >= 0.5 and found.count == 9
    session, images = load(file), noise(4, 64, 96)
    assert session.info['precision'] == precision
    _, (expected, ) = reference(model, images)
    error = (session(images)[0] - expected).abs().max() / expected.abs().max()
    assert 0 < error < (0.02 if precision == 'fp16' else 0.5)


@pytest.mark.slow
def test_int8_weights_of_openvino_have_seven_bits(make, tmp_path):
    """With eight, sums of products saturate on some processors."""
    need('openvino', 'nncf')
    import openvino
    file = tmp_path / 'x.xml'
    run_export('openvino', make('classifier'), file, precision='int8')
    weights = [op.get_data() for op in openvino.Core().read_model(file).get_ops()
               if op.get_type_name() == 'Constant'
               and op.get_element_type() == openvino.Type.i8]
    assert len(weights) > 5
    assert all(w.min() >= -64 and w.max() <= 64 for w in weights)


@pytest.mark.parametrize('change, words', [
    (lambda w: w.fill_(float('nan')), 'PyTorch on images of 1x3x64x96 are not finite'),
    (lambda w: w.mul_(1e26), r'as large as \d\.\de\+2\d, expected at most 10000'),
])
def test_insane_outputs_are_refused(change, words, make, tmp_path):
    """Numbers of 1e26 agree relatively."""
    model = make('classifier')
    with torch.no_grad():
        change(model.head.fc.weight)
    with pytest.raises(ExportError, match=words):
        run_export('onnxruntime', model, tmp_path / 'x.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('labels', [False, True])
def test_one_output_channel_is_checked_by_its_threshold(labels, make):
    """Of its only channel the largest is always the same."""
    graph = export.make_graph(make('segmentor'), labels=labels)
    graph.model.decode_head.threshold = 0.3
    logits = torch.tensor([-2, 1, -0.8, 2]).view(1, 1, 2, 2)  # logit(0.3) is -0.847
    got = torch.tensor([[[0, 1], [0, 1]]]) if labels else logits - 0.1
    assert graph.agreement([got], [logits]) == (3, 4)
    absolute, scale = graph.difference([got], [logits])
    assert absolute == pytest.approx(0.047 if labels else 0.1, abs=1e-3)
    assert scale == 2


def test_multi_label_heads_are_checked_by_their_threshold(scope):
    """The largest logit says nothing about other labels."""
    cfg = copy.deepcopy(CONFIGS['classifier'])
    cfg['model']['head'] = dict(
        type='MultiLabelLinearClsHead', num_classes=4, in_channels=64, thr=0.3)
    graph = export.make_graph(build(cfg))
    # logit(0.3) is -0.847; the second image has no label
    logits = torch.tensor([[-2, 1, 2, -0.8], [-1, -1, -1, -1]])
    assert graph.agreement([logits], [logits]) == (4, 4)
    assert graph.agreement([-logits], [logits]) == (1, 7)
    found = logits.clone()
    found[0, 1] = -1
    assert graph.agreement([found], [logits]) == (3, 4)
    with pytest.raises(ExportError, match=r'14\.3% of the predictions of x are'):
        check.agreement(graph, [[-logits]], [[logits]], 0.9, 'x')


def test_single_label_heads_are_checked_by_their_best_label(make):
    graph = export.make_graph(make('classifier'))
    logits = torch.tensor([[-2, -1], [3, 1], [0., 1]])
    assert graph.agreement([logits * torch.tensor([1, 0.1])], [logits]) == (3, 3)
    assert graph.agreement([-logits], [logits]) == (0, 3)


class Sorted(nn.Module):
    """Global pooling by the median, which ncnn has no layer for."""

    def forward(self, feats):
        return tuple(x.flatten(2).sort(2)[0][..., 7] for x in feats)


def test_unknown_layers_are_refused(make, tmp_path):
    """pnnx warns of them and writes files that do not load."""
    need('ncnn')
    model = make('classifier')
    model.neck = Sorted()
    with pytest.raises(ExportError, match='pnnx cannot convert the graph to ncnn: '):
        run_export('ncnn', model, tmp_path / 'x.param')
    assert not list(tmp_path.iterdir())


def test_predictions_of_lower_precision_are_counted(make, tmp_path):
    with pytest.raises(ExportError, match='predictions of onnxruntime are those of'):
        run_export('onnxruntime', make('classifier'), tmp_path / 'x.onnx',
                   precision='fp16', minimum=1.1)
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_belong_together(make, tmp_path):
    need('ncnn')
    file, weights = tmp_path / 'x.param', tmp_path / 'x.bin'
    export.write_file(ENGINES['ncnn'], export.make_graph(make('classifier')),
                      Settings((1, 3, 64, 64)), file)
    load(file)
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b'abcd')
    with pytest.raises(ValueError, match=r'x\.bin is not the file that x\.param\.json'):
        load(file)
    weights.write_bytes(content)
    info = json.loads((tmp_path / 'x.param.json').read_text())
    (tmp_path / 'x.param.json').write_text(json.dumps(dict(info, task=3)))
    with pytest.raises(ValueError, match='does not describe an exported model'):
        load(file)
    (tmp_path / 'x.param.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'x\.param\.json.* does not exist'):
        load(file)
    with pytest.raises(FileNotFoundError, match=r'y\.mnn.* does not exist'):
        load(tmp_path / 'y.mnn')
    with pytest.raises(ValueError, match=r'expected a name that ends in \.onnx \(onnx'):
        load('x.bin')


OTHERS = (None, True, -1, 0.5, 'a\n', [], {})
# Optional keys
NOT_EVERYWHERE = {'activations', 'cfg', 'classes', 'palette', 'quantised'}
# Values of another type that are right too
ALSO_RIGHT = [
    ('input', 0, None), ('input', 2, None), ('input', 3, None), ('classes', 0, -1),
    ('classes', 1, -1), ('select', 'score_thr', -1), ('select', 'iou_threshold', -1),
    ('select', 'min_bbox_size', 0.5), ('activations', 'act_cfg', None)]


def changed(node, key=()):
    """A manifest, each value in it replaced and each key deleted in turn.

    Yields:
        tuple: Key, the value in its place if it was replaced, and the manifest.
    """
    parts = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in parts if isinstance(node, (dict, list)) else ():
        for other in OTHERS:
            if type(other) is not type(value):
                copied = copy.copy(node)
                copied[name] = other
                yield (*key, name), [other], copied
        if isinstance(node, dict):
            yield (*key, name), [], {k: v for k, v in node.items() if k != name}
        if isinstance(value, (dict, list)):
            for place, other, part in changed(value, (*key, name)):
                copied = copy.copy(node)
                copied[name] = part
                yield place, other, copied


def test_every_wrong_value_of_a_manifest_is_named(make, tmp_path):
    need('mnn')
    engine, file = ENGINES['mnn'], tmp_path / 'x.mnn'
    graph = export.make_graph(make('ssdlite'), selects_boxes=False)
    settings = Settings((1, 3, 64, 64), info=dict(
        classes=['a', 'b'], cfg='x = 1', palette=[[1, 2, 3], [4, 5, 6]]))
    file.touch()
    engine.write_info(file, dict(export.describe(graph, settings), quantised=3))
    manifest, good = tmp_path / 'x.mnn.json', engine.info(file)
    assert {'select', 'sha256', *NOT_EVERYWHERE} <= {*good, *good['select']}
    count = 0
    for content in OTHERS:
        manifest.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r'x\.mnn\.json does not describe'):
            engine.info(file)
    for key, replaced, info in changed(good):
        manifest.write_text(json.dumps(info))
        if (*key, *replaced) in ALSO_RIGHT or (
                not replaced and key[-1] in NOT_EVERYWHERE):
            engine.info(file)
            continue
        with pytest.raises(ValueError) as error:
            engine.info(file)
        line = str(error.value)
        assert line.startswith(f'{manifest} does not describe an exported model')
        assert '\n' not in line and len(line) < 500
        name = next(k for k in reversed(key) if isinstance(k, str))
        assert name in line, (key, line)
        count += 1
    assert count > 150


@pytest.mark.parametrize('info, words', [
    (dict(input=['a', None, 1, 1]), r"input\[0\] is 'a'"), (dict(task='x'), 'task is'),
    (dict(preprocess=0), 'preprocess is 0'), (dict(outputs='logits'), 'outputs is')])
def test_wrong_metadata_of_an_onnx_file(info, words, make, tmp_path):
    need('onnxruntime')
    file, engine = tmp_path / 'x.onnx', ENGINES['onnxruntime']
    export.write_file(engine, export.make_graph(make('classifier')),
                      Settings((1, 3, 64, 64)), file)
    engine.write_info(file, dict(engine.info(file), **info))
    with pytest.raises(ValueError, match=rf'metadata of .*x\.onnx does not .*{words}'):
        load(file)


def test_a_file_that_does_not_load_is_refused(make, tmp_path):
    """As the check finds it, in a process of its own."""
    need('ncnn')
    engine, file = ENGINES['ncnn'], tmp_path / 'x.param'
    graph = export.make_graph(make('classifier'))
    export.write_file(engine, graph, Settings((1, 3, 64, 64)), file)
    file.write_text(file.read_text().replace('Swish ', 'Swash '))
    engine.write_info(file, export.describe(graph, Settings((1, 3, 64, 64))))
    with pytest.raises(ExportError, match=r'it does not load: .*ncnn does not know'):
        check.run_exported(file, [noise(1, 64, 64)])


@pytest.mark.parametrize('name', ENGINES)
def test_missing_package(name, monkeypatch):
    for module in ENGINES[name].modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install -e '\.\[{name}\]'"):
        ENGINES[name].check(Settings((1, 3, 64, 64)))


@pytest.mark.parametrize('name, settings, words', [
    ('litert', dict(dynamic=['batch']), '--dynamic batch cannot be .* litert, .* none'),
    ('ncnn', dict(dynamic=['batch']), '--dynamic batch cannot be .* supports none'),
    ('ncnn', dict(precision='int8'),
     '--precision int8 cannot be .* supports fp32, fp16'),
    ('ncnn', dict(shape=(2, 3, 64, 64)), '--batch-size is 2, but ncnn takes one image'),
    ('mnn', dict(precision='int8', dynamic=['size']), 'leave --dynamic size out'),
])
def test_what_an_engine_cannot(name, settings, words, monkeypatch):
    monkeypatch.setattr(ENGINES[name], 'modules', ())
    with pytest.raises(ValueError, match=words):
        ENGINES[name].check(Settings(**dict(dict(shape=(1, 3, 64, 64)), **settings)))


def test_raw_boxes_are_of_one_size(make):
    with pytest.raises(ValueError, match='--dynamic size needs an engine with NMS in'):
        export.make_graph(make('ssdlite'), ['size'], selects_boxes=False)


@pytest.mark.parametrize('change', [
    {}, dict(nms_pre=20), dict(max_per_img=3), dict(score_thr=0.6),
    dict(nms=dict(type='nms', iou_threshold=0.3, class_agnostic=True))])
@pytest.mark.parametrize('task', ['ssdlite', 'retinanet'])
def test_selection_is_that_of_mmdet(task, change, make):
    model = make(task)
    model.bbox_head.test_cfg.update(change)
    graph = export.make_graph(model, selects_boxes=False)
    images = noise(2, 64, 96)
    with torch.no_grad():
        boxes, scores = graph(images)
        expected = graph.reference(model, images)
    settings = json.loads(json.dumps(graph.select(images.shape)))
    rows = [select_boxes(*pair, **settings)
            for pair in zip(boxes.numpy(), scores.numpy())]
    got = [torch.from_numpy(np.stack(column)) for column in zip(*rows)]
    assert (expected[1] >= 0).sum() > 2
    assert torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-4)


def test_selection_of_nothing():
    dets, labels = select_boxes(np.zeros((3, 4), np.float32), np.zeros((3, 2)), [2, 1],
                                5, 0.1, 0.5, 4)
    assert not dets.any() and (labels == -1).all() and dets.shape == (4, 5)


@pytest.mark.parametrize('normalize', ['size', 'rms'])
@pytest.mark.parametrize('order', ['channel', 'spatial'])
def test_light_nl_in_an_exported_graph(normalize, order):
    """It has no slice with a step and no where, and computes the same."""
    x = torch.randn(2, 8, 7, 9)
    expected = light_nl(x, 4, 2, order, normalize=normalize)

    def branch(x):
        return light_nl(x, 4, 2, order, normalize=normalize)

    traced = torch.jit.trace(branch, x)
    torch.testing.assert_close(traced(x), expected)
    assert 'max_pool2d' in str(traced.graph) and 'aten::where' not in str(traced.graph)

    class Module(nn.Module):

        def forward(self, x):
            return branch(x)

    program = torch.export.export(Module(), (x, ))
    torch.testing.assert_close(program.module()(x), expected)
    assert 'max_pool2d' in str(program.graph) and 'slice' not in str(
        [n.target for n in program.graph.nodes if n.args[-1:] == (2, )])
    # zeros stay zeros
    assert not traced(torch.zeros_like(x)).any()


@pytest.mark.parametrize('normalize', ['size', 'rms'])
@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('stride', [1, 2])
def test_light_nl_for_xnnpack(normalize, order, stride):
    """It computes the same without operators that XNNPACK does not have."""
    layer = LightNL(8, 0.5, stride, order, normalize, zero_init=False).eval()
    x = torch.randn(2, 8, 7, 9)
    with torch.no_grad(), for_xnnpack():
        program = torch.export.export(layer, (x, ))
        torch.testing.assert_close(layer(x), program.module()(x))
    torch.testing.assert_close(program.module()(x), layer(x))
    assert not program.module()(torch.zeros_like(x)).any()
    names = {str(node.target).split('.')[1] for node in program.graph.nodes
             if node.op == 'call_function'}
    assert 'bmm' in names
    assert not names & {'amax', 'sum', 'max_pool2d', 'where', 'permute'}


def test_config_of_a_file_without_preprocessing(make, tmp_path):
    """The model of tools/test.py then does what the config's preprocessor does."""
    from mmengine.registry import MODELS
    from mmpretrain.structures import DataSample
    model, file = make('classifier'), tmp_path / 'x.onnx'
    run_export('onnxruntime', model, file, preprocess=False)
    cfg = Config(copy.deepcopy(CONFIGS['classifier'])).model
    cfg.backbone.normalize = 'rms'
    results = []
    for net in model, MODELS.build(dict(
            type='autonl_mm.EngineModel', file=str(file), model=cfg)):
        results.append(net.test_step(dict(
            inputs=list(noise(3, 64, 96).byte()),
            data_samples=[DataSample() for _ in range(3)])))
    for a, b in zip(*results):
        torch.testing.assert_close(a.pred_score, b.pred_score, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', [n for n in ALL if n != 'onnxruntime'][:-1]
                         + ['onnxruntime'])
def test_snippet_of_the_page(name, make, tmp_path, monkeypatch):
    """The page's Python code runs an exported model without this project."""
    need(name)
    ending = ENGINES[name].ending
    snippet, = (s for s in snippets(ROOT / 'docs/deployment.md', 'py')
                if f"'x{ending}'" in s)
    model = make('classifier')
    export.write_file(ENGINES[name], export.make_graph(model), Settings((1, 3, 64, 64)),
                      tmp_path / f'x{ending}')
    image = noise(1, 64, 64)[0]
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('image.jpg', image.permute(1, 2, 0).byte().numpy())
    image = torch.from_numpy(cv2.imread('image.jpg')).permute(2, 0, 1)[None].float()
    names = {}
    exec(snippet, names)
    _, (expected, ) = reference(model, image)
    got = torch.as_tensor(np.asarray(names['logits'])).reshape(expected.shape)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_models_are_left_as_they_are(make):
    model = make('classifier')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    graph = export.make_graph(model, ['size'])
    assert {m.order for m in graph.modules() if isinstance(m, LightNL)} == {'channel'}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_label_maps_are_of_one_type():
    """Engines have them in 32 or 64 bits."""
    for dtype in np.int32, np.int64:
        session = Session(
            dict(input=[1, 3, 4, 4], outputs=['labels']),
            lambda images, dtype=dtype: [np.zeros(images.shape[::2], dtype)])
        assert session(torch.zeros(2, 3, 4, 4))[0].dtype == torch.long
