# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The project's pages, in Markdown."""
import re

from conftest import ROOT

# Where no pages of the project are; .mim holds links to configs and tools.
SKIPPED = {'data', 'work_dirs', 'build', 'dist'}
PAGES = sorted(
    p for p in ROOT.rglob('*.md')
    if not any(part in SKIPPED or part.startswith('.')
               for part in p.relative_to(ROOT).parts))


def page_id(path):
    """Its name as a test's id."""
    return str(path.relative_to(ROOT))


def snippets(path, language='python'):
    """Code blocks of a page, in its order."""
    return re.findall(rf'^```{language}\n(.*?)^```$', path.read_text(),
                      re.DOTALL | re.MULTILINE)
