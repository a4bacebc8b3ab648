# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Imports run downwards, and there is no circle."""
import ast
import re
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

# From the bottom to the top; what shares a line does not import each other.
LEVELS = [
    ('runs', 'named_networks'),
    ('version', 'arch', 'registry', 'checkpoint'),
    ('safe_checkpoints', 'cost'),
    ('ops', ),
    ('fold', ),
    ('models', 'converters', 'datasets'),
    ('nas', 'config_checks', 'zoo'),
    ('engine', 'half'),
    ('export', ),
    ('inference', ),
    ('deploy', 'predict'),
    ('measure', ),
    ('experiments', ),
    ('__init__', ),
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
PACKAGE = ROOT / 'autonl_mm'
FILES = sorted(p for p in PACKAGE.rglob('*.py') if '.mim' not in p.parts)
SCRIPTS = sorted((ROOT / 'tools').rglob('*.py'))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path):
    """Modules of the package that a file imports, each with its node."""
    package = module_name(path).split('.')
    if path.name != '__init__.py':
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = '.'.join(base + (node.module.split('.') if node.module else []))
            # a name may be a module of the package or something inside of it
            names = [f'{base}.{alias.name}' for alias in node.names]
            names = [name if name in MODULES else base for name in names]
        else:
            continue
        for name in names:
            if name in MODULES:
                yield name, node


def unit(name):
    parts = name.split('.')
    return parts[1] if len(parts) > 1 else '__init__'


def test_every_unit_has_a_level():
    assert {unit(name) for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize('name', MODULES)
def test_imports_run_downwards(name):
    for target, node in imported(MODULES[name]):
        if unit(target) != unit(name):
            assert LEVEL[unit(target)] < LEVEL[unit(name)], (
                f'{MODULES[name]}:{node.lineno} imports {target}, which is above')


RUNS = [name for name in MODULES if unit(name) == 'runs']


@pytest.mark.parametrize('name', RUNS)
def test_runs_could_be_a_package_of_its_own(name):
    """It imports nothing else of this one, and knows no network of it.

    The distribution's name is no knowledge: it is the scope of registered classes, the
    key in a checkpoint's meta and the start of names of temporary files.
    """
    assert {unit(target) for target, _ in imported(MODULES[name])} <= {'runs'}
    text = MODULES[name].read_text()
    # the last one is a variable of the environment
    for allowed in ('autonl_mm', 'nothing here knows AutoNL', 'AUTONL_KEEP_MEMORY'):
        text = text.replace(allowed, '')
    word = re.search(r'autonl|lightnl|super_?net|subnet|\bcost_?aware', text, re.I)
    assert word is None, f'{MODULES[name]} speaks of {word[0]}'


def test_there_is_no_circle():
    """Of files either; a package's own face is no part of what it shows."""
    graph = {
        name: {target for target, _ in imported(path) if target != name}
        for name, path in MODULES.items()
    }
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize('name', MODULES)
def test_imports_stand_at_the_top(name):
    """None inside of a function, which could hide a circle."""
    tree = ast.parse(MODULES[name].read_text())
    for target, node in imported(MODULES[name]):
        assert any(ast.dump(node) == ast.dump(n) for n in tree.body), (
            f'{MODULES[name]}:{node.lineno} imports {target} inside of a function')


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda p: p.stem)
def test_no_script_imports_another(path):
    scripts = {p.stem for p in SCRIPTS}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            assert name.split('.')[0] not in scripts - {'test'} | {'tools'}, (
                f'{path}:{node.lineno} imports the script {name}')
