# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import ast
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

import autonl_mm


def test_wheel_carries_configs_and_tools(tmp_path):
    source = tmp_path / 'source'
    ignore = shutil.ignore_patterns(
        '.git', '.venv*', 'data', 'work_dirs', '__pycache__', '.mim', '*.egg-info')
    shutil.copytree(ROOT, source, ignore=ignore)
    (source / 'configs/demo/my_arch.txt').write_text('r1_k3_s11_e1_i32_o16\n')
    result = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index',
         '--no-build-isolation', '-w', str(tmp_path), str(source)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-2000:]
    wheel, = tmp_path.glob('autonl_mm-*.whl')
    assert autonl_mm.__version__ in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in ROOT.glob('configs/**/*.*'):
        if '__pycache__' not in str(path):
            assert f'autonl_mm/.mim/{path.relative_to(ROOT)}' in names
    for name in ('tools/train.py', 'tools/dist_train.sh', 'model-index.yml',
                 'configs/demo/my_arch.txt'):
        assert f'autonl_mm/.mim/{name}' in names
    for path in [*ROOT.glob('autonl_mm/**/*.py'), *ROOT.glob('autonl_mm/**/*.cpp'),
                 *ROOT.glob('autonl_mm/**/*.h')]:
        if '.mim' not in path.parts:
            assert str(path.relative_to(ROOT)) in names
    assert not any('__pycache__' in name for name in names)
    assert not any(name.startswith('tests/') for name in names)


def test_development_install_links_them():
    mim = ROOT / 'autonl_mm/.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (mim / name).resolve() == ROOT / name


def setup_arguments():
    """Literal arguments of setup.py's call of ``setup``."""
    calls = [n for n in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
             if isinstance(n, ast.Call) and getattr(n.func, 'id', '') == 'setup']
    call, = calls
    return {k.arg: ast.literal_eval(k.value) for k in call.keywords
            if k.arg in ('python_requires', 'classifiers')}


def test_supported_versions_agree():
    """setup.py, ruff and make name the same versions of Python, and Linux alone."""
    arguments = setup_arguments()
    classifiers = arguments['classifiers']
    minors = [int(m[1]) for c in classifiers
              if (m := re.fullmatch(r'Programming Language :: Python :: 3\.(\d+)', c))]
    assert minors == list(range(min(minors), max(minors) + 1))
    assert arguments['python_requires'] == f'>=3.{min(minors)}'
    target, = re.findall(r'^target-version = "py3(\d+)"$',
                         (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    assert int(target) == min(minors)
    stacks = re.findall(r'^PYTHONS := (.+)$', (ROOT / 'Makefile').read_text(),
                        re.MULTILINE)
    made = {int(version.split('.')[1]) for s in stacks for version in s.split()}
    assert sorted(made) == minors
    systems = [c for c in classifiers if c.startswith('Operating System')]
    assert systems == ['Operating System :: POSIX :: Linux']


def test_required_torch_is_that_of_the_readme():
    required, = re.findall(r'^torch>=([\d.]+)$',
                           (ROOT / 'requirements/runtime.txt').read_text(),
                           re.MULTILINE)
    readme = ' '.join((ROOT / 'README.md').read_text().split())
    assert f'torch {required} or later' in readme
    assert f'Python {setup_arguments()["python_requires"][2:]} or later' in readme


@pytest.mark.parametrize('stack', ['', '-onedl'])
def test_constraints_pin_the_libraries(stack):
    """A stack's every library has one version, exact."""
    text = (ROOT / f'requirements/constraints{stack}.txt').read_text()
    pinned = re.findall(r'^([\w-]+)===?[\w.]+$', text, re.MULTILINE)
    assert len(set(pinned)) == len(pinned)
    prefix = 'onedl-' if stack else ''
    wanted = (ROOT / f'requirements/mminstall{stack}.txt').read_text().split()
    for name in ['torch', 'torchvision', f'{prefix}mmcv', *wanted]:
        assert name in pinned, name
