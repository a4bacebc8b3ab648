# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""An inferencer given weights alone reads no file and opens no connection for them.

A checkpoint whose tensors are harmless asks for it in its config text.
"""
import contextlib
import copy
import socket
import sys
import threading

import mmengine
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.apis import DetInferencer
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.apis import MMSegInferencer
from tiny_models import CONFIGS
from yaml.constructor import ConstructorError

from autonl_mm import checkpoint
from autonl_mm.runs.checkpoints import UnsafeCheckpointError
from autonl_mm.runs.checkpoints.config_text import inference_settings

checkpoint.install()

CLASSES = dict(classes=('a', 'b', 'c'), palette=[(0, 0, 0), (9, 9, 9), (5, 5, 5)])
SEGMENTOR = dict(
    inferencer=MMSegInferencer, model=CONFIGS['segmentor']['model'],
    dataset='CityscapesDataset', visualizer='SegLocalVisualizer',
    annotations=dict(type='LoadAnnotations'), pack=dict(type='PackSegInputs'))
DETECTOR = dict(
    inferencer=DetInferencer, model=CONFIGS['retinanet']['model'],
    dataset='CocoDataset', visualizer='DetLocalVisualizer',
    annotations=dict(type='LoadAnnotations', with_bbox=True),
    pack=dict(type='PackDetInputs', meta_keys=(
        'img_path', 'ori_shape', 'img_shape', 'scale_factor')))
PRETRAINED = dict(type='Pretrained', checkpoint='torchvision://resnet50')

events = []  # of the block that is watched
watching = False


def _hook(event, args):
    if watching and event in ('open', 'import', 'socket.connect', 'socket.getaddrinfo'):
        events.append((event, *map(str, args)))


sys.addaudithook(_hook)


@contextlib.contextmanager
def watch():
    global watching
    events.clear()
    watching = True
    try:
        yield
    finally:
        watching = False


@pytest.fixture
def port():
    """A server on this machine; nobody may connect to it."""
    connections = []
    with socket.create_server(('127.0.0.1', 0)) as server:
        def count():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept())

        threading.Thread(target=count, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    assert not connections


@pytest.fixture
def folder(tmp_path, port, monkeypatch):
    """The working directory, with files that a text could name."""
    sentinel = tmp_path / 'ran'
    code = f'open({str(sentinel)!r}, "w")'
    document = f'!!python/object/apply:builtins.open [{sentinel}, w]'
    for name in ('w.yaml', 'yaml'):
        (tmp_path / name).write_text(document)
    for name in ('evil.py', 'inner/evil.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    for name in ('names', 'names.txt', 'arch'):
        (tmp_path / name).write_text('x\ny\nz\n')
    np.save(tmp_path / 'w.npy', np.ones(3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert not sentinel.exists(), 'code ran'
    assert not {'evil', 'this', 'antigravity', 'mailcap'} & {*sys.modules}


def make_config(kind):
    pipeline = [dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(64, 64), keep_ratio=True),
                kind['annotations'], kind['pack']]
    return Config(copy.deepcopy(dict(
        default_scope='mmseg' if kind is SEGMENTOR else 'mmdet', model=kind['model'],
        test_pipeline=pipeline, test_dataloader=dict(
            dataset=dict(type=kind['dataset'], pipeline=pipeline)),
        visualizer=dict(type=kind['visualizer'], name='visualizer'))))


def save(kind, cfg, path):
    """A checkpoint of a random model, with a config; returns the model."""
    init_default_scope('mmseg' if kind is SEGMENTOR else 'mmdet')
    model = MODELS.build(copy.deepcopy(kind['model']))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=CLASSES),
                    message_hub=dict(runtime_info=dict(cfg=cfg.pretty_text))), path)
    return model


def check_events(weights):
    """Only code of packages and the weights were read."""
    assert not [e for e in events if e[0].startswith('socket')]
    folder = str(weights.parent)
    assert not [e for e in events if e[0] == 'open' and e[1].startswith(folder)
                and e[1] != str(weights)]


@pytest.fixture
def infer(folder):
    """Changes a setting, saves the config with weights and gives them alone to an
    inferencer, with one image."""

    def run(kind, **changes):
        cfg = make_config(kind)
        cfg.merge_from_dict({k.replace('__', '.'): v for k, v in changes.items()})
        weights = folder / 'weights.pth'
        model = save(kind, cfg, weights)
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        with watch():
            inferencer = kind['inferencer'](None, str(weights), device='cpu')
            result = inferencer(image)
        check_events(weights)
        for name, value in inferencer.model.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])
        return inferencer, result

    return run


LOSS = 'model.decode_head.loss_decode.class_weight'
TYPES = [
    'this', 'this.x/y', 'this/x', 'antigravity', ' this', 'this ', '\uff54his',
    'this.x', 'evil', 'evil.x', 'inner/evil', 'inner/evil.x', 'mmseg.evil',
    'mmseg/../evil', '.evil', 'NoSuchClass', 'mailcap.Cap', 'os.system',
    'mmengine.load', 'mmengine.utils.package_utils.call_command',
    'mmengine.runner.Runner', 'Runner',
    'mmseg.apis.MMSegInferencer', 'MMSegInferencer', 'mmengine.WandbVisBackend',
    'mmengine.visualization.vis_backend.WandbVisBackend', 'open', 'eval', 'torch.load',
    'torch.hub.load', 'mmdet.BertModel', 'mmdet.models.language_models.bert.BertModel',
    'CityscapesDataset', 'mmcv.ops.nms.ext_loader', 'mmengine.registry.Registry',
]
REFUSED = [
    *[('model.backbone.type', name) for name in TYPES],
    *[(LOSS, value) for value in (
        '{dir}/w.yaml', 'w.yaml', './w.yaml', 'yaml', 'w.npy', 'file://{dir}/w.yaml',
        'http://127.0.0.1:{port}/w.yaml', 's3://bucket/w', 'C:\\w.yaml', b'w.yaml',
        ['w.yaml'], ('w.yaml', ), {'w.yaml'}, dict(a=dict(b=['w.yaml'])))],
    ('model.decode_head', dict(type='autonl_mm.EngineModel', file='a.onnx')),
    ('model.backbone.arch', '{dir}/arch'), ('model.backbone.arch', 'arch'),
    ('model.backbone.norm_cfg', dict(type='this')),
    ('model.backbone.norm_layer', 'antigravity'),
    ('model.decode_head._scope_', 'this'), ('model._scope_', 'mailcap'),
    ('default_scope', 'this'), ('default_scope', 'evil'),
    ('model.decode_head.nested', [({'type': 'this'}, ), {'a': [dict(type='evil.x')]}]),
    ('model.teacher_config', 'configs/teacher.py'), ('model.ans2label', 'a/b.pkl'),
    ('model.answer_list_path', 'http://127.0.0.1:{port}/a.json'),
    ('model.checkpoint', 'http://127.0.0.1:{port}/x.pth'),
    ('model.tokenizer', dict(type='AutoTokenizer', name_or_path='bert-base-uncased')),
    ('model.trust_remote_code', True),
    ('test_pipeline.0.dtype', 'int, open("ran", "w")'),
    ('model.test_cfg.nms.type', '__import__("os").system("touch ran")'),
    ('test_pipeline.0.warp_mode', '__import__("this")'),
    ('test_dataloader.dataset.pipeline.1.type', 'this'),
    ('visualizer.type', 'this.x/y'), ('data_preprocessor', dict(type='evil.x')),
]


@pytest.mark.parametrize(('key', 'value'), REFUSED)
def test_what_could_read_or_import_is_refused(folder, port, key, value):
    def fill(value):
        if isinstance(value, str):
            return value.replace('{dir}', str(folder)).replace('{port}', str(port))
        return value

    cfg = make_config(SEGMENTOR)
    cfg.merge_from_dict({key: fill(value)})
    weights = folder / 'weights.pth'
    save(SEGMENTOR, cfg, weights)
    with watch(), pytest.raises(UnsafeCheckpointError, match='nothing was built') as e:
        MMSegInferencer(None, str(weights), device='cpu')
    assert str(weights) in str(e.value) and f'{key}' in str(e.value)
    assert '\n' not in str(e.value)
    check_events(weights)


DROPPED = {
    'weights': dict(
        model__init_cfg=PRETRAINED, model__backbone__init_cfg=[PRETRAINED],
        model__pretrained='torchvision://resnet50',
        model__backbone__pretrained='open-mmlab://resnet50_v1c',
        load_from='http://127.0.0.1:{port}/x.pth', resume=True),
    'files': dict(
        test_pipeline__0__backend_args=dict(backend='memcached', sys_path='inner'),
        test_dataloader__dataset__data_root='/data',
        test_dataloader__dataset__ann_file='names.txt',
        test_dataloader__dataset__indices='names',
        test_dataloader__dataset__pipeline={'0': dict(backend_args=dict(
            backend='memcached', server_list_cfg='a', client_cfg='b',
            sys_path='inner'))},
        test_dataloader__dataset__metainfo=dict(
            classes='names', palette='names.txt', other='names'),
        test_dataloader__collate_fn='this.x', train_dataloader=dict(dataset='evil.py')),
    'writers': dict(
        visualizer__save_dir='out', work_dir='out',
        visualizer__vis_backends=[dict(type='WandbVisBackend', save_dir='out')]),
    'code': dict(
        custom_imports=dict(imports=['evil', 'this'], allow_failed_imports=False),
        imports=['evil'], custom_hooks=[dict(type='evil.x')]),
}


@pytest.mark.parametrize('kind', [SEGMENTOR, DETECTOR], ids=['segmentor', 'detector'])
@pytest.mark.parametrize('what', DROPPED)
def test_what_is_not_needed_is_dropped(infer, folder, kind, what):
    path = list(sys.path)
    inferencer, result = infer(kind, **DROPPED[what])
    assert len(result['predictions'])
    if kind is DETECTOR:
        palette = inferencer.model.dataset_meta['palette']
        assert palette == CocoDataset.METAINFO['palette']
    assert sys.path == path and not (folder / 'out').exists()
    assert 'init_cfg' not in str(inferencer.cfg)


def test_the_text_that_is_data_is_taken(folder):
    """A resumed run keeps the first run's text in its message hub."""
    weights = folder / 'weights.pth'
    save(SEGMENTOR, make_config(SEGMENTOR), weights)
    content = torch.load(weights, weights_only=False)
    runtime_info = content['message_hub']['runtime_info']
    content['meta']['cfg'] = runtime_info['cfg']
    runtime_info['cfg'] = "path = PosixPath('a')"
    torch.save(content, weights)
    MMSegInferencer(None, str(weights), device='cpu')


KEYS = st.sampled_from([
    'model', 'test_dataloader', 'dataset', 'pipeline', 'metainfo', 'visualizer', 'type',
    '_scope_', 'default_scope', 'init_cfg', 'dtype', 'a'])
SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary()
    | st.sampled_from(TYPES + ['mmseg', 'mmseg.CityscapesDataset', 'BN', 'nms']),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(KEYS, inner))


@settings(suppress_health_check=[
    HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(values=st.dictionaries(KEYS, SETTINGS))
def test_any_settings_are_taken_or_refused(folder, values):
    with contextlib.suppress(UnsafeCheckpointError):
        inference_settings(dict(values, model={**values, 'backbone': values}))


def test_yaml_files_run_no_code(folder):
    for name in ('w.yaml', 'w.yml'):
        (folder / name).write_text((folder / 'w.yaml').read_text())
        with pytest.raises(ConstructorError, match=r'apply:builtins\.open'):
            mmengine.load(folder / name)
    with open(folder / 'w.yaml') as file, pytest.raises(ConstructorError):
        mmengine.load(file, file_format='yaml')
    for tag in ('name:os.system', 'module:this', 'object:evil.X {}'):
        (folder / 'a.yaml').write_text(f'a: !!python/{tag}')
        with pytest.raises(ConstructorError):
            mmengine.load(folder / 'a.yaml')


def test_yaml_files_of_mmengine_are_read(folder):
    cfg = make_config(DETECTOR)
    cfg.numbers = dict(a=(1, (2.5, None)), b={3}, c='x', d=[True, -1e-3])
    cfg.dump('cfg.yaml')
    assert Config.fromfile('cfg.yaml').to_dict() == cfg.to_dict()
    assert 'rtmdet_s_8xb32-300e_coco' in DetInferencer.list_models('mmdet')
