# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Imports run downwards, and there is no circle."""
import ast
import re
from functools import cache
from graphlib import TopologicalSorter

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


@cache
def parsed(path):
    return ast.parse(path.read_text())


def imported(path):
    """Modules of the package that a file imports, each with its node."""
    package = module_name(path).split('.')
    if path.name != '__init__.py':
        package = package[:-1]
    for node in ast.walk(parsed(path)):
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


def assert_no_import(is_wrong):
    """No import is wrong by its importer, its target and its node."""
    wrong = [f'{path}:{node.lineno} imports {target}' for name, path in MODULES.items()
             for target, node in imported(path) if is_wrong(name, target, node)]
    assert not wrong, '\n'.join(wrong)


def test_every_unit_has_a_level():
    assert {unit(name) for name in MODULES} == set(LEVEL)


def test_imports_run_downwards():
    assert_no_import(lambda name, target, node: unit(target) != unit(name)
                     and LEVEL[unit(target)] >= LEVEL[unit(name)])


def test_runs_could_be_a_package_of_its_own():
    """It imports nothing else of this one, and knows no network of it.

    The distribution's name is no knowledge: it is the scope of registered classes, the
    key in a checkpoint's meta and the start of names of temporary files.
    """
    assert_no_import(lambda name, target, node: unit(name) == 'runs' != unit(target))
    for name, path in MODULES.items():
        text = path.read_text() if unit(name) == 'runs' else ''
        # the last one is a variable of the environment
        for allowed in ('autonl_mm', 'nothing here knows AutoNL', 'AUTONL_KEEP_MEMORY'):
            text = text.replace(allowed, '')
        word = re.search(r'autonl|lightnl|super_?net|subnet|\bcost_?aware', text, re.I)
        assert word is None, f'{path} speaks of {word[0]}'


def test_there_is_no_circle():
    """Of files either; a package's own face is no part of what it shows."""
    graph = {
        name: {target for target, _ in imported(path) if target != name}
        for name, path in MODULES.items()
    }
    list(TopologicalSorter(graph).static_order())


def test_imports_stand_at_the_top():
    """None inside of a function, which could hide a circle."""
    assert_no_import(
        lambda name, target, node: node not in parsed(MODULES[name]).body)


def test_no_script_imports_another():
    scripts = {p.stem for p in SCRIPTS} - {'test'} | {'tools'}
    for path in SCRIPTS:
        for node in ast.walk(parsed(path)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                assert name.split('.')[0] not in scripts, (
                    f'{path}:{node.lineno} imports the script {name}')
