# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import re
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import call_main, load_tool, main_error, tiny_cifar
from mmengine.config import Config
from tiny_models import noise

from autonl_mm.deploy import load
from autonl_mm.export import export, quantize
from autonl_mm.export.engines import DYNAMIC, ENGINES, Session, Settings
from autonl_mm.export.engines.base import usual_range
from autonl_mm.export.engines.onnx_graph import operators
from autonl_mm.export.engines.onnx_int8 import METHODS
from autonl_mm.export.images import config_images
from autonl_mm.runs import configs
from autonl_mm.runs.atomic_files import atomic_write

tool = load_tool('tools/deployment/quantize_onnx.py')
test_tool = load_tool('tools/test.py')


def write(graph, file, batch_size=1, **settings):
    export.write_file(ENGINES['onnxruntime'], graph,
                      Settings((batch_size, 3, 64, 64), **settings), file)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory, image_folder):
    """Folder with config and ONNX file of a tiny classifier of dark and bright
    images."""
    folder = tmp_path_factory.mktemp('classifier')
    cfg = tiny_cifar(image_folder)
    torch.manual_seed(0)
    model = configs.build_model(cfg)
    images = torch.stack(config_images(cfg, 'train_dataloader', 24))
    inputs = model.data_preprocessor(dict(inputs=images))['inputs']
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(inputs, mode='tensor')
        model.eval()
        # weights that separate the classes, instead of training
        feats, = model.extract_feat(inputs)
        bright = images.mean((1, 2, 3)) > 120
        axis = feats[bright].mean(0) - feats[~bright].mean(0)
        model.head.fc.weight.copy_(torch.stack([-axis, axis]))
        middle = (feats[bright].mean(0) + feats[~bright].mean(0)) / 2
        model.head.fc.bias.copy_(-model.head.fc.weight @ middle)
    cfg.dump(folder / 'config.py')
    graph = export.make_graph(model, ('batch', ))
    write(graph, folder / 'net.onnx', dynamic=('batch', ))
    for opset in (12, 13, 18):
        write(graph, folder / f'opset{opset}.onnx', dynamic=('batch', ), opset=opset)
    return folder


@pytest.fixture
def exported(classifier, tmp_path, scope):
    """Copies of the classifier's ONNX file and config."""
    for name in ('net.onnx', 'config.py'):
        shutil.copy(classifier / name, tmp_path)
    return tmp_path / 'net.onnx', tmp_path / 'config.py'


@pytest.mark.long
def test_before_and_after(exported, monkeypatch, tmp_path, capsys):
    file, config = exported
    call_main(monkeypatch, tool, file, config, '--num-samples', 16, '--rounds', 1,
              '--work-dir', tmp_path / 'work')
    out = capsys.readouterr().out
    values = re.findall(
        r'^\| (\S+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| [\d.]+ \| '
        r'accuracy/top1 ([\d.]+) \|$', out, re.M)
    assert [name for name, _ in values] == ['net.onnx', 'net-int8.onnx']
    assert all(float(value) >= 90 for _, value in values)
    assert 'calibrated (quantile) on 16 training images, 0 outliers' in out
    # the config of the model's training is not overwritten
    assert not list((tmp_path / 'work').glob('*.py'))
    assert (tmp_path / 'work' / 'net-int8' / 'config.py').exists()

    session = load(tmp_path / 'net-int8.onnx')
    assert session.batch is None and session.info['task'] == 'classification'
    model = onnx.load(tmp_path / 'net-int8.onnx')
    kinds = operators(model)
    assert kinds['DequantizeLinear'] and kinds['QuantizeLinear']
    # The inputs of the products in LightNL were never quantised.
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    products = [n for n in model.graph.node if n.op_type == 'MatMul']
    assert len(products) == 4
    assert not any(makers.get(i) == 'DequantizeLinear'
                   for n in products for i in n.input)
    # weights by channel
    axes = [len(t.dims) for t in model.graph.initializer if t.name.endswith('_scale')]
    assert 1 in axes


def test_all_of_light_nl(exported, scope):
    """--exclude without a value excludes nothing."""
    file, config = exported
    cfg = Config.fromfile(config)
    images = config_images(cfg, 'train_dataloader', 4)
    sessions = [load(file)]
    for exclude in (), ('light_nl', '/se/'):
        out = file.with_name(f'{len(exclude)}.onnx')
        atomic_write(out, quantize.quantize(str(file), images, exclude=exclude))
        sessions.append(load(out))
    assert sessions[2].info['quantised'] < sessions[1].info['quantised']
    logits = [session(torch.stack(images))[0] for session in sessions]
    for other in logits[1:]:
        assert not torch.equal(other, logits[0])
        assert torch.equal(other.argmax(1), logits[0].argmax(1))


@pytest.mark.parametrize('arguments, words', [
    (['--num-samples', 0], '--num-samples is 0, expected at least 1'),
    (['--rounds', 0], '--rounds is 0, expected at least 1'),
    (['--exclude', '.'], 'nothing is left to quantise'),
    (['--cfg-options', 'train_dataloader.dataset.data_root=no'], "'no' does not exist"),
])
def test_bad_input(arguments, words, exported, monkeypatch, tmp_path):
    message = main_error(monkeypatch, tool, *exported, '--no-eval', *arguments)
    assert words in message
    assert not (tmp_path / 'net-int8.onnx').exists()


def test_quantised_already(exported, monkeypatch):
    file, config = exported
    images = config_images(Config.fromfile(config), 'train_dataloader', 1)
    atomic_write(file, quantize.quantize(str(file), images))
    assert 'already quantised' in main_error(
        monkeypatch, tool, file, config, '--no-eval')


@pytest.mark.parametrize('opset', [12, 13, 18])
def test_opsets(opset, classifier, tmp_path, scope):
    """A file that runs, or an error that says with which opset there is one."""
    file = classifier / f'opset{opset}.onnx'
    images = config_images(
        Config.fromfile(classifier / 'config.py'), 'train_dataloader', 8)
    if opset < 13:
        with pytest.raises(ValueError, match=f'of opset {opset}, .*--opset 13'):
            quantize.quantize(str(file), images)
        return
    atomic_write(tmp_path / 'int8.onnx', quantize.quantize(str(file), images))
    before, after = (load(path)(torch.stack(images))[0]
                     for path in (file, tmp_path / 'int8.onnx'))
    assert (before.argmax(1) == after.argmax(1)).all()


def test_usual_range():
    """One image of twenty is beyond it; every tensor has its own."""
    high = np.arange(40, dtype=np.float32).reshape(20, 2)
    high[7] = 1e4
    low, top = usual_range(-high, high)
    assert top.tolist() == [38, 39] and low.tolist() == [-38, -39]
    assert top.dtype == np.float32


@pytest.mark.parametrize('method, same', [('quantile', True), ('minmax', False)])
def test_one_large_image_in_twenty(method, same, classifier, tmp_path, scope):
    """It does not take the steps from the others."""
    file = classifier / 'opset18.onnx'
    images = config_images(
        Config.fromfile(classifier / 'config.py'), 'train_dataloader', 20)
    before = load(file)(torch.stack(images))[0]
    calibration = [*images[:-1], images[-1].float() * 100]
    # usual_images would leave this image out for its logits
    atomic_write(tmp_path / 'int8.onnx',
                quantize.quantize(str(file), calibration, method))
    after = load(tmp_path / 'int8.onnx')(torch.stack(images))[0]
    error = (after - before).abs().mean() / before.abs().mean()
    assert (error < 0.2) == same


@pytest.fixture(scope='module')
def any_size(classifier):
    """The classifier's ONNX files for images of any size: of any number, and two."""
    model = configs.build_model(Config.fromfile(classifier / 'config.py'))
    for batch, dynamic in ((1, DYNAMIC), (2, ['size'])):
        write(export.make_graph(model, dynamic), classifier / f'any{batch}.onnx',
              batch, dynamic=dynamic)
    return classifier


@pytest.mark.parametrize('method, batch', [
    *((method, 1) for method in METHODS), ('quantile', 2)])
def test_images_of_several_sizes(method, batch, any_size, tmp_path):
    """Neither the calibrators of onnxruntime nor a batch take them."""
    file, out = any_size / f'any{batch}.onnx', tmp_path / 'int8.onnx'
    images = [noise(1, *size)[0] for size in ((64, 64), (64, 80), (96, 64), (64, 80))]
    usual = quantize.usual_images(load(file), images)
    assert {image.shape for image in usual} == {image.shape for image in images}
    atomic_write(out, quantize.quantize(str(file), usual, method))
    before, after = (torch.cat([load(f)(image[None])[0] for image in images])
                     for f in (file, out))
    assert 0 < (after - before).abs().mean() / before.abs().mean() < 0.5


def test_sizes_that_the_file_does_not_take(exported, monkeypatch, tmp_path):
    """They are named before anything is computed."""
    monkeypatch.setattr(tool, 'config_images',
                        lambda *args: [*noise(2, 64, 64), *noise(1, 64, 80)])
    monkeypatch.setattr(quantize, 'usual_images', None)
    message = main_error(monkeypatch, tool, *exported, '--no-eval')
    assert 'takes images of 64x64, got an image of 64x80: export with --dynamic size' \
        in message


def test_fewer_images_than_the_file_takes(exported):
    file, config = exported
    cfg = Config.fromfile(config)
    graph = export.make_graph(configs.build_model(cfg), ())
    write(graph, file, batch_size=2)
    images = config_images(cfg, 'train_dataloader', 1)
    with pytest.raises(ValueError, match=r'1 images .* at least 2'):
        quantize.quantize(str(file), images)


def test_missing_onnxruntime(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'pip install' in main_error(monkeypatch, tool, *exported)


def test_evaluated_by_test_py(exported, monkeypatch, tmp_path):
    file, config = exported
    metrics = tmp_path / 'metrics.json'
    call_main(monkeypatch, test_tool, config, file, '--work-dir',
              tmp_path / 'work', '--out', metrics, '--out-item', 'metrics')
    assert json.loads(metrics.read_text())['accuracy/top1'] >= 90
    file.write_bytes(b'not ONNX')
    assert 'does not load' in main_error(monkeypatch, test_tool, config, file)


@pytest.mark.parametrize('options, words', [
    (['--dtype', 'bfloat16'], ['--dtype bfloat16 does not apply to', 'net.onnx']),
    (['--amp'], ['--amp does not apply to', 'net.onnx']),
    (['--out', 'x.txt'], ["--out is 'x.txt'", '.pkl file for predictions']),
    (['--out', 'x.txt', '--out-item', 'metrics'],
     ["--out is 'x.txt'", '.json or .pkl file for metrics']),
    (['--out-item', 'metrics'], ['--out-item metrics needs --out']),
])
def test_options_that_do_not_apply(options, words, exported, monkeypatch):
    """They are refused before anything is read, the config too."""
    monkeypatch.setattr(test_tool.launch, 'load_config', None)
    file, config = exported
    message = main_error(monkeypatch, test_tool, config, file, *options)
    for word in words:
        assert word in message


def test_test_time_augmentation(exported, monkeypatch, tmp_path):
    """--tta works with an exported model, whose images have one size."""
    file, config = exported
    metrics = tmp_path / 'metrics.json'
    calls = []
    run = Session.__call__
    monkeypatch.setattr(
        Session, '__call__',
        lambda self, images: calls.append(images) or run(self, images))
    call_main(monkeypatch, test_tool, config, file, '--work-dir',
              tmp_path / 'work', '--out', metrics, '--out-item', 'metrics', '--tta')
    assert json.loads(metrics.read_text())['accuracy/top1'] >= 90
    # each batch as it is, then mirrored; first the two images of the dry run
    assert [len(images) for images in calls] == [2, 2, 4, 4, 4, 4]
    for plain, mirrored in zip(calls[::2], calls[1::2]):
        assert torch.equal(plain.flip(3), mirrored)


def test_no_option_for_mixed_precision(exported, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call_main(monkeypatch, tool, *exported, '--amp')
    assert 'unrecognized arguments: --amp' in capsys.readouterr().err


@pytest.mark.parametrize('batch', [None, 2])
def test_outliers_are_left_out(batch):
    class File:
        outputs = ('logits', )

        def __call__(self, images):
            assert len(images) <= (batch or 1)
            return [images.mean((2, 3))]

        info = dict(light_nl_scales=['paper'])

    File.batch = batch
    images = [torch.full((3, 4, 4), v)
              for v in (1., 2., 3., 29., 31., 1e12, float('nan'), float('inf'), 2., 1.)]
    sizes = [image[:, :3 + i % 2] for i, image in enumerate(images)]
    for given in images, sizes:
        kept = quantize.usual_images(File(), given)
        assert [p[0, 0, 0].item() for p in kept] == [1, 2, 3, 2, 1]
    with pytest.raises(ValueError, match='all 2 images are NaN or infinite'):
        quantize.usual_images(File(), images[6:8])
    # with the bounded LightNL there are none
    File.info = dict(light_nl_scales=['rms'])
    assert quantize.usual_images(File(), images) is images
    File.info = dict(light_nl_scales=['paper'])
    File.outputs = ('labels', )
    assert quantize.usual_images(File(), images) is images
