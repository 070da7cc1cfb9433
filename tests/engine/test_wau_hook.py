import pytest
from hooks import scalars
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from small import SmallModel, small_runner

from mmwau import WAUHook


def test_logs_active_fraction_with_the_training_scalars(tmp_path):
    wrapper = dict(type='WAUOptimWrapper', update_ratio=0.25)
    small_runner(tmp_path, wrapper, [dict(type='WAUHook')]).train()
    # Of 8 and 6 filters 2 and round(1.5) = 2 are active.
    assert [entry['active_fraction'] for entry in scalars(tmp_path)] == [4 / 14] * 6
    assert 'active_fraction: 0.2857' in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.parametrize('axis', ['out', 'layer'])
def test_no_fraction_is_logged_while_nothing_is_held(tmp_path, axis):
    class Freeze(Hook):
        def before_train_epoch(self, runner):
            runner.model.backbone[1].requires_grad_(runner.epoch != 1)
            runner.model.neck.requires_grad_(runner.epoch != 1)

    hooks = [Freeze(), dict(type='WAUHook')]
    small_runner(tmp_path, dict(type='WAUOptimWrapper', axis=axis), hooks, max_epochs=3).train()
    kinds = {'active_fraction', 'active_filter_fraction', 'active_parameter_fraction'}
    logged = [bool(kinds & entry.keys()) for entry in scalars(tmp_path)]
    assert logged == [True] * 3 + [False] * 3 + [True] * 3


def test_refuses_to_run_without_its_wrapper(tmp_path):
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), [dict(type='WAUHook')])
    with pytest.raises(TypeError, match=r"type is 'OptimWrapper'.*to 'WAUOptimWrapper'.*--amp"):
        runner.train()


def test_does_not_mind_a_run_that_only_tests(tmp_path):
    hook = HOOKS.build(dict(type='WAUHook'))
    assert isinstance(hook, WAUHook)
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), [hook])
    runner.call_hook('before_run')
    runner.call_hook('before_test')


SCHEDULE = [
    dict(type='constant', ratio=1, end=1),
    dict(type='linear', start=0.75, stop=0.25, begin=1, end=3),
]


def test_schedule_by_epoch_is_followed_and_logged_and_the_wrapper_has_the_rest(tmp_path):
    hook = dict(type='WAUHook', ratio_schedule=SCHEDULE)
    wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
    small_runner(tmp_path, wrapper, [hook], max_epochs=4).train()
    logged = scalars(tmp_path)
    ratios = [1, 0.75, 0.25, 0.5]
    assert [entry['update_ratio'] for entry in logged] == [r for r in ratios for _ in range(3)]
    # Of 8 and 6 filters: 8 + 6, 6 + 4, 2 + 2, 4 + 3.
    active = [14 / 14, 10 / 14, 4 / 14, 7 / 14]
    assert [entry['active_fraction'] for entry in logged] == [a for a in active for _ in range(3)]


class InterruptOnce(Hook):
    """Ctrl-C in the first epoch, whose ratio is that of a phase."""

    done = False

    def after_train_iter(self, runner, *args, **kwargs):
        if not self.done and runner.iter == 1:
            self.done = True
            raise KeyboardInterrupt


def test_the_ratio_of_the_wrapper_comes_back_after_an_interrupted_phase(tmp_path):
    hook = dict(type='WAUHook', ratio_schedule=SCHEDULE[:1])
    wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
    runner = small_runner(tmp_path, wrapper, [hook, InterruptOnce()], max_epochs=3)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.optim_wrapper.update_ratio == 1
    runner.train()
    assert runner.optim_wrapper.update_ratio == 0.5
    assert scalars(tmp_path)[-1]['active_fraction'] == 0.5


def test_schedule_by_iteration_holds_right_after_a_resume(tmp_path):
    hook = dict(
        type='WAUHook',
        by_epoch=False,
        ratio_schedule=dict(type='linear', start=1.0, stop=0.5, end=6),
    )
    wrapper = dict(type='WAUOptimWrapper')
    small_runner(tmp_path / 'one', wrapper, [hook], max_epochs=2).train()
    small_runner(tmp_path / 'two', wrapper, [hook], max_epochs=1).train()
    small_runner(
        tmp_path / 'three',
        wrapper,
        [hook],
        max_epochs=2,
        resume=True,
        load_from=str(tmp_path / 'two/epoch_1.pth'),
    ).train()
    whole = [entry['update_ratio'] for entry in scalars(tmp_path / 'one')]
    assert whole == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert [entry['update_ratio'] for entry in scalars(tmp_path / 'three')] == whole[3:]


def test_schedule_by_epoch_is_refused_where_there_are_no_epochs(tmp_path):
    runner = small_runner(
        tmp_path,
        dict(type='WAUOptimWrapper'),
        [dict(type='WAUHook', ratio_schedule=SCHEDULE)],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4),
        sampler=dict(type='InfiniteSampler'),
    )
    with pytest.raises(ValueError, match='ratio_schedule counts epochs, but training counts only'):
        runner.train()


def test_changed_schedule_is_reported_at_a_resume(tmp_path):
    wrapper = dict(type='WAUOptimWrapper')
    small_runner(tmp_path, wrapper, [dict(type='WAUHook')], max_epochs=1).train()
    hook = dict(type='WAUHook', ratio_schedule=dict(type='constant', ratio=0.25))
    small_runner(tmp_path, wrapper, [hook], max_epochs=2, resume=True).train()
    logs = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert "WARNING - WAU: ratio_schedule was None until here and is [{'type': 'constant'" in logs


def test_a_backbone_with_another_name_before_is_held_and_measured(tmp_path):
    class Named(SmallModel):
        def __init__(self):
            super().__init__()
            backbone, neck = self.backbone, self.neck
            del self.backbone, self.neck
            self.encoder, self.backbone, self.neck = backbone, backbone, neck

    hook = dict(type='WAUHook', movement=True)
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper'), [hook], model=Named())
    runner.train()
    assert list(runner.optim_wrapper.layers) == ['backbone.1', 'neck']
    assert runner.message_hub.get_info('overlap_at_start').keys() == {'backbone.1', 'neck'}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('end', [2, 7])
def test_a_training_that_ends_before_its_schedule_says_so(tmp_path, by_epoch, end):
    phase = dict(type='linear', start=1.0, stop=0.5, end=end)
    hooks = [dict(type='WAUHook', by_epoch=by_epoch, ratio_schedule=phase)]
    small_runner(tmp_path, dict(type='WAUOptimWrapper'), hooks, max_epochs=2).train()
    text = next(tmp_path.glob('*/*.log')).read_text()
    said = f'training ends after {"2 epochs" if by_epoch else "6 iters"}, before this phase of rat'
    assert (said in text) is (end == 7)


def test_two_hooks_are_refused(tmp_path):
    hooks = [dict(type='WAUHook'), dict(type='WAUHook')]
    with pytest.raises(ValueError, match='custom_hooks has WAUHook and WAUHook'):
        small_runner(tmp_path, dict(type='WAUOptimWrapper'), hooks).train()


def test_wrong_by_epoch_is_reported():
    with pytest.raises(TypeError, match="by_epoch must be True or False, got 'no'"):
        WAUHook(by_epoch='no')
