"""Settings of the site that `make docs` builds with Sphinx.

The source is the repository itself: the pages are the Markdown files that GitHub shows, and their
links work in both places. Every warning is an error, so a link that leads nowhere stops the build.
"""

import pkgutil
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError
from sphinx.util.nodes import get_node_source

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmwau import __version__  # noqa: E402

project = 'mmwau'
release = version = __version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']

root_doc = 'README'
include_patterns = ['*.md', 'configs/**.md', 'docs/**', 'examples/*.ipynb']
# Folders that hold no pages, most of them large.
exclude_patterns = ['.*', 'data', 'docs/_build', 'mmwau', 'tests', 'tools', 'work_dirs']
nitpicky = True
nitpick_ignore = [('py:class', 'optional')]  # what Google style writes behind a type

myst_enable_extensions = ['dollarmath', 'html_image']
myst_heading_anchors = 6
nb_execution_mode = 'off'  # the notebook holds its outputs; a test executes it

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_typehints_format = 'short'
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = 'furo'
html_title = f'mmwau {release}'
html_math_renderer = 'mathml'
html_copy_source = False
html_static_path = ['_static']
html_css_files = ['wide.css']
templates_path = ['_templates']
html_additional_pages = {'index': 'redirect.html'}

CONTENTS = """
```{toctree}
:hidden:
:caption: Get started

Start <self>
examples/tutorial
docs/usage
docs/finetune
docs/faq
```

```{toctree}
:hidden:
:caption: The method

docs/method
docs/claims
docs/finetune_protocol
```

```{toctree}
:hidden:
:caption: Results

docs/model_zoo
docs/results
docs/results/from_scratch
docs/results/bccd_cpu
docs/results/cifar10_cpu
docs/results/optimizers_cpu
docs/results/finetune_rates
docs/results/pruning
docs/results/pruning_cpu
docs/speed
docs/coco_plan
docs/compatibility
```

```{toctree}
:hidden:
:caption: Experiments

docs/experiments
docs/analysis
configs/cifar/README
configs/detection/README
```

```{toctree}
:hidden:
:caption: Reference

docs/api/method
docs/api/engine
docs/api/measures
CONTRIBUTING
CHANGELOG
```
"""


def add_contents(app, docname, source):
    """Give the start page, which is the README, the contents of the site."""
    if docname == root_doc:
        source[0] += CONTENTS


def find_by_import(app, env, node, text):
    """Find what a docstring names as code in its own module would.

    The reference may have it under another name, to which this leads (``WAU`` of ``mmwau/wau.py``
    is ``mmwau.WAU``). A name that has no page here, such as torch's, stays without a link if it
    exists.
    """
    if node.get('refdomain') != 'py':
        return None
    names = [node['reftarget']]
    _, _, scope = (get_node_source(node) or '').partition('docstring of ')
    while '.' in scope:
        scope = scope.rpartition('.')[0]
        names.append(f'{scope}.{node["reftarget"]}')
    for name in names:
        try:
            found = pkgutil.resolve_name(name)
        except (AttributeError, ImportError, ValueError):
            continue
        for module in ('mmwau', getattr(found, '__module__', None)):
            name = f'{module}.{getattr(found, "__qualname__", "")}'
            link = env.domains['py'].resolve_xref(
                env, node['refdoc'], app.builder, node['reftype'], name, node, text
            )
            if link is not None:
                return link
        return text
    return None


def write_mathml(translator, node, display='inline'):
    """Write a formula as browsers read it, without a script from the internet."""
    formula = convert(node.astext(), display=display)
    if '\\' in formula:
        raise ExtensionError(f'a command of this formula is not known: {node.astext()}')
    translator.body.append(formula)
    raise nodes.SkipNode


def write_mathml_block(translator, node):
    """Write a formula that stands by itself."""
    write_mathml(translator, node, display='block')


def setup(app):
    """Connect what is defined here."""
    app.connect('source-read', add_contents)
    app.connect('missing-reference', find_by_import)
    app.add_html_math_renderer('mathml', (write_mathml, None), (write_mathml_block, None))
