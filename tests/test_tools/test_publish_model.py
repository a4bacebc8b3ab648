# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Published weights, and what detectors and segmentors make of them."""
import hashlib
import re

import pytest
import torch
from conftest import ROOT, load_tool, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

from autonl_mm.runs.checkpoints import BrokenCheckpointError, load_checkpoint

publish = load_tool('tools/model_converters/publish_model.py')


@pytest.fixture(scope='module')
def trained(image_folder, tiny_search, tmp_path_factory):
    """Checkpoint of a training with averages, its config, its accuracy."""
    work_dir = tmp_path_factory.mktemp('published')
    config = tiny_search.parent / 'retrain.py'
    cfg = Config.fromfile(config)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.3)]
    cfg.model.backbone.arch = ['r1_k3_s22_e3_i16_o16_nonlocal', 'head32']
    cfg.dump(work_dir / 'config.py')
    out = run_tool('tools/train.py', work_dir / 'config.py', '--work-dir',
                   work_dir, '--cfg-options', 'train_cfg.max_epochs=1',
                   'train_cfg.val_interval=1', 'param_scheduler.total_steps=1')
    return work_dir / 'epoch_1.pth', work_dir / 'config.py', top1(out.stdout)


def top1(out):
    """The last accuracy that a tool printed."""
    return re.findall(r'accuracy/top1: ([\d.]+)', out)[-1]


def run(capsys, *args):
    publish.main([str(a) for a in args])
    return capsys.readouterr().out


def written(folder):
    return sorted(p for p in folder.iterdir() if p.is_file())


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_weights_and_nothing_else(trained, tmp_path, capsys):
    checkpoint = load_checkpoint(trained[0])
    assert {'optimizer', 'message_hub', 'ema_state_dict'} <= checkpoint.keys()
    out = run(capsys, trained[0], tmp_path / 'out/autonl.pth')
    path, = written(tmp_path / 'out')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'autonl-{digest[:8]}.pth'
    assert f'{path}: EMA weights' in out and digest in out
    assert 'optimizer' in out.splitlines()[0]

    # torch alone opens it
    content = torch.load(path, weights_only=True)
    assert list(content) == ['state_dict']
    state = content['state_dict']
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    # what mmengine evaluates are the averages, its hook swaps them
    assert_equal(state, checkpoint['state_dict'])
    name = 'backbone.layers.0.conv.weight'
    raw = checkpoint['ema_state_dict'][f'module.{name}']
    assert not torch.equal(state[name], raw)
    assert path.stat().st_size < trained[0].stat().st_size / 3


def test_safetensors(trained, tmp_path, capsys):
    state = load_checkpoint(trained[0])['state_dict']
    run(capsys, trained[0], tmp_path / 'a.safetensors')
    run(capsys, trained[0], tmp_path / 'b.pth', '--safetensors')
    first, = tmp_path.glob('a-*')
    pth, = tmp_path.glob('b-*.pth')
    second, = tmp_path.glob('b-*.safetensors')
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert first.name == f'a-{digest[:8]}.safetensors'
    assert second.name == f'b-{digest[:8]}.safetensors'
    assert len(written(tmp_path)) == 3
    for path in (first, pth):
        loaded = CheckpointLoader.load_checkpoint(str(path))
        assert_equal(loaded['state_dict'], state)
    from safetensors.torch import load_file
    assert_equal(load_file(first), state)

    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(BrokenCheckpointError, match='truncated'):
        load_checkpoint(first)


def test_published_again_is_the_same(trained, tmp_path, capsys):
    run(capsys, trained[0], tmp_path / 'a.pth')
    path, = written(tmp_path)
    run(capsys, path, tmp_path / 'a.pth')
    assert written(tmp_path) == [path]


@pytest.mark.parametrize('extension', ['.pth', '.safetensors'])
def test_evaluation_of_published_weights(trained, extension, tmp_path, capsys):
    """What the training measured, by the config that trained."""
    run(capsys, trained[0], tmp_path / f'x{extension}')
    path, = written(tmp_path)
    out = run_tool('tools/test.py', trained[1], path, '--work-dir', tmp_path)
    assert top1(out.stdout) == trained[2]


def test_views_do_not_carry_their_storage(tmp_path, capsys):
    big = torch.arange(10.**6)
    torch.save(dict(state_dict=dict(a=big[:2], b=big[1::2][:3])), tmp_path / 'big.pth')
    for name in ('small.pth', 'small.safetensors'):
        run(capsys, tmp_path / 'big.pth', tmp_path / name)
    files = [p for p in written(tmp_path) if p.name.startswith('small')]
    assert len(files) == 2
    for path in files:
        assert path.stat().st_size < 10000
        state = load_checkpoint(path)['state_dict']
        assert state['a'].tolist() == [0, 1]
        assert state['b'].tolist() == [1, 3, 5]


@pytest.mark.parametrize('content, dst, words', [
    (dict(state_dict=dict(a=1)), 'x.pth', ['src.pth', 'not tensors, such as a']),
    (dict(state_dict={}), 'x.pth', ['src.pth', 'no state_dict']),
    ([1], 'x.pth', ['src.pth', 'no state_dict']),
    (dict(a=torch.ones(1)), 'x.onnx', ["x.onnx' must end in .pth"]),
    (None, 'x.pth', ['src.pth', 'truncated']),
])
def test_bad_input(content, dst, words, tmp_path, capsys):
    torch.save(content, tmp_path / 'src.pth')
    if content is None:
        (tmp_path / 'src.pth').write_bytes(b'PK\3\4')
    with pytest.raises(SystemExit) as info:
        run(capsys, tmp_path / 'src.pth', tmp_path / dst)
    assert str(info.value).startswith('publish_model.py: ')
    for word in words:
        assert word in str(info.value)
    assert len(written(tmp_path)) == 1


def test_missing_file(tmp_path):
    with pytest.raises(SystemExit, match=r'no checkpoint file .*none\.pth'):
        publish.main([str(tmp_path / 'none.pth'), str(tmp_path / 'x.pth')])


BACKBONE = dict(type='autonl_mm.AutoNL', out_indices=(2, 3, 5, 7))


def detector():
    cfg = Config.fromfile('configs/_base_/models/retinanet_small.py')
    cfg.model.backbone = dict(BACKBONE, frozen_stages=1)
    cfg.model.neck.update(in_channels=[24, 40, 96, 320])
    return cfg.model


def segmentor():
    cfg = Config.fromfile('configs/_base_/models/semantic_fpn_small.py')
    cfg.model.backbone = dict(BACKBONE, output_stride=16)
    cfg.model.neck.update(in_channels=[24, 40, 96, 320], num_outs=4)
    return cfg.model


@pytest.mark.parametrize('library, build, extension', [
    ('mmdet', detector, '.pth'), ('mmseg', segmentor, '.safetensors')])
def test_init_cfg_of_other_codebases(library, build, extension, tmp_path,
                                     scope, monkeypatch):
    """A classifier's weights in a detector and a segmentor, by init_cfg."""
    monkeypatch.chdir(ROOT)
    init_default_scope('mmpretrain')
    cfg = Config.fromfile('configs/mmpretrain/autonl-s-modern_32xb128_in1k.py')
    classifier = MODELS.build(cfg.model)
    generator = torch.Generator().manual_seed(0)
    state = {
        k: torch.rand(v.shape, generator=generator)
        if v.is_floating_point() else v
        for k, v in classifier.state_dict().items()
    }
    torch.save(dict(meta={}, state_dict=state), tmp_path / 'classifier.pth')
    # without capsys, whose stream mmengine's logger would keep
    publish.main([
        str(tmp_path / 'classifier.pth'),
        str(tmp_path / f'published{extension}')
    ])
    path, = tmp_path.glob('published*')

    init_default_scope(library)
    model_cfg = build()
    model_cfg.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = MODELS.build(model_cfg)
    model.init_weights()
    got = model.backbone.state_dict()
    assert len(got) > 200 and not any(k.startswith('layers.8') for k in got)
    for name, value in got.items():
        assert torch.equal(value, state[f'backbone.{name}']), name
