# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The switches of docs/training.md, as they stand."""
import re

import pytest
from conftest import ROOT
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import HOOKS, TRANSFORMS

DOC = (ROOT / 'docs/training.md').read_text()
OPTIONS = re.findall(
    r'train\.py (configs/\S+\.py) \\\n +--cfg-options (\S+)=(\S+)\n```', DOC)


def test_there_are_switches():
    assert [key.rsplit('.', 1)[0] for _, key, _ in OPTIONS] == [
        'default_hooks.channels_last', 'default_hooks.compile',
        'train_dataloader.dataset.pipeline.0']


@pytest.mark.parametrize('config, key, value', OPTIONS)
def test_option(config, key, value):
    cfg = Config.fromfile(ROOT / config)
    cfg.merge_from_dict({key: value})
    if key.startswith('default_hooks'):
        HOOKS.build(cfg.default_hooks[key.split('.')[1]])
    else:
        transform = cfg.train_dataloader.dataset.pipeline[0]
        assert transform.imdecode_backend == 'turbojpeg'
        assert issubclass(TRANSFORMS.get(transform.type), LoadImageFromFile)


def test_snippets_build():
    snippets = re.findall(r'```python\n(.*?)```', DOC, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        names = {}
        exec(snippet, names)
        HOOKS.build(names['custom_hooks'][0])


def test_files_named_exist():
    for link in re.findall(r'\]\((?!http)([^)#]+)', DOC):
        assert (ROOT / 'docs' / link).exists(), link
    for path in re.findall(r'(?:tools|configs|tests)/[\w./-]+\.(?:py|sh)', DOC):
        assert (ROOT / path).exists(), path
