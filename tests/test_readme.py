# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The README's snippets, run as they stand."""
import re
from importlib.metadata import distributions
from pathlib import Path

import mmseg
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, init_default_scope

README = (ROOT / 'README.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
CONFIGS = [s for s in SNIPPETS if '_base_' in s]
# The maintained forks' mmengine looks for mmseg's configs in a distribution
# that is called otherwise there.
FORKS = any(d.name == 'onedl-mmengine' for d in distributions())


@pytest.mark.parametrize('snippet', CONFIGS,
                         ids=lambda s: re.search(r"'(\w+)::", s)[1])
def test_swap_builds_and_runs(snippet, tmp_path, scope):
    path = tmp_path / 'config.py'
    path.write_text(snippet)
    if FORKS and 'mmseg::' in snippet:
        with pytest.raises(ModuleNotFoundError, match='mmsegmentation'):
            Config.fromfile(path)
        base = Path(mmseg.__file__).parent / '.mim/configs'
        path.write_text(snippet.replace('mmseg::', f'{base}/'))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    assert type(model.backbone).__name__ == 'AutoNL'
    with torch.no_grad():
        feats = model.extract_feat(torch.zeros(1, 3, 64, 64))
    assert all(torch.isfinite(f).all() for f in feats)


def test_search_snippet_builds(scope):
    init_default_scope('mmpretrain')
    snippet, = (s for s in SNIPPETS if 'AutoNLSuperNet' in s)
    names = {}
    exec(snippet, names)
    model = MODELS.build(names['model'])
    low, high = model.supernet.cost_range()
    assert low < model.target < high
    for hook in names['custom_hooks']:
        HOOKS.build(hook)


def test_there_is_a_swap_for_each_codebase():
    assert len(CONFIGS) == 3


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_plugin_snippet_builds(library, scope):
    init_default_scope(library)
    snippet, = (s for s in SNIPPETS if 'plugins=' in s and 'position=' in s)
    scope = {}
    exec(snippet, scope)
    backbone = MODELS.build(
        dict(type='ResNet', depth=50, **scope['model']['backbone']))
    names = [n for n, _ in backbone.named_modules() if n.endswith('light_nl')]
    assert len(names) == 4 + 6


def test_plugin_backbone_snippet_builds(scope):
    init_default_scope('mmpretrain')
    snippet, = (s for s in SNIPPETS if 'PluginBackbone' in s)
    scope = {}
    exec(snippet, scope)
    backbone = MODELS.build(scope['backbone'])
    strides = [m.stride for n, m in backbone.named_modules()
               if n.endswith('light_nl')]
    assert sorted(strides) == [1] * 11 + [2] * 6


def test_table_of_outputs():
    from autonl_mm.models import AutoNL
    backbone = AutoNL('s', out_indices=range(9))
    for name, values in (('channels', backbone.out_channels),
                         ('stride', backbone.out_strides)):
        row = f'| {name} | ' + ' | '.join(map(str, values)) + ' |'
        assert row in README


def test_files_named_exist():
    for link in re.findall(r'\]\((?!http)([^)#]+)', README):
        assert (ROOT / link).exists(), link
    for script in re.findall(r'tools/[\w/]+\.(?:py|sh)', README):
        assert (ROOT / script).exists(), script
    for config in re.findall(r'configs/[\w./-]+\.py', README):
        assert (ROOT / config).exists(), config
