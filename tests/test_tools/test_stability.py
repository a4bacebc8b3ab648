# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import re

import cv2
import pytest
import torch
from conftest import call_main, load_tool, main_error, tiny_cifar
from mmengine.config import Config

from autonl_mm.arch import NORMALIZE
from autonl_mm.models.layers import light_nl_scales
from autonl_mm.runs import configs

SCRIPT = 'tools/benchmarks/stability.py'
tool = load_tool(SCRIPT)


@pytest.fixture
def config(tmp_path, image_folder, scope):
    cfg = tiny_cifar(image_folder)
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def run(monkeypatch, tmp_path, *args):
    monkeypatch.setattr(tool, 'CALIBRATION', 24)
    call_main(monkeypatch, tool, *args, '--num-samples', 8,
              '--out', tmp_path / 'out.json', '--plot', tmp_path / 'out.png')
    return json.loads((tmp_path / 'out.json').read_text())


@pytest.mark.long
def test_at_initialisation(config, monkeypatch, tmp_path, capsys):
    record = run(monkeypatch, tmp_path, config)
    out = capsys.readouterr().out
    assert list(record['networks']) == ['size', 'rms', 'none']
    assert '| images | size | rms | none |' in out
    assert len(re.findall(r'^\| \w+ [\d.]+ \|', out, re.M)) == sum(
        map(len, tool.CONDITIONS.values()))
    for rows in record['networks'].values():
        assert [(r['kind'], r['value']) for r in rows] == [
            (kind, value) for kind, values in tool.CONDITIONS.items()
            for value in values]
        for row in rows:
            assert row['images'] == (1 if row['kind'] == 'constant' else 8)
            assert all(0 <= share <= 1 for key in ('features', 'outputs', 'either')
                       for share in row[key].values())
        usual, = (r for r in rows if (r['kind'], r['value']) == ('contrast', 1))
        assert usual['either'] == dict(not_finite=0, beyond=0)
    for name in 'rms', 'none':
        assert not any(row['either']['not_finite'] for row in record['networks'][name])
    assert cv2.imread(str(tmp_path / 'out.png')) is not None


@pytest.mark.long
@pytest.mark.parametrize('normalize', ['size', 'rms', 'none'])
def test_checkpoints_have_their_own_form(normalize, config, monkeypatch, tmp_path):
    """Whatever the config says."""
    cfg = Config.fromfile(config)
    if normalize == 'none':
        cfg.model.backbone.arch = [re.sub('_nonlocal.*', '', line)
                                   for line in cfg.model.backbone.arch]
    else:
        cfg.model.backbone.normalize = normalize
    model = configs.build_model(cfg)
    for norm in (m.norm for m in model.modules() if hasattr(m, 'nl_channels')):
        torch.nn.init.ones_(norm.weight)
    path = tmp_path / 'a' / 'net.pth'
    path.parent.mkdir()
    saved = torch.nn.DataParallel(model)  # as DDP
    torch.save(dict(state_dict=saved.state_dict()), path)
    loaded, form = tool.trained(Config.fromfile(config), str(path))
    assert form == normalize
    if normalize != 'none':
        assert light_nl_scales(loaded) == [NORMALIZE[normalize]]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x, mode='tensor'), model(x, mode='tensor'))
    record = run(monkeypatch, tmp_path, config, path, path)
    assert list(record['networks']) == [f'{normalize}, a/net.pth']


def test_shares(monkeypatch):
    """Of four images, one is not finite and one is too large, of another size."""
    images = torch.ones(4, 3, 8, 8) * torch.tensor([1., 2., 3., 4.]).view(-1, 1, 1, 1)

    def sizes(model, batch, contrast=1.0):
        size = batch.amax((1, 2, 3)) / 3 * contrast
        if contrast != 1:
            size = torch.where(size == 4, torch.inf, size * 1.0)
        return dict(features=size, outputs=size * (30 if contrast == 3 else 1))

    monkeypatch.setattr(tool, 'run', sizes)
    rows = {(r['kind'], r['value']): r for r in tool.measure(None, images, 3, 'x')}
    assert rows['contrast', 1]['either'] == dict(not_finite=0, beyond=0)
    row = rows['contrast', 3]
    assert row['features'] == dict(not_finite=0.25, beyond=0)
    assert row['outputs'] == dict(not_finite=0.25, beyond=0.75)
    assert row['either'] == dict(not_finite=0.25, beyond=0.75)
    assert rows['constant', 255]['outputs'] == dict(not_finite=0, beyond=1)


@pytest.mark.parametrize('kind', tool.CONDITIONS)
def test_conditions(kind):
    images = torch.rand(2, 3, 32, 48) * 255
    for value in tool.CONDITIONS[kind]:
        got = tool.disturbed(images, kind, value)
        assert got.min() >= 0 and got.max() <= 255
        size = (32, 48)
        if kind == 'resolution':
            size = (round(32 * value), round(48 * value))
        assert got.shape == (1 if kind == 'constant' else 2, 3, *size)
        unchanged = kind == 'contrast' or value == 1
        assert torch.equal(got, images) == unchanged


@pytest.mark.parametrize('arguments, words', [
    (['--num-samples', 0], '--num-samples is 0, expected at least 1'),
    (['no.pth'], "checkpoint 'no.pth' does not exist"),
    (['--out', 'no/'], '--out is'),
])
def test_bad_input(arguments, words, config, monkeypatch):
    assert words in main_error(monkeypatch, tool, config, *arguments)


def test_checkpoint_of_another_network(config, monkeypatch, tmp_path):
    torch.save(dict(state_dict=dict(x=torch.ones(1))), tmp_path / 'x.pth')
    message = main_error(monkeypatch, tool, config, tmp_path / 'x.pth')
    assert 'does not fit the config: it lacks' in message
