import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmwau import WAUHook

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
USAGE = (ROOT / 'docs' / 'usage.md').read_text()
ANALYSIS = (ROOT / 'docs' / 'analysis.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README + USAGE, re.DOTALL)


def test_first_lines_are_the_two_commands():
    lines = README.splitlines()
    assert lines[0] == '```'
    assert [line.split()[:2] for line in lines[1:3]] == [['make', 'demo'], ['make', 'test']]


def test_the_three_lines_are_those_of_the_configs(tmp_path):
    config = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_wau_coco.py')
    (tmp_path / 'three_lines.py').write_text(SNIPPETS[0])
    for key, value in Config.fromfile(tmp_path / 'three_lines.py').items():
        shown, used = value, config[key]
        if key == 'optim_wrapper':
            used = {name: used[name] for name in shown}
        assert shown == used, key


def test_schedule_is_one_that_the_hook_takes():
    scope = {}
    exec(next(snippet for snippet in SNIPPETS if 'ratio_schedule' in snippet), scope)
    (hook,) = scope['custom_hooks']
    assert hook.pop('type') == 'WAUHook'
    schedule = WAUHook(**hook).ratio_schedule
    assert [schedule.at(epoch) for epoch in (0, 1, 9, 10, 11)] == [1, 1, 0.25, None, 1]


def test_plain_loop_runs_and_holds():
    scope = {}
    exec(next(snippet for snippet in SNIPPETS if 'import torch' in snippet), scope)
    assert [layer.num_slices for layer in scope['layers']] == [16, 8]
    assert scope['update'] == 9


def test_loop_that_skips_runs_and_skips():
    scope = {}
    exec(next(snippet for snippet in SNIPPETS if 'HeldGradSkipper(' in snippet), scope)
    reason = 'so few slices are held that skipping them costs more than it saves'
    assert scope['skipper'].find_full() == {'0': reason}


def test_settings_that_send_less_are_taken():
    scope = {}
    exec(next(snippet for snippet in SNIPPETS if 'send_active_only' in snippet), scope)
    (hook,) = scope['custom_hooks']
    assert hook.pop('type') == 'WAUHook'
    WAUHook(**hook).check_hold(scope['optim_wrapper']['hold'])


def test_hook_of_plain_runs_is_that_of_the_plain_twins():
    scope = {}
    exec(re.search(r'```python\n(.*?)```', ANALYSIS, re.DOTALL)[1], scope)
    config = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_coco.py')
    assert scope['custom_hooks'] == config.custom_hooks
    assert scope['custom_imports'] == config.custom_imports


PAGES = sorted(path.stem for path in (ROOT / 'docs').glob('*.md'))


@pytest.mark.parametrize('page', PAGES)
def test_files_that_the_docs_name_exist(page):
    text = (ROOT / 'docs' / f'{page}.md').read_text()
    links = re.findall(r'\]\((?!https?:)([\w/.-]+)(?:#[\w-]+)?\)|src="([^"]+)"', text)
    names = [first or second for first, second in links]
    assert [name for name in names if not (ROOT / 'docs' / name).exists()] == []
    scripts = set(re.findall(r'\b(?:configs|tools|mmwau)/[a-z0-9_/]+\.(?:py|sh)\b', text))
    assert [name for name in scripts if not (ROOT / name).exists()] == []


def test_files_it_names_exist():
    names = set(re.findall(r'\b(?:configs|tools|mmwau)/[a-z0-9_/]+\.(?:py|sh)\b', README))
    names |= {f'configs/{name}' for name in re.findall(r'`(faster_rcnn\w+\.py)`', README)}
    names |= set(re.findall(r'\]\(([\w/.]+)(?:#[\w-]+)?\)', README))
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []
