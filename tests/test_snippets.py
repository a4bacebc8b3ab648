# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The Python snippets of all pages, run as they stand, and what they build."""
import functools
import re

import cv2
import numpy as np
import onnx
import pytest
import timm
import torch
from conftest import ROOT, TINY_ARCH, check_swap, write_snippet
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import DATASETS, HOOKS, MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import save_checkpoint
from pages import PAGES, page_id, snippets

from autonl_mm.converters import donors
from autonl_mm.export.engines.onnxruntime import set_info
from autonl_mm.nas import CostAwareModel
from autonl_mm.runs.checkpoints import patches
from autonl_mm.runs.checkpoints.config_text import inference_text

FOLDERS = ['mmdet', 'mmseg']
WITH_SNIPPETS = [p for p in PAGES if snippets(p)]
INSTALL = "custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])\n"


def one(path, text):
    """The page's only snippet with that text in it."""
    snippet, = (s for s in snippets(ROOT / path) if text in s)
    return snippet


@functools.cache
def digits_config():
    """What an exported classifier of digits has of its config."""
    return inference_text(
        Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py'))


def make_files(folder):
    """What the snippets read: images, a notation file, an ONNX file, configs."""
    # Cityscapes' pipeline does not enlarge an image of this width.
    for name, size in ('image.jpg', (64, 96)), ('street.jpg', (32, 2048)):
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3))
        cv2.imwrite(str(folder / name), noise.astype(np.uint8))
    (folder / 'my_arch.txt').write_text(TINY_ARCH)
    (folder / 'configs').symlink_to(ROOT / 'configs')
    shape = ['N', 3, 64, 64]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('GlobalAveragePool', ['input'], ['pooled']),
         onnx.helper.make_node('Flatten', ['pooled'], ['logits'])], 'mean',
        [onnx.helper.make_tensor_value_info('input', 1, shape)],
        [onnx.helper.make_tensor_value_info('logits', 1, ['N', 3])])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    set_info(model, dict(
        task='classification', input=[None, 3, 64, 64], outputs=['logits'],
        preprocess=True, precision='fp32', light_nl_scales=['rms'],
        cfg=digits_config()))
    for name in ('x.onnx', 'digits.onnx'):
        onnx.save(model, folder / name)


def make_checkpoint(config, path):
    """A checkpoint of a config's model with random weights."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    with DATASETS.switch_scope_and_registry(None) as registry:
        dataset = registry.get(cfg.test_dataloader.dataset.type)
    save_checkpoint(
        dict(meta=dict(dataset_meta=dataset.METAINFO),
             state_dict=MODELS.build(cfg.model).state_dict()), path)


def check_target(model):
    """A search's target is one that its space can reach."""
    if isinstance(model, CostAwareModel):
        low, high = model.supernet.cost_range()
        assert low < model.target < high


def run_config(snippet, path):
    """A config builds; a swapped backbone also runs."""
    write_snippet(path, snippet)
    cfg = Config.fromfile(path)
    if 'AutoNL' == cfg.model.get('backbone', {}).get('type', '').split('.')[-1]:
        return check_swap(path)
    init_default_scope(cfg.default_scope)
    check_target(MODELS.build(cfg.model))


def build_parts(names):
    """What a fragment of a config defines can be built."""
    for name in ('backbone', 'model'):
        if isinstance(names.get(name), dict) and 'type' in names[name]:
            check_target(MODELS.build(names[name]))
    hooks = [*names.get('custom_hooks', []), *names.get('default_hooks', {}).values()]
    for hook in hooks:
        HOOKS.build(dict(hook))


@pytest.mark.parametrize('path', WITH_SNIPPETS, ids=page_id)
def test_snippets_run(path, tmp_path, scope, monkeypatch):
    """One after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    init_default_scope('mmpretrain')
    names = dict(model=MODELS.build(dict(
        type='ImageClassifier',
        backbone=dict(type='autonl_mm.AutoNL', arch=TINY_ARCH.splitlines(),
                      out_indices=(-1, )))))
    spaces = [s for s in snippets(path) if s.startswith('space = ')]
    for snippet in snippets(path):
        if '_base_ =' in snippet:
            if 'space=space' in snippet:
                snippet = spaces[0] + snippet
            folder = tmp_path
            if (path.parent / re.search(r"'(.+?)'", snippet)[1]).exists():
                # its base lies beside the page
                snippet = snippet.replace("_base_ = '", f"_base_ = '{path.parent}/")
            run_config(snippet, folder / 'config.py')
            continue
        for config, weights in re.findall(r"'(configs/\S+\.py)', '(\w+\.pth)'",
                                          snippet):
            make_checkpoint(config, weights)
        init_default_scope('mmpretrain')
        defined = dict(names)
        exec(snippet, defined)
        build_parts({k: v for k, v in defined.items() if v is not names.get(k)})
        names = defined


@pytest.mark.parametrize('folder', FOLDERS)
def test_swap_of_six_lines(folder, tmp_path, scope):
    diff, = snippets(ROOT / f'configs/{folder}/README.md', 'diff')
    lines = diff.splitlines()
    assert [line[0] for line in lines] == [' '] + ['+'] * 6
    stock, text = lines[0][1:], '\n'.join(line[1:] for line in lines)
    path = tmp_path / 'config.py'
    write_snippet(path, stock)
    assert Config.fromfile(path).model.backbone.type.startswith('ResNet')
    write_snippet(path, text)
    check_swap(path)


def test_swap_starts_from_mnasnet(tmp_path, scope, monkeypatch):
    """What timm's address would give is taken."""
    weights = timm.create_model('mnasnet_100').state_dict()
    monkeypatch.setattr(donors, 'load_url', lambda url: weights)
    path = tmp_path / 'config.py'
    write_snippet(path, one('README.md', '_base_'))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model).backbone
    backbone.init_weights()
    assert torch.equal(backbone.layers[0].conv.weight, weights['conv_stem.weight'])


def test_swap_is_the_same_everywhere():
    swap, = (s for s in snippets(ROOT / 'docs/backbones.md') if "'mmdet::" in s)
    diff, = snippets(ROOT / 'configs/mmdet/README.md', 'diff')
    assert swap == re.sub('^.', '', diff, flags=re.MULTILINE)
    for page in ('README.md', 'docs/getting_started.md',
                 'docs/tutorials/swap_backbone.md'):
        assert swap == one(page, '_base_')


def test_there_is_a_swap_for_each_codebase():
    configs = [s for s in snippets(ROOT / 'docs/backbones.md') if '_base_' in s]
    assert [re.search(r"'(\w+)::", s)[1] for s in configs] == [
        'mmpretrain', 'mmdet', 'mmseg']
    assert all(INSTALL in s for s in configs)
    assert INSTALL in one('README.md', '_base_')
    assert INSTALL in snippets(ROOT / 'docs/checkpoints.md')


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_plugin_snippet_builds(library, scope):
    init_default_scope(library)
    names = {}
    exec(one('docs/backbones.md', 'position='), names)
    backbone = MODELS.build(dict(type='ResNet', depth=50, **names['model']['backbone']))
    found = [n for n, _ in backbone.named_modules() if n.endswith('light_nl')]
    assert len(found) == 4 + 6


def test_plugin_backbone_has_the_strides_of_the_paper(scope):
    init_default_scope('mmpretrain')
    names = {}
    exec(one('docs/backbones.md', 'PluginBackbone'), names)
    strides = [m.stride for n, m in MODELS.build(names['backbone']).named_modules()
               if n.endswith('light_nl')]
    assert sorted(strides) == [1] * 11 + [2] * 6


def test_search_snippet_is_for_its_space(scope):
    """The page says how many candidates are tried."""
    names = {}
    exec(one('docs/search.md', 'AutoNLSuperNet'), names)
    init_default_scope('mmpretrain')
    hook = HOOKS.build(dict(names['custom_hooks'][0]))
    page = (ROOT / 'docs/search.md').read_text()
    assert f'tries {hook.selection.candidates} candidates within 2% of the' in page


def test_checkpoint_hook_is_one():
    names = {}
    exec(one('docs/checkpoints.md', 'default_hooks'), names)
    hook = HOOKS.build(dict(names['default_hooks']['checkpoint']))
    assert isinstance(hook, CheckpointHook)


def test_pretrained_snippet(tmp_path, scope, monkeypatch):
    """A classifier's checkpoint by its prefix: all of its backbone."""
    readme = ROOT / 'configs/mmdet/README.md'
    snippet = one('configs/mmdet/README.md', 'Pretrained')
    init_default_scope('mmpretrain')
    classifier = MODELS.build(Config.fromfile(
        ROOT / 'configs/mmpretrain/autonl-s-modern_32xb128_in1k.py').model)
    torch.save(dict(state_dict=classifier.state_dict()), tmp_path / 'autonl-s_in1k.pth')
    path = tmp_path / 'config.py'
    path.write_text(snippet
                    .replace("_base_ = '", f"_base_ = '{ROOT}/configs/mmdet/")
                    .replace("checkpoint='", f"checkpoint='{tmp_path}/"))
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    backbone = MODELS.build(cfg.model).backbone
    lines = []
    monkeypatch.setattr(patches, 'print_log', lambda line, *args: lines.append(line))
    backbone.init_weights()
    said = re.search(r'loaded (\d+) of (\d+) tensors of AutoNL', readme.read_text())
    assert said[1] == said[2]
    assert said[0] in lines
    state = classifier.backbone.state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name])


TRAINING = (ROOT / 'docs/training.md').read_text()
OPTIONS = re.findall(
    r'train\.py (configs/\S+\.py) \\\n +--cfg-options (\S+)=(\S+)\n```', TRAINING)


def test_training_has_its_switches():
    assert [key.rsplit('.', 1)[0] for _, key, _ in OPTIONS] == [
        'default_hooks.channels_last', 'default_hooks.compile',
        'train_dataloader.dataset.pipeline.0']


@pytest.mark.parametrize('config, key, value', OPTIONS)
def test_option_of_training(config, key, value):
    cfg = Config.fromfile(ROOT / config)
    cfg.merge_from_dict({key: value})
    if key.startswith('default_hooks'):
        HOOKS.build(cfg.default_hooks[key.split('.')[1]])
    else:
        transform = cfg.train_dataloader.dataset.pipeline[0]
        assert transform.imdecode_backend == 'turbojpeg'
        assert issubclass(TRANSFORMS.get(transform.type), LoadImageFromFile)


def test_retrained_network_of_the_tutorial_fits(tmp_path, scope):
    """Its config for retraining takes a network of its space."""
    page = 'docs/tutorials/search_space.md'
    names = {}
    exec(one(page, 'space = dict'), names)
    exec(one(page, 'cost_range'), names)
    path = tmp_path / 'config.py'
    path.write_text(one(page, 'autonl-s_1xb32_demo-cls').replace(
        "'configs/", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(path)
    cfg.model.backbone.arch = names['supernet'].arch().to_text().splitlines()
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
