# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The notebook runs from top to bottom."""
import re

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted(ROOT.glob('docs/notebooks/*.ipynb'))


# The training of a minute, in a few seconds.
SHORTER = [("'--cls-train', '1500'", "'--cls-train', '100'"),
           ('max_epochs = cfg.param_scheduler.total_steps = 4',
            'max_epochs = cfg.param_scheduler.total_steps = 1')]


@pytest.mark.long
@pytest.mark.parametrize('shorter', [
    SHORTER, pytest.param([], marks=pytest.mark.slow)], ids=['shorter', 'as-committed'])
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, shorter, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path_factory.mktemp('temporary')))
    notebook = nbformat.read(path, as_version=4)
    for old, new in shorter:
        cell, = (cell for cell in notebook.cells if old in cell.source)
        cell.source = cell.source.replace(old, new)
    count = sum(bool(cell.get('outputs')) for cell in notebook.cells)
    NotebookClient(
        notebook, timeout=600, kernel_name='python3',
        resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    # as many cells have an output as in the file
    assert sum(bool(cell.get('outputs')) for cell in notebook.cells) == count
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_those_of_a_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [c for c in notebook.cells if c.cell_type == 'code']
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != 'error'
            assert output.get('name') != 'stderr', output.text
            text = output.get('text') or output.get('data', {}).get('text/plain', '')
            assert not re.search(r'(^|\s)/\w', text), text  # a path of some machine
