# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The README's snippets, run as they stand."""
import re

import pytest
from conftest import ROOT, check_swap, write_snippet
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, MODELS, init_default_scope

from autonl_mm.registry import BARE_NAMES

README = (ROOT / 'README.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
CONFIGS = [s for s in SNIPPETS if '_base_' in s]


@pytest.mark.parametrize('snippet', CONFIGS,
                         ids=lambda s: re.search(r"'(\w+)::", s)[1])
def test_swap_builds_and_runs(snippet, tmp_path, scope):
    path = tmp_path / 'config.py'
    write_snippet(path, snippet)
    check_swap(path)


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


def test_safe_checkpoints_snippets():
    """The import is in every swap, and the hook is found by its name."""
    line = "custom_imports = dict(imports=['autonl_mm.safe_checkpoints'])\n"
    assert line in SNIPPETS
    assert all(line in snippet for snippet in CONFIGS)
    hook, = (s for s in SNIPPETS if s.startswith('default_hooks'))
    names = {}
    exec(hook, names)
    hook = HOOKS.build(dict(names['default_hooks']['checkpoint']))
    assert isinstance(hook, CheckpointHook)


def test_bare_names_are_listed():
    section = README.split('### Safe checkpoints')[1].split('\n## ')[0]
    bullet, = (b for b in section.split('\n- ') if b.startswith('The bare names'))
    named = re.findall(r'`(\w+)`', bullet.split('\n\n')[0])
    assert sorted(named) == sorted(BARE_NAMES)


def test_layout_lists_what_there_is():
    """Every module and folder of the package, and every folder of the tools."""
    layout = README.split('## Layout')[1].split('\n## ')[0]
    package = {p.name + '/' * p.is_dir() for p in (ROOT / 'autonl_mm').iterdir()
               if p.name[0] not in '_.' and p.name != 'version.py'}
    tools = {p.name + '/' for p in (ROOT / 'tools').iterdir()
             if p.is_dir() and p.name[0] not in '_.'}
    listed = set(re.findall(r'^      ([\w.]+/?)  ', layout, re.MULTILINE))
    assert listed == package | tools


def test_files_named_exist():
    for link in re.findall(r'\]\((?!http)([^)#]+)', README):
        assert (ROOT / link).exists(), link
    for script in re.findall(r'tools/[\w/]+\.(?:py|sh)', README):
        assert (ROOT / script).exists(), script
    for config in re.findall(r'configs/[\w./-]+\.py', README):
        assert (ROOT / config).exists(), config
