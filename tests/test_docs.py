# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The pages: the site builds, links resolve, commands and tables hold."""
import ast
import json
import re
import warnings
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from pages import PAGES, page_id
from sphinx.cmd.build import main as sphinx_build

from autonl_mm.models import AutoNL
from autonl_mm.registry import BARE_NAMES


# Sphinx takes a minute.
@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site's pages by their paths, parsed. ``-W``: a warning is an error."""
    out = tmp_path_factory.mktemp('site')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Python's, of Sphinx's extensions
        status = sphinx_build(
            ['-q', '-W', '--keep-going', '-b', 'html', str(ROOT / 'docs'), str(out)])
    assert status == 0
    return {path: BeautifulSoup(path.read_text(), 'html.parser')
            for path in out.rglob('*.html')}


@pytest.mark.long
def test_every_page_is_in_the_site(site):
    out, = (path.parent for path in site if path.name == 'genindex.html')
    sources = {p.relative_to(ROOT / 'docs').with_suffix('.html')
               for p in [*ROOT.glob('docs/**/*.md'), *ROOT.glob('docs/**/*.ipynb')]}
    # its name is that of the site's search
    assert sources - {Path('search.html')} <= {p.relative_to(out) for p in site}


@pytest.mark.long
def test_links_of_the_site_resolve(site):
    ids = {path: {tag['id'] for tag in page.find_all(id=True)}
           for path, page in site.items()}
    for path, page in site.items():
        for tag, attribute in (('a', 'href'), ('img', 'src'), ('link', 'href'),
                               ('script', 'src')):
            for element in page.find_all(tag, **{attribute: True}):
                link = element[attribute]
                if re.match(r'https?:', link):
                    # a page shows without a network
                    assert tag == 'a', link
                    continue
                if link.startswith(('data:', 'mailto:')):
                    continue
                file, _, anchor = link.partition('#')
                target = (path.parent / file.split('?')[0]).resolve()
                target = target if file else path
                assert target.exists(), f'{link} in {path.name}'
                if anchor and target in ids:
                    assert anchor in ids[target], f'{link} in {path.name}'


@pytest.mark.long
def test_site_is_made_for_phones(site):
    """The width is that of the screen, and wide tables scroll."""
    for page in site.values():
        viewport = page.find('meta', attrs=dict(name='viewport'))
        assert 'width=device-width' in viewport['content']
        for table in page.find('article').find_all('table', class_='docutils'):
            assert table.find_parent(class_='table-wrapper')


@pytest.mark.long
def test_api_has_every_registered_name(site):
    text = ' '.join(page.get_text() for path, page in site.items()
                    if path.parent.name == 'api')
    for name in BARE_NAMES:
        assert re.search(rf'autonl_mm\.[\w.]+\.{name}\b', text), name


@pytest.mark.long
def test_links_to_files_show_them(site):
    """A page shows the file; the browser would download the file itself."""
    shown = set()
    for path, page in site.items():
        for link in page.find('article').find_all('a', href=True):
            assert '_downloads' not in link['href'], f'{link["href"]} in {path.name}'
            _, found, file = link['href'].partition('/files/')
            if found and path.parts[-1] == 'mmdet.html':
                shown.add(file.removesuffix('.html'))
    out, = (path.parent for path in site if path.name == 'genindex.html')
    assert len(shown) > 15
    for file in shown:
        text = site[out / f'files/{file}.html'].find('pre').get_text()
        assert text.strip() == (ROOT / file).read_text().strip()


@pytest.mark.long
def test_api_links_to_its_source(site):
    for page in site.values():
        for entry in page.select('dl.py.class > dt, dl.py.function > dt'):
            assert entry.find('a', href=re.compile('_modules/')), entry['id']


@pytest.mark.long
def test_first_page_starts_with_an_install(site):
    out, = (path.parent for path in site if path.name == 'genindex.html')
    article = site[out / 'index.html'].find('article')
    assert 'make demo' in article.find('h1').find_next('pre').get_text()
    assert len(article.find_all('img')) == 1


def title_of(path):
    """The heading of a page or a notebook; None of a page that includes another."""
    text = path.read_text()
    if path.suffix == '.ipynb':
        text = ''.join(json.loads(text)['cells'][0]['source'])
    heading = re.search('^# (.+)$', text, re.MULTILINE)
    return heading and heading[1]


def test_a_page_has_one_name():
    """No two pages share a title, and a link with a title leads to its page."""
    first = [ROOT / 'README.md', ROOT / 'docs/index.md']  # of the project
    paths = [p for p in [*PAGES, *ROOT.glob('docs/notebooks/*.ipynb')]
             if p not in first and title_of(p)]
    titles = {title_of(p): p for p in paths}
    assert len(titles) == len(paths)
    for page in PAGES:
        for text, link in re.findall(r'\[([^\]]+)\]\((?!http)([^)#]+)',
                                     without_code(page.read_text())):
            named = titles.get(' '.join(text.split()))
            if named and link.endswith(named.suffix):
                assert (page.parent / link).resolve() == named, f'{text} in {page}'
    for page, heading in (('README.md', '## Documentation'),
                          ('docs/getting_started.md', '## Next steps')):
        part = (ROOT / page).read_text().split(heading)[1].split('\n## ')[0]
        links = re.findall(r'\[([^\]]+)\]\((docs/|)([^)]+\.(?:md|ipynb))\)', part)
        links = [(text, title_of(ROOT / 'docs' / file)) for text, folder, file in links
                 if folder or page != 'README.md']
        links = [(text, title) for text, title in links if title != 'autonl_mm']
        assert len(links) >= 5 and all(text == title for text, title in links), links


def strings(folder):
    """All strings of the programs in a folder, of f-strings the fixed parts."""
    return [node.value for path in sorted(ROOT.glob(f'{folder}/**/*.py'))
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_faq_has_messages_that_exist():
    part = (ROOT / 'docs/faq.md').read_text().split('## Messages of this project')[1]
    messages = [message for heading in re.findall('^### (.+)$', part, re.MULTILINE)
                for message in re.findall('`(.+?)`', heading)]
    assert len(messages) > 12
    known = [' '.join(s.split()) for s in strings('autonl_mm') + strings('tools')]
    for message in messages:
        for piece in message.split('...'):
            assert any(piece.strip() in s for s in known), piece


def test_faq_has_all_that_the_doctor_mends():
    page = (ROOT / 'docs/faq.md').read_text()
    tree = ast.parse((ROOT / 'tools/doctor.py').read_text())
    fixes, = (node.value for node in tree.body if isinstance(node, ast.Assign)
              and node.targets[0].id == 'FIXES')
    for sign in (fix.elts[0].value for fix in fixes.elts):
        assert sign in page, sign


def test_extras_are_installed_from_the_checkout():
    """There is no release on a package index."""
    for path in [*PAGES, *(p for folder in ('autonl_mm', 'configs', 'tools')
                           for p in ROOT.glob(f'{folder}/**/*.py'))]:
        assert "'autonl_mm[" not in path.read_text(), path


def without_code(text):
    return re.sub(r'^```.*?^```$', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', without_code(text), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_links_resolve(path):
    text = path.read_text()
    for link in re.findall(r'\]\((?!http)([^)]+)\)', without_code(text)):
        file, _, anchor = link.partition('#')
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def split_tables(text):
    """Runs of lines that start with a bar, as lists of lines."""
    runs = re.findall(r'(?:^\|.*\n?)+', without_code(text), re.MULTILINE)
    return [run.splitlines() for run in runs]


def is_table(rows):
    return len(rows) > 1 and re.fullmatch(r'\|(?: *:?-+:? *\|)+', rows[1])


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_no_table_is_cut(path):
    """Every run of rows has its own header: a blank line would end the table."""
    for rows in split_tables(path.read_text()):
        assert is_table(rows), rows[0]


def test_a_cut_table_is_found():
    whole = '| a |\n|---|\n| 1 |\n| 2 |\n'
    assert [bool(is_table(t)) for t in split_tables(whole)] == [True]
    cut = '| a |\n|---|\n| 1 |\n\n| 2 |\n'
    assert [bool(is_table(t)) for t in split_tables(cut)] == [True, False]


def commands(text):
    """Lines of shell commands, in blocks and within sentences."""
    code = re.findall(r'```bash\n(.*?)```|`((?:\w+=\S+ )*python [^`]+)`', text,
                      re.DOTALL)
    lines = ''.join(block or inline.replace('\n', ' ') + '\n'
                    for block, inline in code)
    return lines.replace('\\\n', ' ').splitlines()


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_commands_name_what_exists(path):
    """Tools, their options, configs, and targets of make."""
    shared = ''.join(
        p.read_text() for p in [*ROOT.glob('autonl_mm/runs/*.py'),
                                *ROOT.glob('autonl_mm/experiments/*.py')])
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    for line in commands(path.read_text()):
        target = re.match(r'make ([\w-]+)', line)
        assert target is None or target[1] in targets, line
        script = re.search(r'(?<![\w/])tools/[\w/]+\.(?:py|sh)', line)
        if script is None:
            continue
        script = ROOT / script[0]
        assert script.exists(), line
        if script.suffix == '.sh':
            script = ROOT / f'tools/{script.stem.split("_")[-1]}.py'
        source = script.read_text() + shared
        for option in re.findall(r' (--[a-z][a-z-]*)', line.split('#')[0]):
            assert f"'{option}'" in source, f'{option} in: {line}'


@pytest.mark.parametrize('path', PAGES, ids=page_id)
def test_files_named_exist(path):
    text = path.read_text()
    for file in re.findall(
            r'(?<![\w/.}])(?:tools|configs|tests)/[\w./-]+\.(?:py|sh)\b', text):
        # $MIM is a library's folder, and NAME is the reader's
        if f'$MIM/{file}' not in text and 'NAME' not in file:
            assert (ROOT / file).exists(), file


def test_options_of_tables_exist():
    """Those that the README of the deployment tools lists."""
    tools = ''.join(
        p.read_text() for p in [*ROOT.glob('tools/deployment/*.py'),
                                *ROOT.glob('autonl_mm/runs/*.py'),
                                ROOT / 'autonl_mm/experiments/trials.py',
                                ROOT / 'tools/analysis_tools/measure_latency.py',
                                ROOT / 'tools/benchmarks/engines.py',
                                ROOT / 'autonl_mm/predict.py'])
    for page in ('tools/deployment/README.md', 'docs/deployment.md'):
        for option in re.findall(r'(?<![\w-])--[a-z][a-z-]*',
                                 (ROOT / page).read_text()):
            assert f"'{option}'" in tools, option


def test_table_of_outputs():
    backbone = AutoNL('s', out_indices=range(9))
    page = (ROOT / 'docs/backbones.md').read_text()
    for name, values in (('channels', backbone.out_channels),
                         ('stride', backbone.out_strides)):
        row = f'| {name} | ' + ' | '.join(map(str, values)) + ' |'
        assert row in page


def test_bare_names_are_listed():
    page = (ROOT / 'docs/checkpoints.md').read_text()
    sentence = re.search(r'registers the bare names (.*?)\.', page, re.DOTALL)[1]
    named = re.findall(r'`(\w+)`', sentence)
    assert sorted(named) == sorted(BARE_NAMES)


def test_layout_lists_what_there_is():
    """Every module and folder of the package, and every folder of the tools."""
    layout = (ROOT / 'CONTRIBUTING.md').read_text().split('## Layout')[1]
    package = {p.name + '/' * p.is_dir() for p in (ROOT / 'autonl_mm').iterdir()
               if p.name[0] not in '_.' and p.name != 'version.py'}
    tools = {p.name + '/' for p in (ROOT / 'tools').iterdir()
             if p.is_dir() and p.name[0] not in '_.'}
    listed = set(re.findall(r'^  ([\w.]+/?)  ', layout, re.MULTILINE))
    assert listed == package | tools


def test_version_is_the_same_everywhere():
    version = re.search(r"'(.+)'", (ROOT / 'autonl_mm/version.py').read_text())[1]
    assert f'version: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    newest = re.search(r'^## \[(.+?)\] - (.+)$', (ROOT / 'CHANGELOG.md').read_text(),
                       re.MULTILINE)
    assert newest[1] == version
    assert f'date-released: {newest[2]}\n' in (ROOT / 'CITATION.cff').read_text()
