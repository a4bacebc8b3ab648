# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
MIM_ITEMS = ('configs', 'tools', 'model-index.yml')


def version():
    scope = {}
    exec((ROOT / 'autonl_mm/version.py').read_text(), scope)
    return scope['__version__']


def names_in(text):
    return [line for line in text.splitlines() if line and not line.startswith('#')]


def requirements(name):
    return names_in((ROOT / f'requirements/{name}.txt').read_text())


def optional():
    """Extras: the parts of these files, each with the name it starts with."""
    text = ''.join((ROOT / f'requirements/{name}.txt').read_text()
                   for name in ('optional', 'engines'))
    parts = re.split(r'^# (\w+):.*$', text, flags=re.M)[1:]
    return {name: names_in(body) for name, body in zip(parts[::2], parts[1::2])}


def add_mim_extension():
    """Put configs and tools into ``autonl_mm/.mim``, where mim looks for them.

    A development install gets links, a distribution gets copies, without the scripts
    of tools/research, which need a checkout.
    """
    mim = ROOT / 'autonl_mm/.mim'
    develop = {'develop', 'editable_wheel'} & set(sys.argv)
    mim.mkdir(exist_ok=True)
    for item in MIM_ITEMS:
        source, target = ROOT / item, mim / item
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)
        if develop:
            target.symlink_to(os.path.relpath(source, mim))
        elif source.is_dir():
            shutil.copytree(
                source, target,
                ignore=shutil.ignore_patterns('__pycache__', 'research'))
        else:
            shutil.copy(source, target)


if __name__ == '__main__':
    add_mim_extension()
    setup(
        name='autonl_mm',
        version=version(),
        description='AutoNL and LightNL for OpenMMLab',
        long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
        long_description_content_type='text/markdown',
        author='autonl_mm authors',
        license='Apache License 2.0',
        keywords='non-local, neural architecture search, OpenMMLab, AutoNL',
        packages=find_packages(include=['autonl_mm', 'autonl_mm.*']),
        package_data={'autonl_mm': ['ops/*.cpp', 'ops/*.h', '.mim/**/*', '.mim/*']},
        include_package_data=True,
        python_requires='>=3.10',
        # mmengine and mmcv come from upstream or from the maintained forks, see
        # the extras. Requiring one of them here would install it over the other.
        install_requires=requirements('runtime'),
        extras_require={
            'upstream': ['mmcv'] + requirements('mminstall'),
            'onedl': ['onedl-mmcv'] + requirements('mminstall-onedl'),
            **optional(),
            # for converting the authors' TensorFlow checkpoints
            'tensorflow': ['tensorflow'],
            'tests': requirements('tests'),
            'docs': requirements('docs'),
        },
        classifiers=[
            'License :: OSI Approved :: Apache Software License',
            'Operating System :: POSIX :: Linux',
            'Programming Language :: Python :: 3',
            'Programming Language :: Python :: 3.10',
            'Programming Language :: Python :: 3.11',
            'Programming Language :: Python :: 3.12',
            'Programming Language :: Python :: 3.13',
            'Topic :: Scientific/Engineering :: Artificial Intelligence',
        ],
        zip_safe=False)
