# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
from conftest import run_tool

BLOCK = """\
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r} or name in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Blocked())
"""


def run_doctor(tmp_path, blocked, fresh=False):
    script = tmp_path / 'run_doctor.py'
    script.write_text(
        'import runpy, sys\n'
        # in a fork, the libraries are imported already
        f'for name in [n for n in sys.modules if n.split(".")[0] in {blocked!r}]:\n'
        '    del sys.modules[name]\n'
        f'{BLOCK.format(blocked=blocked)}'
        "runpy.run_path('tools/doctor.py', run_name='__main__')\n")
    return run_tool(script, check=False, fresh=fresh)


def test_all_works(tmp_path):
    result = run_tool('tools/doctor.py', check=False)
    assert result.returncode == 0, result.stdout
    assert 'mmcv ops     work' in result.stdout
    for task in ('classification', 'detection', 'segmentation'):
        assert f'{task:15} works' in result.stdout


@pytest.mark.long
def test_without_ops(tmp_path):
    result = run_doctor(tmp_path, ['mmcv._ext'], fresh=True)
    assert result.returncode == 1
    assert 'detection       will not work' in result.stdout
    assert 'fix: mmcv lacks its compiled operators: run make setup' in result.stdout


@pytest.mark.long
def test_a_package_that_only_the_networks_need(tmp_path):
    """``import mmseg`` works without it, ``import mmseg.models`` does not."""
    result = run_doctor(tmp_path, ['ftfy'], fresh=True)
    assert result.returncode == 1
    assert 'detection       works' in result.stdout
    assert 'segmentation    will not work' in result.stdout
    assert 'fix: pip install ftfy' in result.stdout


def test_without_mmseg(tmp_path):
    result = run_doctor(tmp_path, ['mmseg'])
    assert result.returncode == 1
    assert 'classification  works' in result.stdout
    assert 'detection       works' in result.stdout
    assert 'segmentation    will not work' in result.stdout
