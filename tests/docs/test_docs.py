"""What the documentation shows works, and leads where it says."""

import ast
import inspect
import re
from copy import deepcopy

import pages
import pytest
import torch
import yaml
from detection import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from pages import PAGES
from torch import nn

from mmwau import WAU, OverlapHook, WAUHook, WAUOptimWrapper, find_layers
from mmwau.engine.optim_wrapper import WAUMixin
from mmwau.engine.package_configs import read_config
from mmwau.experiment.suite import read_suite
from mmwau.scripts.preflight import check_wau

USAGE, METHOD = PAGES['docs/usage.md'], PAGES['docs/method.md']
BLOCKS = [block for page, text in PAGES.items() for block in pages.blocks_of(page, text)]
COMMANDS = [
    (page, command) for page, text in PAGES.items() for command in pages.commands_of(page, text)
]


def of_kind(kind):
    return [
        pytest.param(block, id=f'{block.page}:{block.line}')
        for block in BLOCKS
        if pages.kind_of(block) == kind
    ]


def run(block):
    scope = {'__name__': '__main__'}
    exec(compile(block.text, f'{block.page}:{block.line}', 'exec'), scope)
    return scope


def snippet(page, words):
    (block,) = (block for block in BLOCKS if block.page == page and words in block.text)
    return block


def test_there_is_documentation():
    assert {'README.md', 'docs/usage.md', 'docs/method.md', 'docs/speed.md'} <= set(PAGES)
    assert len(BLOCKS) > 15


def test_every_block_is_of_a_kind_that_is_checked():
    unknown = [
        f'{block.page}:{block.line}: nothing checks this block. Mark shell commands as bash; as '
        'python a whole program with its imports, settings of a config (custom_imports, '
        'optim_wrapper, custom_hooks), or a suite. Anything else belongs in running text'
        for block in BLOCKS
        if pages.kind_of(block) is None
    ]
    assert not unknown, '\n'.join(unknown)


@pytest.mark.parametrize('block', of_kind('program'))
def test_program_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block)


@pytest.fixture(scope='module')
def model_of():
    """Builds the network of a config without weights from the internet, each one once."""
    built = {}

    def build(config):
        key = repr(config.model)
        if key not in built:
            model = deepcopy(config.model)
            model.backbone.init_cfg = None
            built[key] = MODELS.build(model)
        return built[key]

    return build


@pytest.mark.parametrize('block', of_kind('config'))
def test_settings_work_in_a_config(block, tmp_path, model_of):
    """They are read on a config that they fit to, and what they name is built from it."""
    base = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    if 'WAUHook' in block.text and 'optim_wrapper' not in block.text:
        base = str(ROOT / 'configs' / 'faster_rcnn_r50_wau_coco.py')
    has_base = '_base_' in block.text or 'read_base' in block.text
    text = block.text if has_base else f'_base_ = {base!r}\n{block.text}'
    (tmp_path / 'config.py').write_text(text)
    config = read_config(tmp_path / 'config.py')
    init_default_scope(config.default_scope)
    if config.optim_wrapper.type == 'WAUAmpOptimWrapper' and not torch.cuda.is_available():
        with pytest.raises(ValueError, match='needs a GPU'):
            check_wau(config)
        config.optim_wrapper.type = 'WAUOptimWrapper'
    check_wau(config)
    wrapper = build_optim_wrapper(model_of(config), config.optim_wrapper)
    if 'optim_wrapper' in block.text:
        assert isinstance(wrapper, WAUOptimWrapper)
        wrapper.message_hub.update_info('seed', 0)
        wrapper.initialize_count_status(model_of(config), 0, 8)
        assert all(
            any(name.startswith(f'{target}.') for name in wrapper.layers)
            for target in config.optim_wrapper.get('targets', ['backbone'])
        )
    hooks = config.get('custom_hooks', [])
    for hook in hooks:
        hook.pop('priority', None)  # which the Runner takes
    hooks = [HOOKS.build(hook) for hook in hooks]
    if 'custom_hooks' in block.text:
        assert isinstance(hooks[-1], OverlapHook)


@pytest.mark.parametrize('block', of_kind('citation'))
def test_citation_is_that_of_the_citation_file(block):
    (paper,) = yaml.safe_load((ROOT / 'CITATION.cff').read_text())['references']
    fields = dict(re.findall(r'(\w+) += \{(.+)\}', block.text))
    authors = [f'{one["family-names"]}, {one["given-names"]}' for one in paper['authors']]
    assert fields == {
        'title': paper['title'],
        'author': ' and '.join(authors),
        'journal': paper['journal'],
        'volume': str(paper['volume']),
        'number': str(paper['issue']),
        'pages': f'{paper["start"]}--{paper["end"]}',
        'year': str(paper['year']),
        'doi': paper['doi'],
    }


@pytest.mark.parametrize('block', of_kind('suite'))
def test_suite_is_one(block, tmp_path, monkeypatch):
    (tmp_path / 'suite.py').write_text(block.text)
    monkeypatch.chdir(ROOT)
    suite = read_suite(tmp_path / 'suite.py')
    scope = run(block)
    planned = len(scope['settings']) * len(scope['arms']) * len(scope['seeds'])
    assert len(suite.trainings) == planned
    assert all(
        'OverlapHook' in str(one.cfg) or 'WAUHook' in str(one.cfg) for one in suite.trainings
    )


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_those_of_the_scripts(page, tmp_path):
    wrong = [
        f'{page}: `{command}`: {why}'
        for where, command in COMMANDS
        if where == page and (why := pages.why_not_a_command(command, tmp_path))
    ]
    assert not wrong, '\n'.join(wrong)


def test_many_commands_are_found():
    assert len({command for _, command in COMMANDS}) > 20


def test_options_that_are_named_are_options_of_a_script():
    scripts = [*ROOT.glob('tools/**/*.py'), *ROOT.glob('examples/*.py')]
    parsers = [parser for script in scripts if (parser := pages.parser_of(script))]
    known = {option for parser in parsers for option in parser._option_string_actions}
    wrong = [
        f'{page}: no script has the option {option}'
        for page, text in PAGES.items()
        for span in pages.code_spans(text)
        for option in re.findall(r'(?<!\S)--[a-z][\w-]*', span)
        if option not in known and not span.startswith(('pip', 'git', 'mim', 'jupyter'))
    ]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    links = pages.links_of(PAGES[page])
    wrong = [f'{page}: {link} {why}' for link in links if (why := pages.why_not_a_link(page, link))]
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('page', PAGES)
def test_files_that_are_named_exist(page):
    named = re.findall(
        r'(?<![\w/.])(?:configs|docs|examples|mmwau|requirements|tests|tools)/[a-z0-9_/]+\.[a-z]+\b',
        PAGES[page],
    )
    beside = (ROOT / page).parent
    assert [
        name for name in named if not (ROOT / name).exists() and not (beside / name).exists()
    ] == []


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('`python tools/train.py CONFIG --resumes`', 'unrecognized arguments: --resumes'),
        ('`bash tools/dist_train.sh CONFIG 8 --resumes`', 'unrecognized arguments: --resumes'),
        ('`bash tools/dist_train.sh CONFIG`', 'bash tools/dist_train.sh CONFIG GPUS'),
        ('```bash\npython tools/trian.py CONFIG\n```', 'there is no tools/trian.py'),
        ('```bash\npython tools/test.py CONFIG\n```', 'required: checkpoint'),
        ('```bash\nmake tests  # all\n```', 'the Makefile has no tests'),
        ('```bash\npip install mmwau[detector]\n```', 'mmwau has no extra detector'),
        ('```bash\nconda activate\n```', "nothing checks 'conda'"),
    ],
)
def test_wrong_command_is_found(text, why, tmp_path):
    (command,) = pages.commands_of('a.md', text)
    assert why in pages.why_not_a_command(command, tmp_path)


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('[a](docs/usages.md)', 'does not exist'),
        ('[a\nb](docs/usage.md#limit)', 'docs/usage.md has no heading for #limit'),
        ('[a](#results-1)', 'README.md has no heading for #results-1'),
        ('![a](docs/demo.jpg)', 'does not exist'),
        ('<img src="docs/demo.jpg">', 'does not exist'),
        ('[a](../shared)', 'does not exist'),
        ('[a](https//doi.org/10.1007)', 'does not exist'),
        ('[a](https:doi.org/10.1007)', 'is no address'),
        ('[a][paper]', 'is not defined'),
        ('[paper]: docs/paper.md', 'does not exist'),
    ],
)
def test_wrong_link_is_found(text, why):
    (link,) = pages.links_of(text)
    assert why in pages.why_not_a_link('README.md', link)


@pytest.mark.parametrize(
    'text', ['```\nmake demo\n```', '```text\nloss\n```', '```python\nwau.select(layers, 0)\n```']
)
def test_block_that_nothing_checks_is_found(text):
    (block,) = pages.blocks_of('a.md', text)
    assert pages.kind_of(block) is None


def test_anchors_are_those_of_github():
    text = '# A *b*: `c/d.py`, e_f!\n## A-b\n## A-b\n```bash\n# no heading\n```\n## [x](y.md) z\n'
    assert pages.slugs_of(text) == {'a-b-cdpy-e_f', 'a-b', 'a-b-1', 'x-z'}


def rows_below(page, heading):
    """The rows of the tables below a heading, without their headers."""
    text = re.search(rf'^## {heading}\n(.*?)(?=^## |\Z)', page, re.MULTILINE | re.DOTALL)[1]
    return [table[1:] for table in pages.tables_of(text)]


def signature(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }


def test_tables_of_arguments_are_the_signatures():
    (wrappers,) = rows_below(USAGE, 'Arguments of the wrappers')
    hooks = rows_below(USAGE, 'Arguments of the hooks')
    told = [
        eval(f'dict({", ".join(row[0].strip("`") for row in rows)})') for rows in (wrappers, *hooks)
    ]
    assert told == [signature(kind.__init__) for kind in (WAUMixin, WAUHook, OverlapHook)]


def test_settings_to_choose_from_are_taken():
    (rows,) = rows_below(USAGE, 'Which settings')
    chosen = {row[0]: eval(f'dict({row[1].strip("`")})') for row in rows}
    assert len(chosen) == 8
    for settings in chosen.values():
        WAUOptimWrapper(optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1), **settings)
    config = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_wau_authors_coco.py')
    used = {name: config.optim_wrapper[name] for name in chosen["the authors' code"]}
    assert chosen["the authors' code"] == used
    config = Config.fromfile(ROOT / 'configs/cifar/resnet20_wau_authors_layers_cifar10.py')
    way = chosen["the authors' second way"]
    assert way == {name: config.optim_wrapper[name] for name in way}


def test_schedule_is_as_asked():
    (hook,) = run(snippet('docs/usage.md', 'ratio_schedule'))['custom_hooks']
    assert hook.pop('type') == 'WAUHook'
    schedule = WAUHook(**hook).ratio_schedule
    assert [schedule.at(epoch) for epoch in (0, 1, 10, 11)] == [1, 1, 0.25, 1]


def test_loop_of_your_own_skips():
    scope = run(snippet('docs/usage.md', 'HeldGradSkipper('))
    reason = 'so few slices are held that skipping them costs more than it saves'
    assert scope['skipper'].find_full() == {'0': reason}
    assert scope['wau'].update_ratio == 0.25


def test_hook_for_runs_without_wau_is_that_of_the_baselines():
    scope = run(snippet('docs/analysis.md', 'OverlapHook'))
    config = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_coco.py')
    assert scope['custom_hooks'] == config.custom_hooks
    assert scope['custom_imports'] == config.custom_imports


def train(step, updates=6):
    """Train a convolution with momentum and weight decay; its weights after each update."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 8, 3, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    (layer,) = find_layers(model).values()
    weights = []
    for update in range(updates):
        (active,) = WAU(0.5).select([layer], update)
        model(torch.randn(2, 3, 6, 6)).square().mean().backward()
        step(optimizer, layer, active)
        optimizer.zero_grad()
        weights.append(model.weight.detach().clone())
    return weights


def with_mmwau(hold):
    def step(optimizer, layer, active):
        with WAU(0.5, hold=hold).holding(optimizer, [layer], [active]):
            optimizer.step()

    return train(step)


def test_rule_in_code_is_the_method():
    update = run(snippet('docs/method.md', 'def update'))['update']
    told = train(lambda optimizer, layer, active: update(optimizer, layer.tensors[0][0], active))
    assert all(map(torch.equal, told, with_mmwau('weight')))


@pytest.mark.parametrize('hold', ['weight', 'state', 'grad'])
def test_formulas_of_what_is_held_are_the_method(hold):
    """The table of docs/method.md, read aloud."""
    momentum = torch.zeros(8, 3, 3, 3)
    mu, weight_decay, eta = 0.9, 0.01, 0.1

    def step(optimizer, layer, active):
        nonlocal momentum
        weight = layer.tensors[0][0]
        m, v, g, w = active.float().view(-1, 1, 1, 1), momentum, weight.grad, weight.detach()
        momentum = {
            'weight': mu * v + g + weight_decay * w,
            'state': v + m * (mu * v + g + weight_decay * w - v),
            'grad': mu * v + m * g + weight_decay * w,
        }[hold]
        weight.data -= eta * (momentum if hold == 'grad' else m * momentum)

    assert {f"`'{hold}'`" for hold in ('weight', 'state', 'grad')} < {
        row[0] for row in rows_below(METHOD, 'What a held slice keeps')[0]
    }
    for told, done in zip(train(step), with_mmwau(hold), strict=True):
        torch.testing.assert_close(told, done)


def test_drawings_name_every_folder_of_the_package():
    (drawing,) = of_kind('drawing')
    named = set(re.findall(r'(\w+)/', drawing.values[0].text))
    assert all((ROOT / 'mmwau' / name).is_dir() or (ROOT / name).is_dir() for name in named)
    folders = {path.name for path in (ROOT / 'mmwau').iterdir() if path.is_dir()}
    data = {'models', 'datasets', 'configs', 'files'}
    assert {name for name in folders if name[0] not in '._'} - data <= named


def test_modules_import_only_what_the_drawing_has_below_them():
    (drawing,) = of_kind('drawing')
    lines = [line.partition('#')[0] for line in drawing.values[0].text.splitlines()]
    level = {name: -row for row, line in enumerate(lines) for name in re.findall(r'\w+', line)}
    imports = set()
    for path in (ROOT / 'mmwau').rglob('*.py'):
        importer = path.relative_to(ROOT / 'mmwau').with_suffix('').parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmwau.'):
                imports.add((importer, node.module.split('.')[1]))
    pairs = {pair for pair in imports if pair[0] != pair[1] and set(pair) <= set(level)}
    assert len(pairs) > 50
    assert [pair for pair in pairs if level[pair[0]] <= level[pair[1]]] == []


def test_contributing_names_every_module_once():
    (rows,) = rows_below(PAGES['CONTRIBUTING.md'], 'Where things are')
    named = []
    for row in rows:
        folder = ''
        for name in re.findall(r'`([^`]+)`', row[0]):
            if '/' in name[:-1]:
                folder = name[: name[:-1].rindex('/') + 1]
                name = name.removeprefix(folder)
            named.append(f'{folder}{name}')
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert sorted(named) == sorted(set(named))
    parts = [
        path
        for path in (ROOT / 'mmwau').iterdir()
        if path.name[0] not in '._' and (path.is_dir() or path.suffix == '.py')
    ]
    scripts = [*ROOT.glob('tools/*.py'), *ROOT.glob('tools/*.sh'), *ROOT.glob('tools/*/')]
    tree = [
        f'{path.relative_to(ROOT)}{"/" if path.is_dir() else ""}' for path in [*parts, *scripts]
    ]
    missing = {name for name in tree if '__pycache__' not in name} - set(named)
    assert not missing, f'{sorted(missing)} have no row in CONTRIBUTING.md, "Where things are"'
