import importlib.util
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from detection import ROOT
from PIL import Image
from rich.console import Console

from mmwau.datasets.shapes import make_shapes
from mmwau.experiment.record import TrainingRecord

SMALL = """
_base_ = {config!r}
train_cfg = dict(max_epochs=2)
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""
FINDS_NOTHING = 'model = dict(test_cfg=dict(rcnn=dict(score_thr=2)))\n'
FOLDERS = {
    arm: f'work_dirs/demo/faster_r_cnn_r18_fpn/{arm.lower()}/seed0' for arm in ('baseline', 'WAU')
}


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The demo in a project of its own, with few images and two epochs."""
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    spec = importlib.util.spec_from_file_location('demo', tmp_path / 'tools' / 'demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / module.SUITE.parent).mkdir(parents=True)
    shutil.copy(ROOT / module.SUITE, tmp_path / module.SUITE)
    for arm in ('', '_wau'):
        name = f'configs/faster_rcnn_r18{arm}_demo.py'
        (tmp_path / name).write_text(SMALL.format(config=str(ROOT / name)))
    make_shapes(tmp_path / 'data' / 'demo', {'train': 12, 'val': 9}, progress=False)
    monkeypatch.chdir(tmp_path)
    return module


def run_demo():
    """Run it; the upstream packages warn of themselves on its standard error."""
    done = subprocess.run([sys.executable, 'tools/demo.py'], capture_output=True, text=True)
    warned = r'^\S+\.py:\d+: \w*Warning: .*\n  .*\n'
    done.stderr = re.sub(warned, '', done.stderr, flags=re.MULTILINE)
    return done


def trainings(demo):
    return demo.read_suite(demo.SUITE).trainings[:2]


@pytest.mark.slow
def test_demo_trains_both_arms_compares_and_shows(demo, capfd):
    """One of the detectors finds nothing, which is no reason to stop."""
    with open('configs/faster_rcnn_r18_wau_demo.py', 'a') as config:
        config.write(FINDS_NOTHING)
    done = run_demo()
    assert (done.returncode, done.stderr) == (0, '')
    lines = done.stdout.splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) < 150
    for arm, folder in FOLDERS.items():
        assert any(line.split() == [arm, f'{folder}/output.log'] for line in lines)
        assert 'Epoch(train) [2][3/3]' in Path(folder, 'output.log').read_text()
    epochs = [line.partition('  baseline')[0] for line in lines if line.startswith('epoch')]
    assert epochs in (['epoch  1/2', 'epoch  2/2'], ['epoch  2/2'])  # it looks twice a second
    (last,) = (line for line in lines if line.startswith('epoch  2/2'))
    number = r'[\d.]+'
    assert re.search(rf'baseline: loss {number} AP50 {number} overlap 0\.\d+ active 1\.00  ', last)
    assert re.search(rf'WAU: loss {number} AP50 – overlap 0\.\d+ active 0\.50', last)
    assert re.search(rf'AP at IoU 0.50 +│ +{number} │ +– │', done.stdout)
    told = ' '.join(done.stdout.split())
    assert "AP can't be compared: WAU found nothing." in told
    for name in ('detections.png', 'overlap.png'):
        assert done.stdout.count(f'work_dirs/demo/{name}') == 1
        with Image.open(f'work_dirs/demo/{name}') as image:
            assert image.width > 500
    # Started again, it trains nothing and shows the same.
    demo.end_on_signals = lambda: None  # pytest has its own
    demo.main()
    again = capfd.readouterr().out
    assert f'trained already; to train anew, remove {FOLDERS["WAU"]}' in again
    assert 'epoch ' not in again
    shown = [text[text.index('On 9 images') :] for text in (done.stdout, again)]
    assert shown[0] == shown[1]


@pytest.mark.slow
def test_error_shows_the_end_of_the_log_and_its_path(demo):
    for arm in ('', '_wau'):
        with open(f'configs/faster_rcnn_r18{arm}_demo.py', 'a') as config:
            config.write("optim_wrapper = dict(clip_grad=dict(max_norm='much'))\n")
    done = run_demo()
    assert (done.returncode, done.stderr) == (1, '')
    lines = done.stdout.splitlines()
    log = f'{FOLDERS["baseline"]}/output.log'
    assert lines[-1] == f'These were the last lines of {log}'
    assert re.match(r'The training of baseline failed: exit status 1: \w+Error', lines[-2])
    end = [f'  {line}'[:302] for line in Path(log).read_text().splitlines()[-demo.LOG_LINES :]]
    assert lines[-2 - demo.LOG_LINES : -2] == end
    assert len(lines) < 25


def log_scalars(folder, *entries):
    path = folder / '20261126_120000/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, entries)) + '\n{"loss": 0.1, "ep')


def test_terminal_shows_how_far_both_trainings_are(demo):
    baseline, wau = trainings(demo)
    trained = dict(step=3, iter=3, epoch=1, loss=1.25)
    log_scalars(
        demo.WORK_DIR / wau.folder,
        dict(step=0, overlap=0.05),
        dict(trained, active_fraction=0.5),
        dict(step=1, **{demo.AP50: 0.75}),
    )
    told = io.StringIO()
    screen = demo.Screen(Console(file=told, force_terminal=True, width=80), [baseline, wau])
    with screen.live:
        screen.wait()
    rows = re.sub(r'\x1b\[[?\d;]*[a-zA-Z]|━|╸|╺', '', told.getvalue()).splitlines()
    assert rows[0].split() == ['epoch', 'loss', 'AP50', 'overlap', 'active', 'left']
    assert rows[1].split() == ['baseline', '1/2', '–', '–', '–', '–', '–']
    assert rows[2].split() == ['WAU', '1/2', '1.250', '0.750', '0.0500', '0.50', '–']


def records(demo, **values):
    names = {'AP': 'coco/bbox_mAP', 'overlap': demo.OVERLAP}
    return [
        TrainingRecord(
            'a', arm, 0, '', '', 'finished', values={names[k]: v[i] for k, v in values.items()}
        )
        for i, arm in enumerate(('baseline', 'WAU'))
    ]


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        (
            dict(AP=(0.7, 0.66), overlap=(0.08, 0.06)),
            ["overlap less: 0.0600, the baseline's 0.0800"],
        ),
        (dict(AP=(0.7, 0.66), overlap=(0.08, 0.06)), ["AP is 0.040 lower than the baseline's"]),
        (dict(AP=(0.7, 0.75), overlap=(0.05, 0.06)), ['overlap more', 'is 0.050 higher']),
    ],
)
def test_sentence_says_what_the_numbers_mean(demo, values, words):
    told = demo.explain(*records(demo, **values), random=0.049)
    for part in (*words, 'random filters 0.0490', 'docs/analysis.md'):
        assert part in told


@pytest.mark.parametrize(('options', 'status'), [(['--help'], 0), (['--quick'], 2)])
def test_options_start_nothing(options, status, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['demo.py', *options])
    monkeypatch.setattr('subprocess.Popen', lambda *_, **__: pytest.fail('the demo was started'))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / 'demo.py'), run_name='__main__')
    assert stopped.value.code == status
    assert 'usage: demo.py' in ''.join(capsys.readouterr())
