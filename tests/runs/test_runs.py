import json
import math
import re
import runpy

import pytest
from detection import ROOT, run_python
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from PIL import Image
from small import SmallData, small_runner

from mmwau.files.json_text import to_json
from mmwau.overlap import layer_overlap
from mmwau.reporting.statistics import difference, summarise, summarise_curves
from mmwau.runs.arms import group_into_arms
from mmwau.runs.checks import (
    baseline_first,
    check_comparable,
    choose_shown_metric,
    find_warnings,
)
from mmwau.runs.reader import read_run
from mmwau.runs.report import MINUS, NO_BREAK, NO_VALUE, RunsReport

SCRIPT = ROOT / 'tools' / 'analysis_tools' / 'compare_runs.py'
PLAIN = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
EPOCHS = dict(type='EpochBasedTrainLoop', max_epochs=2)
BOX = 'coco/bbox_mAP'


def wau(**options):
    return {**PLAIN, 'type': 'WAUOptimWrapper', **options}


def train(step, loss, epoch=1, **more):
    return {'loss': loss, 'epoch': epoch, 'iter': step, 'step': step, **more}


def val(step, value, **more):
    return {BOX: value, 'time': 0.1, 'data_time': 0.1, 'step': step, **more}


def two_epochs(value, loss=1.0, overlap=0.5):
    """Lines of a training of 2 epochs with 4 iterations, each second one logged."""
    return [
        {'overlap': 0.1, 'stage_overlap/neck': 0.1, 'step': 0},
        train(2, 9.0),
        train(4, 8.0),
        val(1, value - 0.25),
        train(6, loss + 0.5, epoch=2),
        train(8, loss - 0.5, epoch=2),
        {'overlap': overlap, 'stage_overlap/neck': 2 * overlap, 'step': 8},
        val(2, value),
    ]


def write(work_dir, lines, start='20260101_000000', seed=None, text='', **config):
    """A start of a training in a work_dir, as MMEngine writes it."""
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines) + text)
    config = {'optim_wrapper': PLAIN, 'train_cfg': EPOCHS, 'work_dir': str(work_dir), **config}
    if seed is not None:
        config['randomness'] = dict(seed=seed)
    Config(config).dump(folder / 'config.py')
    return work_dir


def read(*work_dirs):
    return [read_run(work_dir) for work_dir in work_dirs]


def labels(*work_dirs):
    return {arm.label: [run.work_dir.name for run in arm.runs] for arm in arms_of(*work_dirs)}


def arms_of(*work_dirs):
    return group_into_arms(read(*work_dirs))


def ascii_signs(text):
    return text.replace(MINUS, '-').replace(NO_BREAK, ' ')


def cells(table):
    """A table's texts by row and column."""
    return {
        row[0]: dict(
            zip(map(ascii_signs, table.columns[1:]), map(ascii_signs, row[1:]), strict=True)
        )
        for row in table.rows
    }


class Watch(BaseMetric, Hook):
    """Metric and hook: keeps what the Runner did, to compare with what is read."""

    def __init__(self):
        super().__init__()
        self.losses, self.values = [], []

    def process(self, data_batch, data_samples):
        self.results += [sample.item() for sample in data_samples]

    def compute_metrics(self, results):
        self.values.append(sum(results) / len(results))
        return {'mean': self.values[-1], 'text': 'no number'}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())


def train_small(work_dir, seed, wrapper, hook, by_epoch=True):
    watch = Watch()
    train_cfg = dict(max_epochs=2) if by_epoch else dict(max_iters=6, val_interval=3)
    kind = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    config = dict(
        optim_wrapper=wrapper,
        randomness=dict(seed=seed),
        custom_hooks=[hook],
        train_cfg=dict(type=kind, **train_cfg),
    )
    runner = small_runner(
        work_dir,
        dict(wrapper),
        [watch, dict(hook)],
        cfg=Config(config),
        train_cfg=config['train_cfg'],
        randomness=dict(seed=seed),
        sampler=None if by_epoch else dict(type='InfiniteSampler'),
        log_processor=dict(window_size=1, by_epoch=by_epoch),
        val_dataloader=dict(
            dataset=SmallData(),
            batch_size=4,
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        val_cfg=dict(),
        val_evaluator=Evaluator(watch),
    )
    runner.train()
    model = runner.model
    return watch, (layer_overlap(model.backbone[1]), layer_overlap(model.neck))


OVERLAP_HOOK, WAU_HOOK = (
    dict(type=name, overlap_interval=2) for name in ('OverlapHook', 'WAUHook')
)


def test_real_runs_are_read_as_they_were_trained(tmp_path):
    watch, (stage, neck) = train_small(tmp_path / 'run', 5, dict(wau()), WAU_HOOK)
    run = read_run(tmp_path / 'run')
    assert (run.seed, run.by_epoch, run.length, run.trained, run.finished) == (5, True, 2, 2, True)
    assert list(run.loss.values()) == pytest.approx(watch.losses)
    assert list(run.loss) == [1, 2, 3, 4, 5, 6]
    assert run.metrics == {'mean': {1: watch.values[0], 2: watch.values[1]}}
    assert list(run.overlaps['overlap']) == [0, 2, 4, 6]
    assert run.final('overlap') == pytest.approx((stage + neck) / 2)
    assert run.final('stage_overlap/backbone.1') == pytest.approx(stage)
    assert run.final('loss') == pytest.approx(sum(watch.losses[3:]) / 3)
    assert run.final('loss', at=1) == pytest.approx(sum(watch.losses[:3]) / 3)
    assert run.final('mean', at=1) == watch.values[0]
    assert run.final('overlap', at=1) == run.overlaps['overlap'][2]


def test_real_run_that_counts_iterations(tmp_path):
    watch, _ = train_small(tmp_path / 'run', 0, dict(PLAIN), OVERLAP_HOOK, by_epoch=False)
    run = read_run(tmp_path / 'run')
    assert (run.by_epoch, run.length, run.trained, run.finished) == (False, 6, 6, True)
    # LoggerHook writes the epoch, which is always 0, unless it is set otherwise.
    assert run.metrics == {'mean': {3: watch.values[0], 6: watch.values[1]}}
    assert run.final('loss') == pytest.approx(watch.losses[-1])
    assert run.final('loss', at=3) == pytest.approx(watch.losses[2])
    assert run.final('overlap', at=3) == run.overlaps['overlap'][2]


def test_script_compares_real_runs(tmp_path):
    found = {}
    for name, wrapper, hook in (('baseline', PLAIN, OVERLAP_HOOK), ('wau', wau(), WAU_HOOK)):
        for seed in (0, 1):
            watch, _ = train_small(tmp_path / f'{name}_{seed}', seed, dict(wrapper), hook)
            found[name, seed] = watch.values[-1]
    work_dirs = [f'{name}_{seed}' for name, seed in found]
    process = run_python(SCRIPT, *work_dirs, '--out', 'out [v1]', cwd=tmp_path)
    assert process.returncode == 0, process.stdout
    assert 'Written: out [v1]/compare_runs.html\n' in process.stdout
    assert '4 runs in 2 arms; differences are relative to baseline' in process.stdout
    # The tool's own, and Python's but for what the libraries below mmwau deprecate.
    assert not re.search(r'(?<!Deprecation)(?<!Future)Warning', process.stdout)
    minus = [found['wau', seed] - found['baseline', seed] for seed in (0, 1)]
    mean, std = sum(minus) / 2, abs(minus[0] - minus[1]) / math.sqrt(2)
    results = json.loads((tmp_path / 'out [v1]/compare_runs.json').read_text())
    assert results['arms']['WAU']['differences']['mean'] == pytest.approx(
        dict(mean=mean, std=std, count=2, paired=True)
    )
    text = f'{mean:+.3f} ± {std:.3f} (2 pairs)'
    page = (tmp_path / 'out [v1]/compare_runs.html').read_text()
    assert text in ascii_signs(process.stdout)
    assert text in ascii_signs(page)
    assert page.count('src="data:image/png') == 2
    assert all(f'<td>{work_dir}</td>' in page for work_dir in work_dirs)
    for name in ('compare_runs.png', 'compare_runs_stages.png'):
        with Image.open(tmp_path / 'out [v1]' / name) as image:
            assert image.size[0] > 900


def test_a_resumed_run_has_the_lost_work_left_out(tmp_path):
    loop = dict(EPOCHS, max_epochs=3)
    first = [
        {'overlap': 0.1, 'step': 0},
        train(2, 9.0),
        train(4, 8.0),
        val(1, 0.1),
        train(6, 7.0, epoch=2),
        {'overlap': 0.2, 'step': 6},
        train(8, 6.0, epoch=2),
        val(2, 0.2),
    ]
    write(tmp_path, first, seed=1, train_cfg=loop)
    # Goes on from the checkpoint of the first epoch, and is killed in the next one but one.
    second = [
        {'overlap': 0.15, 'step': 4},
        train(6, 5.0, epoch=2),
        train(8, 4.0, epoch=2),
        train(10, 3.0, epoch=3),
    ]
    write(tmp_path, second, start='20260102_000000', seed=1, train_cfg=loop, resume=True)
    # Testing leaves a folder as well.
    write(tmp_path, [val(0, 0.9)], start='20260103_000000', seed=8)
    run = read_run(tmp_path)
    assert run.loss == {2: 9.0, 4: 8.0, 6: 5.0, 8: 4.0, 10: 3.0}
    assert run.metrics == {BOX: {1: 0.1}}
    assert run.overlaps == {'overlap': {0: 0.1, 4: 0.15}}
    assert (run.seed, run.trained, run.finished, run.starts) == (1, 2, False, 2)
    assert run.config == tmp_path / '20260102_000000/vis_data/config.py'
    assert run.final('loss') == 4.5


def test_a_training_that_was_begun_anew_replaces_the_first(tmp_path):
    write(tmp_path, two_epochs(0.5))
    write(tmp_path, [train(2, 1.0)], start='20260102_000000')
    run = read_run(tmp_path)
    assert (run.loss, run.metrics, run.trained, run.starts) == ({2: 1.0}, {}, 0, 1)


def test_nothing_is_left_of_a_training_that_was_begun_anew(tmp_path):
    write(tmp_path, two_epochs(0.5), optim_wrapper=wau(), load_from='first.pth')
    # Neither measures the overlap nor begins with the same weights.
    second = [train(2, 1.0), train(4, 1.0), train(6, 1.0, epoch=2), train(8, 1.0, epoch=2)]
    write(tmp_path, second, start='20260102_000000')
    run = read_run(tmp_path)
    assert (run.overlaps, run.metrics, run.notes, run.starts) == ({}, {}, [], 1)
    assert 'load_from' not in run.settings
    # One that goes on before the first line keeps what was measured before it.
    write(tmp_path / 'on', two_epochs(0.5))
    write(tmp_path / 'on', second, start='20260102_000000', resume=True)
    assert read_run(tmp_path / 'on').overlaps['overlap'] == {0: 0.1}


def test_a_run_that_goes_on_with_other_settings_is_reported(tmp_path):
    first, second = two_epochs(0.5)[:4], two_epochs(0.5)[4:]
    for name, config in {
        'wau': dict(optim_wrapper=wau(hold='state')),
        'seed': dict(seed=4),
        'loaded': dict(load_from='epoch_1.pth'),
    }.items():
        write(tmp_path / name, first, **{'seed': 3, **(config if name == 'seed' else {})})
        config = dict(seed=3) if name == 'seed' else dict(config, seed=3)
        write(tmp_path / name, second, start='20260102_000000', resume=True, **config)
    wau_run, seed, loaded = read(*(tmp_path / name for name in ('wau', 'seed', 'loaded')))
    told = (
        '20260101_000000, a part of the training, had other settings than the last start, under '
        'which the run counts: '
    )
    assert wau_run.notes == [f"{tmp_path / 'wau'}/{told}WAU (None, {{'hold': 'state'}})"]
    assert seed.notes == [f'{tmp_path / "seed"}/{told}randomness.seed (4, 3)']
    assert loaded.notes == []
    assert (wau_run.starts, seed.starts, loaded.starts) == (2, 2, 2)


def test_validations_that_are_logged_by_iteration_count_epochs(tmp_path):
    lines = [
        {**line, 'step': 4 * line['step']} if BOX in line else line for line in two_epochs(0.5)
    ]
    run = read_run(write(tmp_path / 'a', lines, train_cfg=dict(EPOCHS, max_epochs=6)))
    assert (run.metrics, run.validations) == ({BOX: {1: 0.25, 2: 0.5}}, [1, 2])
    assert (run.trained, run.finished) == (2, False)
    # What a hook logs by itself is no validation of its own.
    run = read_run(write(tmp_path / 'b', [*two_epochs(0.5), {'temperature': 3.0, 'step': 8}]))
    assert (run.final(BOX), run.validations, run.trained) == (0.5, [1, 2], 2)


def test_half_a_last_line_is_left_out_with_a_note(tmp_path):
    write(tmp_path, two_epochs(0.5), text='{"loss": 0.3, "ep')
    run = read_run(tmp_path)
    assert run.metrics[BOX] == {1: 0.25, 2: 0.5}
    assert [note for note in run.notes if 'scalars.json ends in half a line' in note] == run.notes
    assert run.notes == find_warnings(group_into_arms([run]), BOX, None)


@pytest.mark.parametrize('line', ['{"loss": 0.3, "ep', '[1]', '{"loss": 0.3}'])
def test_a_broken_line_in_the_middle_is_reported(tmp_path, line):
    write(tmp_path, [train(2, 9.0)], text=line + '\n' + json.dumps(val(1, 0.5)) + '\n')
    with pytest.raises(ValueError, match=r'scalars\.json, line 2 is not what MMEngine writes'):
        read_run(tmp_path)


def test_overlap_within_training_lines_is_read_where_there_is_no_other(tmp_path):
    old = [train(2, 9.0, overlap=0.1), train(4, 8.0, overlap=0.2)]
    write(tmp_path / 'old', old)
    write(tmp_path / 'new', [*old, {'overlap': 0.4, 'overlap/neck': 0.3, 'step': 4}])
    old, new = read(tmp_path / 'old', tmp_path / 'new')
    assert old.overlaps == {'overlap': {2: 0.1, 4: 0.2}}
    assert new.overlaps == {'overlap': {4: 0.4}, 'stage_overlap/neck': {4: 0.3}}


def test_a_run_has_one_curve_for_a_stage_whichever_version_logged_it(tmp_path):
    first = [{'overlap': 0.1, 'overlap/neck': 0.3, 'step': 0}, train(2, 9.0), train(4, 8.0)]
    write(tmp_path, first)
    second = [{'overlap': 0.2, 'stage_overlap/neck': 0.4, 'step': 2}, train(3, 7.0)]
    write(tmp_path, second, start='20260102_000000', resume=True)
    run = read_run(tmp_path)
    assert run.overlaps == {'overlap': {0: 0.1, 2: 0.2}, 'stage_overlap/neck': {0: 0.3, 2: 0.4}}


def test_path_lengths_of_an_earlier_version_are_read(tmp_path):
    moved = dict(movement=0.5, displacement=0.25)
    write(tmp_path, [train(2, 9.0, **moved), train(4, 8.0, path_length=0.75, displacement=0.5)])
    run = read_run(tmp_path)
    assert run.movements == {'path_length': {2: 0.5, 4: 0.75}, 'displacement': {2: 0.25, 4: 0.5}}
    assert run.final('path_length') == 0.75


def test_arms_are_runs_that_differ_only_in_their_seed(tmp_path):
    variants = dict(
        baseline_0=dict(seed=0, launcher='pytorch'),
        baseline_1=dict(
            seed=1,
            custom_hooks=[dict(type='OverlapHook')],
            resume=True,
            custom_imports=dict(imports=['mmwau']),
        ),
        wau_0=dict(seed=0, optim_wrapper=wau(), custom_hooks=[dict(type='WAUHook')]),
        wau_1=dict(
            seed=1,
            optim_wrapper=wau(hold='weight', targets=['backbone', 'neck']),
            custom_hooks=[dict(type='WAUHook', overlap_interval=5, by_epoch=True)],
        ),
        wau_2=dict(seed=2, optim_wrapper=wau(update_ratio=0.5)),
        state_0=dict(seed=0, optim_wrapper=wau(hold='state')),
        both_0=dict(seed=0, optim_wrapper=wau(hold='state', axis='in')),
        ratio_0=dict(
            seed=0,
            optim_wrapper=wau(),
            custom_hooks=[
                dict(type='WAUHook', ratio_schedule=dict(type='linear', start=1.0, stop=0.5, end=9))
            ],
        ),
    )
    folders = [write(tmp_path / name, two_epochs(0.5), **v) for name, v in variants.items()]
    assert labels(*reversed(folders)) == {
        'baseline': ['baseline_1', 'baseline_0'],
        'WAU ratio_schedule': ['ratio_0'],
        'WAU axis=in hold=state': ['both_0'],
        'WAU hold=state': ['state_0'],
        'WAU': ['wau_2', 'wau_1', 'wau_0'],
    }
    # What all arms share is not told.
    assert list(labels(folders[0], folders[5])) == ['baseline', 'WAU']
    assert list(labels(folders[5], folders[6])) == ['WAU', 'WAU axis=in']


def test_arms_of_one_kind_are_called_by_what_else_differs(tmp_path):
    fast = {**PLAIN, 'optimizer': dict(type='SGD', lr=0.2)}
    folders = [
        write(tmp_path / 'slow', two_epochs(0.5)),
        write(tmp_path / 'fast', two_epochs(0.5), optim_wrapper=fast),
        write(tmp_path / 'wau', two_epochs(0.5), optim_wrapper=wau()),
        # Differences deep down in more places than a label shows.
        *(
            write(
                tmp_path / f'long_{i}',
                two_epochs(0.5),
                optim_wrapper=wau(),
                model=dict(type='Net', widths=[i] * 30),
            )
            for i in range(2)
        ),
    ]
    assert list(labels(*folders)) == [
        'baseline lr=0.1',
        'baseline lr=0.2',
        'WAU',
        'WAU model.type=Net widths',
        'WAU model.type=Net widths #2',
    ]


def test_arms_that_differ_in_more_than_wau_are_reported(tmp_path):
    other = wau(optimizer=dict(type='SGD', lr=0.2))
    amp = {**wau(), 'type': 'WAUAmpOptimWrapper'}
    folders = [
        write(tmp_path / 'baseline', two_epochs(0.5)),
        write(tmp_path / 'wau', two_epochs(0.5), optim_wrapper=wau(hold='state')),
        write(
            tmp_path / 'lr',
            two_epochs(0.5),
            optim_wrapper=other,
            custom_hooks=[dict(type='WAUHook'), dict(type='EMAHook')],
        ),
        write(tmp_path / 'amp', two_epochs(0.5), optim_wrapper=amp),
        write(tmp_path / 'start', two_epochs(0.5), load_from='other.pth'),
    ]
    assert find_warnings(arms_of(*folders[:2]), BOX, None) == []
    begin = 'These arms differ in more than WAU: baseline and WAU in '
    assert find_warnings(arms_of(folders[0], folders[2]), BOX, None) == [
        f'{begin}optim_wrapper.optimizer.lr (0.1, 0.2), custom_hooks.0.type (not set, EMAHook)'
    ]
    assert find_warnings(arms_of(folders[0], folders[3]), BOX, None) == [
        f'{begin}optim_wrapper.type (OptimWrapper, AmpOptimWrapper)'
    ]
    assert list(labels(folders[0], folders[4])) == ['baseline', 'baseline load_from=other.pth']
    synchronised = write(tmp_path / 'sync', two_epochs(0.5), sync_bn='torch')
    assert list(labels(folders[0], synchronised)) == ['baseline', 'baseline sync_bn=torch']


def test_mean_and_spread_by_hand():
    assert summarise([1.0]).std is None
    assert (summarise([1.0, 2.0, 6.0]).mean, summarise([1.0, 2.0, 6.0]).std) == (
        3.0,
        pytest.approx(math.sqrt(7)),
    )


@pytest.mark.parametrize(
    ('values', 'baseline', 'expected'),
    [
        # Differences of pairs are 1 and 3; seed 2 has no partner.
        ([(0, 2.0), (1, 5.0), (2, 100.0)], [(1, 2.0), (0, 1.0)], (2.0, math.sqrt(2), 2, True)),
        ([(0, 2.0)], [(0, 1.0), (1, 50.0)], (1.0, None, 1, True)),
        ([(0, 2.0), (0, 4.0)], [(0, 1.0)], (2.0, None, 1, True)),
        ([(0, 2.0), (1, 4.0)], [(2, 1.0)], (2.0, None, 1, False)),
        ([(None, 2.0)], [(None, 1.0)], (1.0, None, 1, False)),
    ],
)
def test_differences_are_taken_in_pairs_of_the_same_seed(values, baseline, expected):
    found = difference(values, baseline)
    assert (found.mean, found.std, found.count, found.paired) == pytest.approx(expected)


def test_of_no_values_there_is_no_mean_no_difference_and_no_curve():
    assert summarise([]) is None
    assert difference([], [(0, 1.0)]) is None
    assert difference([(0, 1.0)], []) is None
    assert summarise_curves([]) == {}


def test_a_mean_curve_has_the_points_that_all_curves_have():
    found = summarise_curves([{3: 1.0, 1: 2.0, 2: 0.0}, {1: 4.0, 3: 3.0}])
    assert [(step, one.mean) for step, one in found.items()] == [(1, 3.0), (3, 2.0)]
    assert [one.std for one in found.values()] == pytest.approx([math.sqrt(2)] * 2)


def test_tables_show_mean_spread_and_difference(tmp_path):
    folders = [
        write(tmp_path / 'p0', two_epochs(0.5, loss=1.0, overlap=0.3), seed=0),
        write(tmp_path / 'p1', two_epochs(0.7, loss=2.0, overlap=0.3), seed=1),
        write(tmp_path / 'w1', two_epochs(0.6, loss=4.0, overlap=0.2), seed=1, optim_wrapper=wau()),
        write(tmp_path / 'w0', two_epochs(0.6, loss=4.0, overlap=0.1), seed=0, optim_wrapper=wau()),
    ]
    report = RunsReport(arms_of(*folders), BOX)
    (values,), (stages,) = report.value_tables(), report.stage_tables()
    assert cells(values) == {
        BOX: {
            'baseline': '0.600 ± 0.141 (2)',
            'WAU': '0.600 ± 0.000 (2)',
            'WAU - baseline': '+0.000 ± 0.141 (2 pairs)',
        },
        'loss': {
            'baseline': '1.500 ± 0.707 (2)',
            'WAU': '4.000 ± 0.000 (2)',
            'WAU - baseline': '+2.500 ± 0.707 (2 pairs)',
        },
        'overlap': {
            'baseline': '0.3000 ± 0.0000 (2)',
            'WAU': '0.1500 ± 0.0707 (2)',
            'WAU - baseline': '-0.1500 ± 0.0707 (2 pairs)',
        },
    }
    assert cells(stages)['neck']['WAU - baseline'] == '-0.3000 ± 0.1414 (2 pairs)'
    (single,) = RunsReport(arms_of(folders[0], folders[2]), BOX).value_tables()
    assert cells(single)[BOX] == {
        'baseline': '0.500 (1)',
        'WAU': '0.600 (1)',
        'WAU - baseline': '+0.100 (unpaired)',
    }
    rows = report.table_by_run().rows
    assert [row[:4] for row in rows] == [
        ['baseline', '0', '0.500', '1.000'],
        ['baseline', '1', '0.700', '2.000'],
        ['WAU', '1', '0.600', '4.000'],
        ['WAU', '0', '0.600', '4.000'],
    ]


def test_the_baseline_can_be_chosen(tmp_path):
    folders = [
        write(tmp_path / 'wau', two_epochs(0.75), optim_wrapper=wau(), seed=0),
        write(tmp_path / 'baseline', two_epochs(0.5), seed=0),
        write(tmp_path / 'state', two_epochs(0.25), optim_wrapper=wau(hold='state'), seed=0),
        write(tmp_path / 'in', two_epochs(0.5), optim_wrapper=wau(axis='in'), seed=0),
    ]
    arms = arms_of(*folders)
    assert baseline_first(arms, None)[0].label == 'baseline'
    chosen = baseline_first(arms, 'WAU hold=state')
    assert [arm.label for arm in chosen] == ['WAU hold=state', 'baseline', 'WAU', 'WAU axis=in']
    _, minus = RunsReport(chosen, BOX).value_tables()
    assert minus.title == 'Values at the end, difference to WAU hold=state'
    row = {label: text.split() for label, text in cells(minus)[BOX].items()}
    assert row['WAU'] == ['+0.500', '(1', 'pair)']
    with pytest.raises(ValueError, match=r"--baseline 'wau' is no arm.*: baseline, WAU, WAU hold"):
        baseline_first(arms, 'wau')


def test_metrics_that_say_nothing_are_left_out(tmp_path):
    more = dict(large=-1.0, text='0.5', flag=0.5)
    folders = [
        write(tmp_path / 'a', [train(2, 1.0), val(1, 0.5, **more)], seed=0),
        write(tmp_path / 'b', [train(2, 1.0), val(1, 0.5, large=-1.0)], seed=1),
    ]
    assert RunsReport(arms_of(*folders), BOX).names() == [BOX, 'loss']
    assert RunsReport(arms_of(folders[0]), BOX).names() == [BOX, 'flag', 'loss']
    assert choose_shown_metric(read(folders[0]), 'flag') == 'flag'
    with pytest.raises(ValueError, match=r'--metric mAP is unknown\. .*: coco/bbox_mAP, flag'):
        choose_shown_metric(read(folders[0]), 'mAP')


@pytest.mark.parametrize('nothing', [-1.0, math.nan, math.inf])
def test_what_is_no_measurement_is_left_out_and_named(tmp_path, nothing):
    large, square = 'coco/bbox_mAP_l', 'coco/square_precision'
    folders = [
        write(
            tmp_path / 'a',
            [
                train(2, 1.0),
                val(1, 0.5, **{large: 0.25, square: nothing}),
                train(4, 1.0, epoch=2),
                val(2, 0.5, **{large: 0.5, square: nothing}),
            ],
            seed=0,
        ),
        write(
            tmp_path / 'b',
            [
                train(2, 1.0),
                val(1, 0.5, **{large: 0.75, square: nothing}),
                train(4, 1.0, epoch=2),
                val(2, 0.5, **{large: nothing, square: nothing}),
            ],
            seed=1,
        ),
        write(
            tmp_path / 'w',
            [train(2, 1.0, epoch=2), val(2, 0.5, **{large: 1.0, square: nothing})],
            seed=1,
            optim_wrapper=wau(),
        ),
    ]
    arms = arms_of(*folders)
    report = RunsReport(arms, large)
    table = cells(report.value_tables()[0])
    assert list(table) == [BOX, large, 'loss']
    assert table[large] == {
        'baseline': '0.500 (1)',
        'WAU': '1.000 (1)',
        'WAU - baseline': '+0.500 (unpaired)',
    }
    assert [row[3] for row in report.table_by_run().rows] == ['0.500', NO_VALUE, '1.000']
    results = json.loads(to_json(report.results([])))
    assert results['arms']['baseline']['runs'][1]['values'][large] is None
    drawn = [line.get_xydata().tolist() for line in report.draw_curves().axes[0].lines]
    # The mean at the only point that both runs have.
    assert drawn[0] == [[1, 0.5]]
    reason = {-1.0: "-1, COCO's mark for nothing to count"}.get(nothing, str(nothing))
    begin = f'Left out, being no measurement ({reason}): '
    assert find_warnings(arms, large, None) == [
        f'{begin}{square} of {folders[0]}, {folders[1]}, {folders[2]}',
        f'{begin}{large} of {folders[1]}',
    ]
    # At an earlier point all is there.
    assert RunsReport(arms, large, at=1).summary(arms[0], large).count == 2
    with pytest.raises(
        ValueError, match=rf'--metric {square} is no measurement: it is {reason}\. M'
    ):
        choose_shown_metric(read(*folders), square)
    assert choose_shown_metric(read(folders[0]), None) == BOX


def test_a_metric_that_is_a_measurement_nowhere_is_not_chosen_by_itself(tmp_path):
    lines = [train(2, 1.0), val(1, -1.0, other=0.5)]
    write(tmp_path / 'a', lines)
    write(tmp_path / 'b', [train(2, 1.0), val(1, math.nan)])
    assert choose_shown_metric(read(tmp_path / 'a'), None) == 'other'
    assert choose_shown_metric(read(tmp_path / 'b'), None) is None
    told = find_warnings(arms_of(tmp_path / 'b'), None, None)
    assert told[-1] == 'No metric is a measurement in any run: there are no metrics'


def test_a_run_that_never_detects_anything_leaves_the_others_their_metric(tmp_path):
    nothing = [train(2, 1.0), {'time': 0.1, 'data_time': 0.1, 'step': 1}]
    folders = [
        write(tmp_path / 'a', [train(2, 1.0), val(1, 0.5)], seed=0),
        write(tmp_path / 'b', nothing, seed=1),
    ]
    assert choose_shown_metric(read(*folders), None) == BOX
    arms = arms_of(*folders)
    assert cells(RunsReport(arms, BOX).value_tables()[0])[BOX] == {'baseline': '0.500 (1)'}
    assert (
        f'No {BOX} in the last validation of {folders[1]} (' in find_warnings(arms, BOX, None)[-1]
    )


@pytest.mark.parametrize('losses', [(math.nan, math.nan), (math.inf, -math.inf), (1.0, math.nan)])
def test_a_run_that_diverged_is_named_and_its_loss_left_out(tmp_path, losses):
    lines = two_epochs(0.5, overlap=math.nan)
    lines[4]['loss'], lines[5]['loss'] = losses
    folders = [
        write(tmp_path / 'a', two_epochs(0.5, loss=3.0), seed=0),
        write(tmp_path / 'b', two_epochs(0.5, loss=3.0), seed=1),
        write(tmp_path / 'c', lines, seed=2),
    ]
    arms = arms_of(*folders)
    assert [run.diverged for run in arms[0].runs] == [False, False, True]
    report = RunsReport(arms, BOX)
    table = cells(report.value_tables()[0])
    assert table['loss'] == {'baseline': '3.000 ± 0.000 (2)'}
    # It was 0.1 before it was none.
    assert table['overlap'] == {'baseline': '0.5000 ± 0.0000 (2)'}
    assert table[BOX] == {'baseline': '0.500 ± 0.000 (3)'}
    told = find_warnings(arms, BOX, None)
    assert told[0] == f'Diverged, since the last loss is no number: {folders[2]}'
    assert told[1:] == [
        f'Left out, being no measurement (nan): loss, overlap, stage_overlap/neck of {folders[2]}'
    ]
    assert report.runs[2].final('loss', at=1) == 8.5
    report.draw_curves().canvas.draw()
    report.draw_stages().canvas.draw()


def test_script_compares_real_runs_that_diverged(tmp_path):
    wild = {**PLAIN, 'optimizer': dict(type='SGD', lr=1e30)}
    for seed in (0, 1):
        train_small(tmp_path / f'wild_{seed}', seed, wild, OVERLAP_HOOK)
    process = run_python(SCRIPT, 'wild_0', 'wild_1', '--out', 'out', cwd=tmp_path)
    assert process.returncode == 0, process.stdout
    assert 'Warning: Diverged, since the last loss is no number: wild_0, wild_1' in process.stdout
    assert re.search(
        r'Left out, being no measurement \(nan\): .*loss.*wild_0, wild_1', process.stdout
    )


def test_a_run_without_the_metric_is_reported_and_not_counted(tmp_path):
    # MMDetection gives no metric where nothing was detected.
    nothing = [*two_epochs(0.5)[:-1], {'time': 0.1, 'data_time': 0.1, 'step': 2}]
    folders = [
        write(tmp_path / 'a', two_epochs(0.5), seed=0),
        write(tmp_path / 'b', nothing, seed=1),
        write(tmp_path / 'c', two_epochs(0.5)[:3], seed=2),
    ]
    arms = arms_of(*folders)
    assert cells(RunsReport(arms, BOX).value_tables()[0])[BOX] == {'baseline': '0.500 (1)'}
    told = find_warnings(arms, BOX, None)[-1]
    assert told.startswith(f'No {BOX} in the last validation of {folders[1]}, {folders[2]} (')
    arms = arms_of(folders[2])
    assert choose_shown_metric(read(folders[2]), None) is None
    assert 'No run has a validation: there are no metrics' in find_warnings(arms, None, None)
    assert RunsReport(arms, None).names() == ['loss', 'overlap']
    assert len(RunsReport(arms, None).draw_curves().axes) == 2


def test_runs_without_a_metric_in_common_are_reported(tmp_path):
    others = [
        {'pck': 0.5, 'step': line['step']} if BOX in line else line for line in two_epochs(0.5)
    ]
    arms = arms_of(write(tmp_path / 'a', two_epochs(0.5)), write(tmp_path / 'b', others))
    assert choose_shown_metric(arms[0].runs, None) is None
    assert find_warnings(arms, None, None) == [
        'The runs have no metric in common: there are no metrics'
    ]


def test_runs_that_are_not_finished_are_reported_and_comparable_earlier(tmp_path):
    longer = dict(EPOCHS, max_epochs=4)
    folders = [
        write(tmp_path / 'a', two_epochs(0.5), seed=0, train_cfg=longer),
        write(
            tmp_path / 'b', [*two_epochs(0.75), train(10, 0.5, epoch=3)], seed=1, train_cfg=longer
        ),
    ]
    runs = read(*folders)
    assert find_warnings(group_into_arms(runs), BOX, None) == [
        f'Not finished: {folders[0]} (epoch 2 of 4), {folders[1]} (epoch 2 of 4); --at 2 compares '
        'all at that epoch'
    ]
    assert find_warnings(group_into_arms(runs), BOX, 1) == []
    check_comparable(runs, 1)
    report = RunsReport(group_into_arms(runs), BOX, at=1)
    table = cells(report.value_tables()[0])
    assert report.value_tables()[0].title.startswith('Values at epoch 1, mean')
    assert table[BOX]['baseline'] == '0.375 ± 0.177 (2)'
    assert table['loss']['baseline'] == '8.500 ± 0.000 (2)'
    assert table['overlap']['baseline'] == '0.1000 ± 0.0000 (2)'
    with pytest.raises(ValueError, match=r'--at 3: no validation after this epoch .* after: 1, 2$'):
        check_comparable(runs, 3)


def test_what_is_not_logged_at_the_end_makes_no_run_unfinished(tmp_path):
    logged = [train(4, 1.0), train(8, 1.0)]
    for length in (11, 12):
        loop = dict(type='IterBasedTrainLoop', max_iters=length)
        write(tmp_path / f'{length}', logged, train_cfg=loop)
    assert [run.finished for run in read(tmp_path / '11', tmp_path / '12')] == [True, False]


def test_epochs_and_iterations_do_not_mix(tmp_path):
    loop = dict(type='IterBasedTrainLoop', max_iters=4)
    write(tmp_path / 'a', two_epochs(0.5))
    write(tmp_path / 'b', [train(2, 1.0), train(4, 1.0), val(4, 0.5)], train_cfg=loop)
    with pytest.raises(ValueError, match=r'a counts epochs and .*b iterations'):
        check_comparable(read(tmp_path / 'a', tmp_path / 'b'), None)


def test_a_seed_that_an_arm_has_twice_is_reported(tmp_path):
    folders = [write(tmp_path / name, two_epochs(0.5), seed=3) for name in 'ab']
    told = 'baseline has more than one run of seed 3; they count as separate runs'
    assert find_warnings(arms_of(*folders), BOX, None) == [told]
    unseeded = [write(tmp_path / name, two_epochs(0.5)) for name in 'cd']
    assert find_warnings(arms_of(*unseeded), BOX, None) == []


def test_what_no_config_shows_is_reported(tmp_path):
    lines = two_epochs(0.5)
    of_neck = write(tmp_path / 'neck', lines, seed=1)
    several = [
        {**line, 'step': (line['step'] + 1) // 2} if 'iter' in line else line for line in lines
    ]
    assert find_warnings(arms_of(of_neck, write(tmp_path / 'b', lines, seed=2)), BOX, None) == []
    faster = write(tmp_path / 'faster', several, seed=2)
    assert find_warnings(arms_of(of_neck, faster), BOX, None) == [
        'An epoch does not have the same number of iterations in all runs, as with another number '
        f'of processes, batch size or data: 4 in {of_neck}; 2 in {faster}'
    ]
    other = json.loads(json.dumps(lines).replace('/neck', '/backbone.layer1'))
    backbone = write(tmp_path / 'backbone', other, optim_wrapper=wau(targets=['backbone']))
    assert find_warnings(arms_of(of_neck, backbone), BOX, None) == [
        'The overlap is not that of the same stages in all runs: '
        f'neck in {of_neck}; backbone.layer1 in {backbone}'
    ]


def test_wrong_folders_are_reported_with_what_to_do(tmp_path):
    run = write(tmp_path / 'all' / 'run', two_epochs(0.5))
    with pytest.raises(FileNotFoundError, match=r'nowhere does not exist\. Name the work_dir'):
        read_run(tmp_path / 'nowhere')
    (tmp_path / 'file').touch()
    with pytest.raises(FileNotFoundError, match='file is no folder'):
        read_run(tmp_path / 'file')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'vis_data/scalars\.json in it\. .*LocalVisBack'):
        read_run(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match=rf'It holds runs; name them.*: {run}$'):
        read_run(tmp_path / 'all')
    with pytest.raises(FileNotFoundError, match=rf'one start of a run.*: {run}$'):
        read_run(run / '20260101_000000')
    write(tmp_path / 'tested', [val(0, 0.5)])
    with pytest.raises(FileNotFoundError, match=r'No training is logged in .*tested'):
        read_run(tmp_path / 'tested')


def test_wrong_configs_are_reported(tmp_path):
    config = write(tmp_path / 'run', two_epochs(0.5)) / '20260101_000000/vis_data/config.py'
    config.write_text('train_cfg = dict(max_epochs=2)\n')
    with pytest.raises(ValueError, match=r'config\.py has no optim_wrapper'):
        read_run(tmp_path / 'run')
    config.write_text('train_cfg = dict(by_epoch=True)\noptim_wrapper = dict(clip_grad=None)\n')
    with pytest.raises(ValueError, match=r'config\.py has neither max_epochs nor max_iters'):
        read_run(tmp_path / 'run')
    config.write_text('train_cfg = dict(')
    with pytest.raises(ValueError, match=r'config\.py can not be read'):
        read_run(tmp_path / 'run')
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r'There is no .*config\.py, .* without cfg'):
        read_run(tmp_path / 'run')


def test_pictures_show_the_mean_and_the_spread_of_each_arm(tmp_path):
    folders = [
        write(tmp_path / f'{name}{seed}', two_epochs(0.5 + seed / 4), seed=seed, optim_wrapper=kind)
        for name, kind in (('baseline', PLAIN), ('wau', wau()))
        for seed in (0, 1)
    ]
    report = RunsReport(arms_of(*folders), BOX)
    metric, loss, overlap = report.draw_curves().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in metric.lines}
    assert lines['WAU'] == [[1, 0.375], [2, 0.625]]
    assert len(metric.lines) == 2
    # Runs with 0.5 and 0.75 at the end, and 0.25 less after the first epoch.
    half = math.sqrt(2) / 8
    bars = [bar[:, 1].tolist() for bar in metric.collections[1].get_segments()]
    assert bars == [
        pytest.approx([0.375 - half, 0.375 + half]),
        pytest.approx([0.625 - half, 0.625 + half]),
    ]
    assert [axes.get_xlabel() for axes in (metric, loss, overlap)] == [
        'epochs',
        'iterations',
        'iterations',
    ]
    assert overlap.lines[-1].get_xydata().tolist() == [[0, 0.1], [8, 0.5]]
    (stage,) = report.draw_stages().axes
    assert (stage.get_title(), stage.lines[-1].get_ydata().tolist()) == ('neck', [0.1, 1.0])


def test_the_mean_of_an_arm_is_drawn_where_all_its_runs_have_a_point(tmp_path):
    write(tmp_path / 'a', two_epochs(0.5), seed=0)
    write(tmp_path / 'b', two_epochs(0.75)[:4], seed=1)
    metric = RunsReport(arms_of(tmp_path / 'a', tmp_path / 'b'), BOX).draw_curves().axes[0]
    drawn = [line.get_xydata().tolist() for line in metric.lines]
    assert drawn == [[[1, 0.375]]]


def test_a_single_validation_is_drawn_as_points_side_by_side(tmp_path):
    lines = [train(2, 1.0), val(1, 0.5)]
    folders = [write(tmp_path / 'a', lines), write(tmp_path / 'b', lines, optim_wrapper=wau())]
    metric = RunsReport(arms_of(*folders), BOX).draw_curves().axes[0]
    assert [line.get_xydata().tolist() for line in metric.lines] == [[[0, 0.5]], [[1, 0.5]]]
    assert metric.get_xlabel().startswith('after epoch 1 (')


def test_legend_of_many_arms_stays_within_the_picture(tmp_path):
    options = [
        dict(sampler='with_replacement', min_active=0, update_ratio=i / 10, axis='in')
        for i in range(1, 8)
    ]
    folders = [
        write(tmp_path / f'{i}', two_epochs(0.5), optim_wrapper=wau(**option))
        for i, option in enumerate(options)
    ]
    folders.append(write(tmp_path / 'defaults', two_epochs(0.5), optim_wrapper=wau()))
    report = RunsReport(arms_of(*folders), BOX)
    for figure in (report.draw_curves(), report.draw_stages()):
        figure.canvas.draw()
        shown = []
        for part in figure.subfigs:
            (legend,) = part.legends
            box = legend.get_window_extent()
            shown.append(len(legend.get_texts()))
            assert box.x0 >= 0
            assert box.x1 <= part.bbox.x1
            assert box.y0 >= part.bbox.y0
            assert box.y1 <= part.bbox.y1
        # Seven beside the baseline, which is in both.
        assert shown == [5, 4]


def test_what_json_has_no_number_for_is_left_open(tmp_path):
    folders = [write(tmp_path / 'a', [train(2, math.nan), val(1, 0.5)], seed=0)]
    report = RunsReport(arms_of(*folders), BOX)
    text = to_json(report.results(['odd']))
    found = json.loads(text)
    assert found['warnings'] == ['odd']
    assert found['arms']['baseline']['values']['loss'] is None
    assert found['arms']['baseline']['runs'][0]['values'][BOX] == 0.5


def test_a_folder_that_is_given_twice_is_reported(tmp_path):
    main = runpy.run_path(str(SCRIPT))['main']
    run = write(tmp_path / 'a', two_epochs(0.5))
    with pytest.raises(ValueError, match=f'A path is given more than once: {run}, {run}/'):
        main([str(run), f'{run}/'])
