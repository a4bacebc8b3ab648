# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The snippets of the configs' READMEs, run as they stand."""
import re

import pytest
import torch
from conftest import ROOT, check_swap, write_snippet
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm import checkpoint

FOLDERS = ['mmdet', 'mmseg']
DOCS = ['tools/deployment/README.md', 'docs/deployment.md']


def read(folder):
    return (ROOT / f'configs/{folder}/README.md').read_text()


@pytest.mark.parametrize('folder', FOLDERS)
def test_swap_of_five_lines(folder, tmp_path, scope):
    diff, = re.findall(r'```diff\n(.*?)```', read(folder), re.DOTALL)
    lines = diff.splitlines()
    assert [line[0] for line in lines] == [' '] + ['+'] * 5
    stock, text = lines[0][1:], '\n'.join(line[1:] for line in lines)
    path = tmp_path / 'config.py'
    write_snippet(path, stock)
    assert Config.fromfile(path).model.backbone.type.startswith('ResNet')
    write_snippet(path, text)
    check_swap(path)


def test_pretrained_snippet(tmp_path, scope, monkeypatch):
    """A classifier's checkpoint by its prefix: all of its backbone."""
    snippet, = (s for s in re.findall(r'```python\n(.*?)```', read('mmdet'),
                                      re.DOTALL) if 'Pretrained' in s)
    init_default_scope('mmpretrain')
    classifier = MODELS.build(Config.fromfile(
        ROOT / 'configs/mmpretrain/autonl-s_32xb128_in1k.py').model)
    torch.save(dict(state_dict=classifier.state_dict()),
               tmp_path / 'autonl-s_in1k.pth')
    path = tmp_path / 'config.py'
    path.write_text(snippet
                    .replace("_base_ = '", f"_base_ = '{ROOT}/configs/mmdet/")
                    .replace("checkpoint='", f"checkpoint='{tmp_path}/"))
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    backbone = MODELS.build(cfg.model).backbone
    lines = []
    monkeypatch.setattr(checkpoint, 'print_log',
                        lambda line, *args: lines.append(line))
    backbone.init_weights()
    said = re.search(r'loaded (\d+) of (\d+) tensors of AutoNL', read('mmdet'))
    assert said[1] == said[2]
    assert said[0] in lines
    state = classifier.backbone.state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize('folder', FOLDERS)
def test_files_named_exist(folder):
    text = read(folder)
    for link in re.findall(r'\]\((?!http)([^)#]+)', text):
        assert (ROOT / 'configs' / folder / link).exists(), link
    for path in re.findall(r'(?:tools|configs|tests)/[\w./-]+\.(?:py|sh)', text):
        if '$MIM/' + path not in text:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize('name', DOCS)
def test_files_and_options_of_docs_exist(name):
    path = ROOT / name
    text = path.read_text()
    for link in re.findall(r'\]\((?!http)([^)#]+)', text):
        assert (path.parent / link).exists(), link
    for file in re.findall(r'(?:tools|configs)/[\w./-]+\.(?:py|sh)', text):
        assert (ROOT / file).exists(), file
    tools = ''.join(
        p.read_text() for p in [*ROOT.glob('tools/deployment/*.py'),
                                *ROOT.glob('autonl_mm/engine/*.py')])
    for option in re.findall(r'(?<![\w-])--[a-z][a-z-]*', text):
        assert f"'{option}'" in tools, option


@pytest.mark.parametrize('folder', FOLDERS)
def test_figures_are_those_of_the_models(folder, scope):
    """Parameters, which are quick to count; MACs come by the same rows."""
    rows = re.findall(r'\]\(([\w.-]+\.py)\) \| ([\d.]+) M \|', read(folder))
    assert len(rows) >= 15
    for name, millions in rows[::5]:
        cfg = Config.fromfile(ROOT / 'configs' / folder / name)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        params = sum(p.numel() for p in model.parameters())
        assert f'{params / 1e6:.2f}' == millions
