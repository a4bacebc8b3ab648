# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The pages beside README.md: snippets run, links, options and tables hold."""
import re

import pytest
import torch
from conftest import ROOT, check_swap, write_snippet
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.checkpoint import patches

FOLDERS = ['mmdet', 'mmseg']
DOCS = ['tools/deployment/README.md', 'docs/deployment.md']
# Where no pages of the project are; .mim holds links to configs and tools.
SKIPPED = {'data', 'work_dirs', 'build', 'dist'}
PAGES = sorted(
    p for p in ROOT.rglob('*.md')
    if not any(part in SKIPPED or part.startswith('.')
               for part in p.relative_to(ROOT).parts))


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
    monkeypatch.setattr(patches, 'print_log',
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
                                *ROOT.glob('autonl_mm/cli/*.py')])
    for option in re.findall(r'(?<![\w-])--[a-z][a-z-]*', text):
        assert f"'{option}'" in tools, option


def page_id(path):
    return str(path.relative_to(ROOT))


def without_code(text):
    return re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', without_code(text), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for h in headings}


def split_tables(text):
    """Runs of lines that start with a bar, as lists of lines."""
    runs = re.findall(r'(?:^\|.*\n?)+', without_code(text), re.MULTILINE)
    return [run.splitlines() for run in runs]


def is_table(rows):
    return len(rows) > 1 and re.fullmatch(r'\|(?: *:?-+:? *\|)+', rows[1])


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_no_table_is_cut(path):
    """Every run of rows has its own header: a blank line would end the table."""
    for rows in split_tables(path.read_text()):
        assert is_table(rows), rows[0]


def test_a_cut_table_is_found():
    whole = '| a |\n|---|\n| 1 |\n| 2 |\n'
    assert [bool(is_table(t)) for t in split_tables(whole)] == [True]
    cut = '| a |\n|---|\n| 1 |\n\n| 2 |\n'
    assert [bool(is_table(t)) for t in split_tables(cut)] == [True, False]


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_links_resolve(path):
    text = path.read_text()
    for link in re.findall(r'\]\((?!http)([^)]+)\)', without_code(text)):
        file, _, anchor = link.partition('#')
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_commands_name_options_that_exist(path):
    shared = ''.join(
        p.read_text() for p in [*ROOT.glob('autonl_mm/cli/*.py'),
                                ROOT / 'autonl_mm/benchmark/trials.py'])
    code = re.findall(r'```bash\n(.*?)```|`((?:\w+=\S+ )*python [^`]+)`',
                      path.read_text(), re.DOTALL)
    lines = ''.join(block or inline + '\n' for block, inline in code)
    for line in lines.replace('\\\n', ' ').splitlines():
        script = re.search(r'(?<![\w/])tools/[\w/]+\.(?:py|sh)', line)
        if script is None:
            continue
        script = ROOT / script[0]
        assert script.exists(), line
        if script.suffix == '.sh':
            script = ROOT / f'tools/{script.stem.split("_")[-1]}.py'
        source = script.read_text() + shared
        for option in re.findall(r' (--[a-z][a-z-]*)', line.split('#')[0]):
            assert f"'{option}'" in source, f'{option} in: {line}'


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
