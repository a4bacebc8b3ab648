# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import ast
import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import FORKS, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import autonl_mm
from autonl_mm.export.engines import ENGINES

MMCV = 'onedl-mmcv' if FORKS else 'mmcv'

@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    """Wheel and sdist of a copy of the checkout, and the wheel made of the sdist."""
    folder = tmp_path_factory.mktemp('distributions')
    source = folder / 'source'
    ignore = shutil.ignore_patterns(
        '.git', '.venv*', 'data', 'work_dirs', '__pycache__', '.mim', '*.egg-info',
        '.hypothesis', '.*_cache', '_build')
    shutil.copytree(ROOT, source, ignore=ignore)
    (source / 'configs/demo/my_arch.txt').write_text('r1_k3_s11_e1_i32_o16\n')
    run([sys.executable, '-c',
         'from setuptools.build_meta import build_sdist as b; '
         f'b({str(folder)!r})'], cwd=source)
    sdist, = folder.glob('autonl_mm-*.tar.gz')
    wheels = []
    for what in (source, sdist):
        out = folder / f'wheel_of_{what.name}'
        run([sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index',
             '--no-build-isolation', '-w', out, what])
        wheels += out.glob('*.whl')
    return wheels[0], sdist, wheels[1]


def run(command, **kwargs):
    """Run a command and return its output, stderr included."""
    result = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, **kwargs)
    assert result.returncode == 0, result.stdout[-4000:]
    return result.stdout


@pytest.mark.long
def test_wheel_carries_configs_and_tools(distributions):
    wheel, _, wheel_of_sdist = distributions
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
    assert not any('__pycache__' in name or 'tools/research' in name for name in names)
    assert not any(name.startswith('tests/') for name in names)
    assert set(zipfile.ZipFile(wheel_of_sdist).namelist()) == names


@pytest.mark.long
def test_extras(distributions):
    """Every extra is named for what it is, and nothing else is required."""
    with zipfile.ZipFile(distributions[0]) as wheel:
        name, = (n for n in wheel.namelist() if n.endswith('/METADATA'))
        text = email.message_from_bytes(wheel.read(name))
    needs = {}
    for line in text.get_all('Requires-Dist'):
        package, *condition = re.split(r'\s*;\s*', line)
        extra = re.search(r'extra == ["\'](.+?)["\']', ''.join(condition))
        needs.setdefault(extra and extra[1], []).append(re.split(r'[<>= ]', package)[0])
    assert set(needs) == {None, 'upstream', 'onedl', 'tools', 'demo', 'timm',
                          'pretrained', 'safetensors', 'onnx', 'tensorflow', 'tests',
                          'docs', *ENGINES}
    assert sorted(needs[None]) == ['filelock', 'numpy', 'torch']
    assert needs['onnx'] == needs['onnxruntime'] == [
        'onnx', 'onnxruntime', 'onnxscript']
    assert 'mmcv' in needs['upstream'] and 'onedl-mmcv' in needs['onedl']


@pytest.mark.long
def test_used_outside_of_the_checkout(distributions, tmp_path):
    """Beside mmengine and what mmcv-lite has of mmcv: no ops, no task library.

    The same from real distributions: :func:`test_in_an_empty_environment`.
    """
    site = tmp_path / 'site'
    run([sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index',
         '--target', site, distributions[0]])
    # mmcv-lite is mmcv without its compiled module
    for name in installed_for(['torch', 'mmengine', MMCV]):
        source = Path(sysconfig.get_path('purelib')) / name
        if name == 'mmcv':
            shutil.copytree(source, site / name,
                            ignore=shutil.ignore_patterns('_ext*', '.mim'))
        elif source.exists() and not (site / name).exists():
            (site / name).symlink_to(source)
    script = shutil.copy(ROOT / 'tests/use_package.py', tmp_path)
    out = run([sys.executable, '-S', script, ROOT], cwd=tmp_path,
              env=dict(os.environ, PYTHONPATH=str(site)))
    assert f'used {autonl_mm.__version__}' in out


def installed_for(names):
    """Names in site-packages that packages and what they require have put there."""
    files, seen = set(), set()
    while names:
        name = canonicalize_name(names.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        files |= {f.parts[0] for f in found.files if f.parts[0] != '..'}
        requirements = map(Requirement, found.requires or ())
        names += [r.name for r in requirements
                  if not r.marker or r.marker.evaluate(dict(extra=''))]
    return files - {'__pycache__'}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('kind', ['wheel', 'sdist'])
@pytest.mark.parametrize('stack', ['lite', 'full'])
def test_in_an_empty_environment(distributions, stack, kind, image_folder, tmp_path):
    """Needs the package registry: installs into a new environment and uses it there.

    The full stack's mmcv is the wheel that ``make setup`` has built.
    """
    venv = tmp_path / 'venv'
    run([sys.executable, '-m', 'venv', venv])
    python = venv / 'bin/python'
    suffix = '-onedl' if FORKS else ''
    install = [python, '-m', 'pip', 'install', '-c',
               ROOT / f'requirements/constraints{suffix}.txt']
    run([*install, '-r', ROOT / 'requirements/build.txt', 'torch', 'torchvision'])
    package = distributions[0 if kind == 'wheel' else 1]
    lite = 'onedl-mmcv-lite' if FORKS else 'mmcv-lite'
    version = metadata.version(MMCV)
    if stack == 'lite':
        run([*install, '--no-build-isolation', f'{lite}=={version}', package])
    else:
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
        wheel = next(cache.glob(f'autonl_mm/{MMCV}-{version}-{tag}-*/*.whl'))
        extra = 'onedl' if FORKS else 'upstream'
        run([*install, '--no-build-isolation', wheel, f'{package}[{extra},tools]',
             'onedl-mim' if FORKS else 'openmim'])
    script = shutil.copy(ROOT / 'tests/use_package.py', tmp_path)
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    out = run([python, script, ROOT], cwd=tmp_path, env=env)
    assert f'used {autonl_mm.__version__}' in out
    if stack == 'lite':
        return
    # mim finds configs and tools in the package.
    mim = venv / 'bin/mim'
    config = 'configs/mmpretrain/autonl-s_2xb128_cifar10.py'
    site, = venv.glob('lib/python*/site-packages/autonl_mm/.mim')
    options = ['--cfg-options', *(
        f'{loader}_dataloader.dataset.{key}' for loader in ('train', 'val', 'test')
        for key in (f'data_root={image_folder}', 'holdout=8')),
        'train_cfg.max_epochs=1', 'model.head.num_classes=2',
        'data_preprocessor.num_classes=2', 'train_dataloader.batch_size=4']
    run([mim, 'train', 'autonl_mm', site / config, '--work-dir', 'work', *options],
        cwd=tmp_path, env=env)
    run([mim, 'test', 'autonl_mm', site / config, '--checkpoint', 'work/epoch_1.pth',
         *options], cwd=tmp_path, env=env)
    out = run([mim, 'run', 'autonl_mm', 'get_flops', site / config],
              cwd=tmp_path, env=env)
    assert 'MACs' in out


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
    stacks = re.findall(r'^PYTHONS_\w+ := (.+)$', (ROOT / 'Makefile').read_text(),
                        re.MULTILINE)
    made = {int(version.split('.')[1]) for s in stacks for version in s.split()}
    assert sorted(made) == minors
    systems = [c for c in classifiers if c.startswith('Operating System')]
    assert systems == ['Operating System :: POSIX :: Linux']


@pytest.mark.parametrize('page', ['README.md', 'docs/getting_started.md'])
def test_required_torch_is_that_of_the_page(page):
    required, = re.findall(r'^torch>=([\d.]+)$',
                           (ROOT / 'requirements/runtime.txt').read_text(),
                           re.MULTILINE)
    text = ' '.join((ROOT / page).read_text().split())
    assert f'torch {required} or later' in text
    assert f'Python {setup_arguments()["python_requires"][2:]} or later' in text


@pytest.mark.parametrize('stack', ['', '-onedl'])
def test_constraints_pin_the_libraries(stack):
    """A stack's every library has one version, exact."""
    text = (ROOT / f'requirements/constraints{stack}.txt').read_text()
    pinned = re.findall(r'^([\w-]+)===?[\w.]+$', text, re.MULTILINE)
    assert len(set(pinned)) == len(pinned)
    prefix = 'onedl-' if stack else ''
    wanted = (ROOT / f'requirements/mminstall{stack}.txt').read_text()
    wanted = re.findall(r'^(?:onedl-)?mm[\w-]+', wanted, re.MULTILINE)
    for name in ['torch', 'torchvision', f'{prefix}mmcv', *wanted]:
        assert name in pinned, name
