# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""No entry of the five libraries or of our tools runs a checkpoint's config text."""

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error, run_tool
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule
from mmengine.registry import MODELS, Registry, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.runner import load_checkpoint as load_into_model
from test_checkpoint import ToyModel, build_runner

from autonl_mm import checkpoint
from autonl_mm.runs.checkpoints import config_text
from autonl_mm.runs.checkpoints.config_text import (
    UnsafeCheckpointError,
    check_buildable,
    config_texts,
    drop_config_texts,
    inference_settings,
    parse_config_text,
)

checkpoint.install()

PLACES = ['meta.config', 'meta.cfg', 'message_hub.runtime_info.cfg']
# Each runs a command where {} is one.
HOSTILE = {
    'import': 'import os\nos.system({!r})',
    'call': '__import__("os").system({!r})',
    'in a dict': 'model = dict(a=[__import__("os").system({!r})])',
    'alias': 'dict = eval\nx = dict("__import__(\'os\').system(" + repr({!r}) + ")")',
    'redefined': 'dict = eval\nx = dict({!r})',
    'comprehension': 'x = [__import__("os").system(c) for c in [{!r}]]',
    'f-string': 'x = f"{{__import__(\'os\').system({!r})}}"',
    'lambda': 'x = (lambda: __import__("os").system({!r}))()',
    'decorator': '@(lambda f: __import__("os").system({!r}))\ndef f(): pass',
    'default': 'def f(a=__import__("os").system({!r})): pass',
    'class': 'class A:\n    __import__("os").system({!r})',
    'subscript': 'x = {{}}[__import__("os").system({!r})]',
    'base': '_base_ = [{!r}]',
    'star': 'x = [*[__import__("os").system({!r})]]',
    'walrus': 'x = (y := __import__("os").system({!r}))',
}


def hostile_text(kind, sentinel):
    command = f'touch {sentinel}'
    if kind == 'redefined':
        command = f'open({str(sentinel)!r}, "w")'
    if kind == 'base':
        evil = sentinel.with_name('evil.py')
        evil.write_text(f'open({str(sentinel)!r}, "w")')
        command = str(evil)
    return HOSTILE[kind].format(command)


def put(content, place, text):
    """Put a text into a checkpoint's content."""
    *keys, last = place.split('.')
    for key in keys:
        content = content.setdefault(key, {})
    content[last] = text


@pytest.fixture
def log(monkeypatch):
    """What is logged about config texts."""
    lines = []
    monkeypatch.setattr(
        config_text, 'print_log', lambda line, *args: lines.append(line))
    return lines


@pytest.fixture
def hostile(tmp_path):
    """Adds a text that creates a file to a checkpoint; checks that it did not run."""
    sentinel = tmp_path / 'ran'

    def make(content, place='meta.config', kind='call'):
        put(content, place, hostile_text(kind, sentinel))
        path = tmp_path / 'hostile.pth'
        torch.save(content, path)
        return str(path)

    yield make
    assert not sentinel.exists(), 'code of the checkpoint ran'


# mmengine takes a text with imports for a lazy config and runs no call of it; other
# programs that read it do.
@pytest.mark.parametrize('kind', [k for k in HOSTILE if k not in ('base', 'import')])
def test_hostile_texts_are_hostile(tmp_path, kind):
    """Executed as mmengine does, each creates its file."""
    sentinel = tmp_path / 'ran'
    path = tmp_path / 'config.py'
    path.write_text(hostile_text(kind, sentinel))
    try:
        Config.fromfile(path)
    except Exception:
        pass
    assert sentinel.exists()


# A text is not needed to use the weights, and configs of honest programs are code too.
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('kind', HOSTILE)
def test_dropped_when_loaded(hostile, log, place, kind):
    path = hostile(dict(state_dict=dict(w=torch.ones(1))), place, kind)
    content = CheckpointLoader.load_checkpoint(path)
    assert content['state_dict']['w'] == 1
    line, = log
    assert path in line and place in line and 'line ' in line and '\n' not in line
    (_, node, key), = config_texts(content)
    with pytest.raises(SyntaxError):
        compile(node[key], '', 'exec')
    with pytest.raises(UnsafeCheckpointError, match=r'line .*hostile\.pth.*as a file'):
        Config.fromstring(node[key], file_format='.py')
    # saved and loaded again, nothing new is said
    torch.save(content, path)
    again = CheckpointLoader.load_checkpoint(path)
    assert list(config_texts(again)) == list(config_texts(content))
    assert len(log) == 1


@pytest.mark.parametrize('kind', HOSTILE)
def test_refused_as_text(tmp_path, kind):
    """What mmengine calls with a checkpoint's text."""
    sentinel = tmp_path / 'ran'
    with pytest.raises(UnsafeCheckpointError, match='as data'):
        Config.fromstring(hostile_text(kind, sentinel), file_format='.py')
    assert not sentinel.exists()


# All ways to load a checkpoint, which is valid except for its text.


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('whole')
    build_runner(work_dir, 1).train()
    return work_dir / 'epoch_1.pth'


def load_whole(whole):
    return torch.load(whole, weights_only=False)


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('resume', [True, False], ids=['resume', 'load_from'])
def test_runner(whole, hostile, tmp_path, resume, place):
    """Only a resume reads a text, and only the one in meta.config."""
    runner = build_runner(
        tmp_path / 'run', 2, load_from=hostile(load_whole(whole), place), resume=resume)
    if resume and place == 'meta.config':
        with pytest.raises(UnsafeCheckpointError, match=r'hostile.*as a file'):
            runner.train()
        return
    runner.train()
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert saved['meta']['epoch'] == 2
    assert not any('touch' in node[key] and not node[key].startswith('<dropped>')
                   for _, node, key in config_texts(saved))


def test_resume_takes_the_number_of_gpus(whole, tmp_path):
    content = load_whole(whole)
    content['meta']['config'] = 'gpu_ids = range(4)\n'
    path = tmp_path / 'several.pth'
    torch.save(content, path)
    with pytest.raises(UnsafeCheckpointError, match=r'line 1: range\(4\)'):
        build_runner(tmp_path / 'a', 2, load_from=str(path), resume=True).train()
    content['meta']['config'] = 'gpu_ids = [0, 1, 2, 3]\n'
    torch.save(content, path)
    with pytest.raises(RuntimeError, match='Number of GPUs'):
        build_runner(tmp_path / 'b', 2, load_from=str(path), resume=True).train()


def test_init_cfg(hostile):
    module = BaseModule(dict(
        type='Pretrained', checkpoint=hostile(dict(state_dict=dict(
            weight=torch.ones(1)))), prefix=None))
    module.weight = torch.nn.Parameter(torch.zeros(1))
    module.init_weights()
    assert module.weight == 1


def test_average(whole, hostile, tmp_path):
    """mmengine's EMA hook is given the checkpoint after it was loaded."""
    content = load_whole(whole)
    assert 'ema_state_dict' in content
    runner = build_runner(tmp_path / 'run', 2, resume=True,
                          load_from=hostile(content, 'message_hub.runtime_info.cfg'))
    assert any(isinstance(hook, EMAHook) for hook in runner.hooks)
    runner.train()
    assert runner.epoch == 2


def test_load_into_model(hostile):
    state = {k: torch.ones_like(v) for k, v in ToyModel().state_dict().items()}
    model = ToyModel()
    load_into_model(model, hostile(dict(state_dict=state)))
    assert all((v == 1).all() for v in model.state_dict().values())


CONFIGS = dict(
    mmpretrain='mmpretrain/autonl-s_2xb128_cifar10.py',
    mmdet='mmdet/retinanet_autonl-s_fpn_1x_coco.py',
    mmseg='mmseg/autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py')


def build(name):
    """Config and state dict of a library's model."""
    cfg = Config.fromfile(ROOT / 'configs' / CONFIGS[name])
    init_default_scope(cfg.default_scope)
    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    return cfg, MODELS.build(cfg.model).state_dict()


def inferencer(name, weights, config=None):
    if name == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer
        return ImageClassificationInferencer(
            str(config), pretrained=weights, device='cpu')
    if name == 'mmdet':
        from mmdet.apis import DetInferencer
        return DetInferencer(config, weights=weights, device='cpu')
    from mmseg.apis import MMSegInferencer
    return MMSegInferencer(config, weights=weights, device='cpu')


@pytest.mark.parametrize('name', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('place', PLACES)
def test_inferencers_of_hostile_files(scope, hostile, name, place):
    """They ask for a config."""
    error, match = UnsafeCheckpointError, r'hostile.*as a file'
    if place == 'meta.config':  # which they do not use
        error, match = ValueError, 'Cannot find the config'
    with pytest.raises(error, match=match):
        inferencer(name, hostile(dict(state_dict={}), place))


@pytest.mark.parametrize('name', CONFIGS)
def test_inferencers_of_hostile_files_with_a_config(scope, hostile, name):
    """They use the weights."""
    cfg, state = build(name)
    config = hostile(dict(state_dict=state), PLACES[2]).replace('.pth', '.py')
    cfg.dump(config)
    model = inferencer(name, config.replace('.py', '.pth'), config).model
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize('name', CONFIGS)
def test_every_text_that_our_configs_give_is_read(scope, name):
    """By the rules for data, and as the config itself says."""
    folder = ROOT / 'configs' / name
    # the others differ in numbers and names
    for path in sorted({*folder.glob('*autonl-s*'), *folder.glob('*supernet*')}):
        cfg = Config.fromfile(path)
        init_default_scope(cfg.default_scope)
        settings = parse_config_text(cfg.pretty_text)
        assert Config(settings).to_dict() == cfg.to_dict()
        assert inference_settings(settings)['model']['type'] == cfg.model.type


def test_libraries_own_configs_are_buildable(scope):
    """Types by scope, by whole import path, and with a slash; strings that look like
    paths or modules and are none."""
    init_default_scope('mmpretrain')
    check_buildable(dict(type='torchvision/Resize'))
    init_default_scope('mmdet')
    check_buildable(dict(a=[
        dict(type='mmdet.RetinaNet'), dict(type='mmdet.models.RetinaNet'),
        dict(type='mmpretrain.torchvision/Resize'), dict(type='RoIAlign'),
        dict(type='torch.nn.modules.activation.ReLU'), dict(type='nms'),
        dict(type='mmcv.transforms.LoadImageFromFile'), dict(type='conv'),
        dict(type='autonl_mm.AutoNL'), dict(dtype='float32', _scope_='mmdet'),
        dict(arch='regnetx_1.6gf'), dict(arch='768/32'), dict(target=r'layers\.\d'),
        dict(warp_mode='cv2.MOTION_EUCLIDEAN'), dict(mode='random'), dict(a='os')]))


def test_types_of_the_process_are_buildable():
    """What the caller registered, with the caller's scope."""
    own = Registry('model', parent=MODELS, scope='own_scope')
    try:
        own.register_module(name='Own', module=ToyModel)
        check_buildable(dict(type='own_scope.Own', _scope_='own_scope'))
        with pytest.raises(UnsafeCheckpointError, match='Other'):
            check_buildable(dict(type='own_scope.Other'))
    finally:
        del MODELS.children['own_scope']


@pytest.mark.parametrize('text', [
    'model = dict(type="A", dtype=torch.float32)\nn = inf\n', 'a = 1 +', '\0',
    'load <function f at 0x7f>', 'out = range(4)\n', 'yolov5s.yaml',
    "a = 1\nb = f'{a}'", 'a = lambda x: max(x, 1)', "a = PosixPath('x')"])
def test_odd_texts_do_not_keep_weights_from_loading(tmp_path, text):
    path = tmp_path / 'a.pth'
    torch.save(dict(meta=dict(cfg=text), state_dict=dict(a=1)), path)
    content = CheckpointLoader.load_checkpoint(str(path))
    assert content['meta']['cfg'].startswith('<dropped>')
    assert content['state_dict'] == dict(a=1)


@pytest.mark.parametrize(('text', 'settings'), [
    ('', {}), ('n = -inf\n', dict(n=float('-inf'))),
    ("a = dict({'.b': dict({'c d': 1}), 'e': [dict({1: 2})]})",
     dict(a={'.b': {'c d': 1}, 'e': [{1: 2}]})),
    ("a = dict({'b': 1}, c=2)", dict(a=dict(b=1, c=2)))])
def test_data_is_kept(tmp_path, text, settings):
    path = tmp_path / 'a.pth'
    torch.save(dict(meta=dict(cfg=text)), path)
    assert CheckpointLoader.load_checkpoint(str(path))['meta']['cfg'] == text
    assert Config.fromstring(text, '.py').to_dict() == settings


@pytest.mark.parametrize('content', [
    dict(meta=None), dict(meta=dict(cfg=b'import os')), dict(message_hub=1), [], None,
    dict(meta=dict(cfg=dict(a=1))), dict(message_hub=dict(runtime_info=[]))])
def test_other_contents(content):
    drop_config_texts(content, 'a.pth')


@pytest.mark.parametrize('text', ['(' * 10**5, '[' * 150 + ']' * 150, '-' * 10**5 + '1',
                                  'x = ' + '1,' * 3 * 10**6])
def test_bombs_end_early(text):
    """At once, with a message, whether loaded or parsed."""
    content = dict(meta=dict(cfg=text))
    drop_config_texts(content, 'a.pth')
    assert len(content['meta']['cfg']) < 200
    with pytest.raises(UnsafeCheckpointError):
        parse_config_text(text)


DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(st.text() | st.integers(), inner))


@given(DATA)
def test_data_is_read_as_it_was_written(value):
    assert parse_config_text(f'x = {value!r}') == dict(x=value)


@given(st.text())
@example('~0')
@example('x = 1 if a else not b')
def test_any_text_is_read_or_refused(text):
    try:
        parse_config_text(text)
    except UnsafeCheckpointError as e:
        assert 'nothing of it was run' in str(e)
        content = dict(meta=dict(cfg=text))
        drop_config_texts(content, 'a.pth')
        assert content['meta']['cfg'].startswith('<dropped>')


DEMO = 'configs/mmpretrain/autonl-s_2xb128_cifar10.py'
SEARCH = 'configs/mmpretrain/autonl-supernet_1xb32_cifar10.py'
TOOLS = {
    'tools/export_arch.py': [SEARCH, '{}', '--out', '{dir}/arch.txt'],
    'tools/model_converters/publish_model.py': ['{}', '{dir}/a.pth'],
    'tools/model_converters/autonl_to_mm.py': ['{}', '{dir}/a.pth', '--arch', 's'],
    'tools/deployment/export.py': [DEMO, '{}', '--out', '{dir}/a.onnx'],
    'tools/analysis_tools/show_attention.py': [
        '{dir}/a.jpg', DEMO, '{}', '--layer', 'backbone.layers.2.0.light_nl',
        '--points', '9,9', '--out', '{dir}/b.jpg'],
}


@pytest.mark.parametrize('path', TOOLS)
def test_tools(scope, monkeypatch, hostile, log, tmp_path, path):
    """They load the weights, which do not fit, and run nothing."""
    monkeypatch.chdir(ROOT)
    cv2.imwrite(str(tmp_path / 'a.jpg'), np.zeros((64, 64, 3), np.uint8))
    weights = hostile(dict(state_dict=dict(a=torch.ones(1))))
    args = [a.format(weights, dir=tmp_path) for a in TOOLS[path]]
    if 'publish' in path:
        call_main(monkeypatch, load_tool(path), *args)
    else:
        main_error(monkeypatch, load_tool(path), *args)
    assert [line.startswith(weights) for line in log] == [True]


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_training_and_testing(tiny_search, hostile, tmp_path, tool):
    """As above, in processes of their own."""
    weights = hostile(dict(state_dict={}, meta=dict(epoch=1, iter=1)))
    args = ['--resume', weights] if tool == 'train' else [weights]
    result = run_tool(
        f'tools/{tool}.py', tiny_search, *args, '--work-dir', tmp_path, check=False)
    assert result.returncode == 1
    assert f'{weights}: the config text in its meta.config is dropped' in result.stdout
