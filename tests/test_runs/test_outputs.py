# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Where a tool cannot write, or what is missing, is told before it computes."""
import os
import re

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT
from mmengine.config import Config

from autonl_mm.runs import outputs, packages

TOOLS = sorted((ROOT / 'tools').rglob('*.py'))
# Options and arguments that name what a tool writes
WRITTEN = re.compile(r"add_argument\(\s*'(--out|--plot|--weights|--show-dir|dst)'")
# They write into a folder of their own, which they make first
KNOWN = {'make_demo_data', 'cifar10_to_folder', 'demo', 'demo_report'}


@pytest.mark.parametrize('path', TOOLS, ids=lambda p: p.stem)
def test_every_tool_checks_what_it_writes(path):
    """With the one helper, and in front of everything else."""
    text = path.read_text()
    for option in WRITTEN.findall(text):
        if path.stem in KNOWN:
            continue
        assert re.search(rf"outputs\.check_(file|folder)\('{option}', ", text), option
    written = re.search(r'\.savefig\(|imwrite\(|\.write_text\(|json\.dump\(', text)
    assert path.stem in KNOWN or not written, 'not by atomic_write or save_figure'


def message_of(function, *args):
    with pytest.raises((ValueError, ImportError)) as error:
        function(*args)
    return str(error.value)


def test_files(tmp_path, monkeypatch):
    outputs.check_file('--out', None)
    outputs.check_file('--out', '/dev/null')
    outputs.check_file('--out', tmp_path / 'new' / 'a.json', ('.json', ))
    assert (tmp_path / 'new').is_dir() and not list((tmp_path / 'new').iterdir())
    monkeypatch.chdir(tmp_path)
    outputs.check_file('--out', 'bare.json')
    assert '--out' in message_of(outputs.check_file, '--out', tmp_path)
    assert 'folder' in message_of(outputs.check_file, '--out', f'{tmp_path}/b/')
    assert '.json' in message_of(outputs.check_file, '--out', 'a.txt', ('.json', ))
    (tmp_path / 'file').touch()
    message = message_of(outputs.check_file, '--out', tmp_path / 'file' / 'a.json')
    assert message.startswith('--out: cannot write to the folder')
    assert '/file' in message


def test_folders_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(30, os.strerror(30))

    outputs.check_folder('--work-dir', tmp_path / 'new')
    # the tests may run as root, whom permissions do not stop
    monkeypatch.setattr(outputs.tempfile, 'TemporaryFile', refuse)
    message = message_of(outputs.check_folder, '--work-dir', tmp_path)
    assert message.startswith('--work-dir') and 'Read-only file system' in message


def test_plots_are_written_whole(tmp_path, monkeypatch):
    fig = plt.figure(figsize=(1, 1))
    for name in ('a.png', 'a.svg', 'a.pdf'):
        outputs.save_figure(fig, tmp_path / 'new' / name)
    assert (tmp_path / 'new/a.png').read_bytes()[1:4] == b'PNG'
    assert b'<svg' in (tmp_path / 'new/a.svg').read_bytes()
    with pytest.raises(ValueError, match='xyz'):
        outputs.save_figure(fig, tmp_path / 'b.xyz')
    assert not (tmp_path / 'b.xyz').exists()
    plt.close(fig)


def test_packages_that_a_config_names(monkeypatch):
    cfg = Config(dict(
        default_scope='mmpretrain',
        optim_wrapper=dict(optimizer=dict(type='timm.optim.RMSpropTF')),
        train_dataloader=dict(dataset=dict(pipeline=[
            dict(type='LoadImageFromFile', imdecode_backend='turbojpeg')]))))
    missing = set()
    monkeypatch.setattr(packages, 'find_spec',
                        lambda name: None if name in missing else name)
    packages.check_packages(cfg)
    for name, words in (
        ('timm', "optim_wrapper.optimizer.type='timm.optim.RMSpropTF' needs the "
                 'package timm, which is not installed: pip install timm'),
        ('turbojpeg', "pipeline.0.imdecode_backend='turbojpeg' needs"),
        ('mmpretrain', 'pip install mmpretrain')):
        missing = {name}
        assert words in message_of(packages.check_packages, cfg)


