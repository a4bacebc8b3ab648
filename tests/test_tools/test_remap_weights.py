# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import hashlib
import logging

import pytest
import torch
from conftest import ROOT, TINY_ARCH, load_tool, tiny_training
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.models import AutoNL
from autonl_mm.runs.checkpoints import load_checkpoint

tool = load_tool('tools/model_converters/remap_weights.py')


@pytest.fixture(autouse=True)
def logs():
    """The tool silences logs, for its process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def donor(tmp_path):
    """A classifier of three classes."""
    torch.manual_seed(1)
    net = AutoNL(TINY_ARCH.splitlines(), out_indices=(-1, ))
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    state['head.fc.weight'], state['head.fc.bias'] = torch.randn(3, 64), torch.ones(3)
    torch.save(dict(state_dict=state), tmp_path / 'donor.pth')
    return tmp_path / 'donor.pth'


def run(*args):
    tool.main([str(a) for a in args])


def test_file_says_where_its_weights_are_from(donor, tiny_arch, tmp_path, capsys,
                                              scope):
    out = tmp_path / 'out.pth'
    run(donor, out, '--arch', tiny_arch)
    content = load_checkpoint(str(out))
    meta = content['meta']
    assert meta['arch'] == AutoNL(TINY_ARCH.splitlines(), (-1, )).arch().to_text()
    assert meta['donor'] == str(donor)
    assert meta['donor_sha256'] == hashlib.sha256(donor.read_bytes()).hexdigest()
    assert meta['donor_activation'] == 'Swish'
    assert meta['mean'] == [123.675, 116.28, 103.53]
    assert meta['std'] == [58.395, 57.12, 57.375]
    # a classifier loads all of it, and is the donor
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/autonl-s_2xb128_cifar10.py')
    cfg.model.backbone.update(arch=str(tiny_arch), out_indices=(-1, ))
    cfg.model.head.update(in_channels=64, num_classes=3)
    init_default_scope(cfg.default_scope)
    model, twin = MODELS.build(cfg.model).eval(), MODELS.build(cfg.model).eval()
    model.load_state_dict(content['state_dict'])
    twin.load_state_dict(load_checkpoint(str(donor))['state_dict'])
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), twin(x))
    printed = capsys.readouterr().out
    assert '| layers.2.0 | ' in printed and '100%' in printed
    assert hashlib.sha256(out.read_bytes()).hexdigest() in printed


def test_light_nl_of_the_other_normalisation(tmp_path):
    net = AutoNL('s', out_indices=(8, ), normalize='size')
    torch.save(net.state_dict(), tmp_path / 'donor.pth')
    with pytest.raises(SystemExit, match="but the network has 'rms': set normalize="):
        run(tmp_path / 'donor.pth', tmp_path / 'out.pth', '--arch', 's')
    run(tmp_path / 'donor.pth', tmp_path / 'out.pth', '--arch', 's', '--normalize',
        'size')
    assert not any('scaled_by_rms' in key for key in load_checkpoint(
        str(tmp_path / 'out.pth'))['state_dict'])


def without_a_tensor(path):
    content = torch.load(path)
    del content['state_dict']['backbone.layers.2.0.project.conv.weight']
    torch.save(content, path)


@pytest.mark.parametrize('spoil, name, message', [
    (without_a_tensor, 'out.pth', 'backbone.layers.2.0.project.conv.weight is missing'),
    (lambda path: path.write_bytes(path.read_bytes()[:-1000]), 'out.pth', 'donor.pth'),
    (lambda path: path.unlink(), 'out.pth', 'there is no checkpoint'),
    (lambda path: None, 'donor.pth', 'donor.pth is the donor: give another name'),
    (lambda path: None, 'out.onnx', '.pth'),
], ids=['tensor', 'truncated', 'missing', 'itself', 'ending'])
def test_nothing_is_written_on_an_error(spoil, name, message, donor, tiny_arch,
                                        tmp_path):
    spoil(donor)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match=r'remap_weights\.py: ') as error:
        run(donor, tmp_path / name, '--arch', tiny_arch)
    assert message in error.value.code and '\n' not in error.value.code
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_recalibrated_statistics(donor, tiny_arch, image_folder, tmp_path, scope):
    """They are of the config's images, and nothing else differs."""
    tiny_training(image_folder, 8, 1).dump(tmp_path / 'config.py')
    run(donor, tmp_path / 'plain.pth', '--arch', tiny_arch)
    run(donor, tmp_path / 'measured.pth', '--arch', tiny_arch,
        '--recalibrate', tmp_path / 'config.py')
    plain, measured = (load_checkpoint(str(tmp_path / f'{n}.pth'))['state_dict']
                       for n in ('plain', 'measured'))
    assert {k for k in plain if not torch.equal(plain[k], measured[k])} == {
        k for k in plain if 'running_' in k}
