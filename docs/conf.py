# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Settings of the documentation's site: ``sphinx-build -W -b html docs build/docs``."""
import os
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes

import autonl_mm

ROOT = Path(__file__).resolve().parents[1]

project = 'autonl_mm'
author = 'autonl_mm authors'
project_copyright = '2026, autonl_mm authors'
version = release = autonl_mm.__version__

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'myst_nb',
    'sphinx_copybutton',
]
exclude_patterns = ['search.md']  # search.html is Sphinx's own: see ELSEWHERE

myst_heading_anchors = 4  # as GitHub makes them, so that links hold there too
nb_execution_mode = 'off'  # the notebook has its outputs; a test runs it

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings name the types
autodoc_default_options = dict(members=True)
napoleon_numpy_docstring = False
napoleon_custom_sections = ['Shape']
napoleon_use_ivar = True

html_theme = 'furo'
html_math_renderer = 'mathml'  # browsers show it without a script from elsewhere
html_title = f'autonl_mm {version}'
html_static_path = ['_static']
html_css_files = ['site.css']
copybutton_exclude = '.linenos, .gp, .go'

# Pages that are not at their place in the site, most because they lie beside what
# they describe. A page at that place includes them.
ELSEWHERE = {
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'README.md': 'index.md',
    'SECURITY.md': 'security.md',
    'configs/demo/README.md': 'models/demo.md',
    'configs/mmdet/README.md': 'models/mmdet.md',
    'configs/mmpretrain/README.md': 'models/mmpretrain.md',
    'configs/mmseg/README.md': 'models/mmseg.md',
    'docs/search.md': 'searching.md',
    'tools/deployment/README.md': 'onnx_tools.md',
    'tools/model_converters/README.md': 'weights.md',
}
LANGUAGES = {'.cpp': 'cpp', '.py': 'python', '.sh': 'bash'}  # of files that are shown
INCLUDE = re.compile(r'^```{include} (\S+)\n```$', re.MULTILINE)
LINK = re.compile(r'(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)([^)\s]*)\)')


def adapt_links(text, folder, target):
    """Let the links of a page lead to the same files in the site.

    Args:
        text (str): The page.
        folder (Path): The folder that its links are relative to.
        target (Path): The folder that they are to be relative to.

    Returns:
        str: The page, with links to folders as plain text.
    """

    def adapt(match):
        image, title, href, anchor = match.groups()
        path = Path(os.path.normpath(folder / href))
        if path.is_dir():
            return title
        inside = ELSEWHERE.get(str(path.relative_to(ROOT)))
        if inside:
            path = ROOT / 'docs' / inside
        return f'{image}[{title}]({os.path.relpath(path, target)}{anchor})'

    return LINK.sub(adapt, text)


def expand_page(app, docname, source):
    """Include pages from outside of ``docs``, and adapt the links of all."""
    if Path(app.env.doc2path(docname)).suffix != '.md':
        return
    folder = (ROOT / 'docs' / docname).parent

    def include(match):
        path = (folder / match[1]).resolve()
        app.env.note_dependency(str(path))
        return adapt_links(path.read_text(encoding='utf-8'), path.parent, folder)

    parts = INCLUDE.split(source[0])
    if len(parts) > 1:
        source[0] = INCLUDE.sub(include, source[0])
    else:
        source[0] = adapt_links(source[0], folder, folder)


def file_page(app, path):
    """Name of the page that shows a file of the project."""
    return f'files/{(Path(app.srcdir) / path).resolve().relative_to(ROOT)}'


def link_files(app, doctree, docname):
    """Let links to files lead to pages that show them: myst would download them."""
    for node in list(doctree.findall(addnodes.download_reference)):
        path, _ = app.env.relfn2path(node['reftarget'], docname)
        uri = app.builder.get_relative_uri(docname, file_page(app, path))
        node.replace_self(
            nodes.reference('', '', *node.children, refuri=uri, internal=True))


def show_files(app):
    """Pages with the text of all files that a page links to."""
    for path in app.env.dlfiles:
        page = file_page(app, path)
        title = page.partition('/')[2]
        text = (ROOT / title).read_text(encoding='utf-8')
        code = app.builder.highlighter.highlight_block(
            text, LANGUAGES.get(Path(title).suffix, 'text'))
        yield page, dict(title=title, body=f'<h1>{title}</h1>\n{code}'), 'page.html'


def skip_field(app, what, name, obj, skip, options):
    """Leave out fields of named tuples: the class's docstring has them."""
    return (obj.__doc__ or '').startswith('Alias for field number') or None


def write_math(translator, node):
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer('mathml', (write_math, None), (write_math, None))
    app.connect('source-read', expand_page)
    app.connect('doctree-resolved', link_files)
    app.connect('html-collect-pages', show_files)
    app.connect('autodoc-skip-member', skip_field)
