"""The site is built from the pages as they are, and a mistake in one of them stops it."""

import html
import os
import re
import subprocess
import sys
import zlib
from urllib.parse import unquote

import pytest
from detection import ROOT
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS

import mmwau

pytest.importorskip('sphinx', reason='the site is built with the packages of the tested stack')
pytestmark = pytest.mark.slow


def build(source, folder):
    """Run Sphinx as `make docs` does."""
    (recipe,) = re.findall(r'\$\(RUN\) (-m sphinx .*)', (ROOT / 'Makefile').read_text())
    *options, place, target = recipe.split()
    assert (place, target, options[-2:]) == ('.', 'docs/_build/html', ['-c', 'docs'])
    options[-1] = str(ROOT / 'docs')
    path = f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    return subprocess.run(
        [sys.executable, *options, '-d', folder / 'doctrees', source, folder / 'html'],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    done = build(ROOT, folder)
    assert (done.returncode, done.stderr) == (0, '')
    return folder / 'html'


def names_of(site):
    """What the API reference describes, by kind."""
    content = (site / 'objects.inv').read_bytes().split(b'\n', 4)[4]
    lines = zlib.decompress(content).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith('py:')}


def test_reference_has_what_is_public(site):
    names = names_of(site)
    kinds = (DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS)
    classes = [
        one
        for kind in kinds
        for one in kind.module_dict.values()
        if one.__module__.startswith('mmwau.')
    ]
    assert len(classes) >= 12
    short = {name.rpartition('.')[2] for name in names}
    public = {one.__name__ for one in classes} | set(mmwau.__all__) - {'__version__'}
    assert public - short == set()
    modules = ('overlap', 'features', 'movement', 'traffic', 'targets')
    assert {f'mmwau.{module}' for module in modules} <= names


def test_links_and_pictures_of_all_pages_are_there(site):
    pages = {path: path.read_text() for path in site.glob('**/*.html')}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    wrong, pictures = [], 0
    for page, text in pages.items():
        if '_modules' in page.parts:  # source code, with links that name classes by their module
            continue
        for name, link in re.findall(r'<(?:a|img)\b[^>]*?\b(href|src)="([^"]*)"', text):
            path, _, anchor = unquote(html.unescape(link)).partition('#')
            if re.match(r'[a-z]+:', path):
                continue
            pictures += name == 'src'
            place = (page.parent / path).resolve() if path else page
            if not place.exists() or (anchor and anchor not in anchors.get(place, {anchor})):
                wrong.append(f'{page.relative_to(site)}: {link}')
    assert wrong == []
    assert pictures > 15


def test_formulas_are_formulas(site):
    text = (site / 'docs' / 'method.html').read_text()
    source = (ROOT / 'docs' / 'method.md').read_text()
    source = re.sub(r'```.*?```', '', source, flags=re.DOTALL)
    formulas = re.findall(r'\$\$.*?\$\$|\$[^$\n]+\$', source, re.DOTALL)
    assert len(formulas) > 40
    assert text.count('<math') == len(formulas)
    assert not re.findall(r'\$|\\(?:frac|hat|mathbb)', re.sub(r'<script.*?</script>', '', text))


def test_start_page_is_the_readme(site):
    assert 'url=README.html' in (site / 'index.html').read_text()
    assert 'docs/usage.html' in (site / 'README.html').read_text()


def test_mistakes_stop_it(tmp_path):
    source = tmp_path / 'source'
    (source / 'docs').mkdir(parents=True)
    (source / 'README.md').write_text('# A\n\n[b](docs/b.md#nowhere) [c](docs/c.md)\n')
    (source / 'docs' / 'b.md').write_text('# B\n\n[a](../README.md#a)\n\n![d](d.png)\n')
    names = ':func:`mmwau.find_layers` :func:`torch.no_grad` :func:`mmwau.find_all_layers`'
    (source / 'docs' / 'e.rst').write_text(f'E\n=\n\n{names}\n')
    done = build(source, tmp_path)
    assert done.returncode
    for mistake in (
        "local id not found in doc 'docs/b': 'nowhere'",
        "'docs/c.md'",
        'd.png',
        'find_all_layers',
    ):
        assert mistake in done.stderr
    assert not re.search(r"not found: '?(torch.no_grad|mmwau.find_layers\b|a\b)", done.stderr)


def test_formula_that_is_none_stops_it(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'README.md').write_text('# A\n\n$\\nosuchcommand{x}$\n')
    done = build(source, tmp_path)
    assert done.returncode
    assert 'nosuchcommand' in done.stderr
