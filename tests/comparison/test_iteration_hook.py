"""A training that is interrupted leaves nothing of a comparison method behind."""

from copy import deepcopy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from small import SmallModel, small_runner
from torch.optim import SGD

from mmwau import DropoutHook, OrthogonalityHook, RePrHook

PLAIN = dict(type='OptimWrapper')
HOOKS = {
    'dropout': dict(type='DropoutHook', drop_prob=0.5, modules='backbone.2'),
    'orthogonality': dict(type='OrthogonalityHook', kind='so', coefficients=[0.1], milestones=[]),
    'repr': dict(type='RePrHook', full_epochs=1, sub_epochs=1, cycles=1, drop_ratio=0.5),
    'dsd': dict(type='DSDHook', begin=1, end=2),
}


class Interrupt(Hook):
    """Ends a training in an iteration: in its forward pass, in its step, or after that."""

    priority = 'LOWEST'

    def __init__(self, place, iteration):
        self.place, self.iteration = place, iteration

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.iteration and self.place == 'forward':
            self.handle = runner.model.head.register_forward_pre_hook(self.interrupt)
        if runner.iter == self.iteration and self.place == 'step':
            optimizer = runner.optim_wrapper.optimizer
            self.handle = optimizer.register_step_pre_hook(self.interrupt)

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.iteration and self.place == 'after':
            raise KeyboardInterrupt

    def interrupt(self, *args):
        self.handle.remove()
        raise KeyboardInterrupt


def interrupt(runner):
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    return runner


def interrupted(work_dir, hook, place, iteration):
    hooks = [hook, Interrupt(place, iteration)]
    return interrupt(small_runner(work_dir, PLAIN, hooks, max_epochs=3))


@pytest.mark.parametrize('place', ['forward', 'step', 'after'])
@pytest.mark.parametrize('hook', HOOKS)
def test_the_model_then_trains_as_a_clean_copy_of_it(tmp_path, hook, place):
    # RePr seeks norm layers in the first iteration, and has dropped filters in the fourth.
    for iteration in (0, 4) if hook == 'repr' else (4,):
        folder = tmp_path / str(iteration)
        model = interrupted(folder / 'first', HOOKS[hook], place, iteration).model
        assert not any(
            module._forward_hooks or module._forward_pre_hooks for module in model.modules()
        )
        clean = SmallModel()
        clean.load_state_dict(model.state_dict())
        # MMEngine adds to the gradients that are there.
        for param, other in zip(clean.parameters(), model.parameters(), strict=True):
            param.grad = None if other.grad is None else other.grad.clone()
        for name, one in (('same', model), ('clean', clean)):
            small_runner(folder / name, PLAIN, model=one, max_epochs=1).train()
        for name, value in clean.state_dict().items():
            assert value.equal(model.state_dict()[name]), name


@pytest.mark.parametrize('hook', ['repr', 'dsd'])
def test_an_optimizer_that_is_used_again_keeps_nothing_at_zero(tmp_path, hook):
    model = SmallModel()
    params = [param for param in model.parameters() if param.requires_grad]
    optimizer = SGD(params, lr=0.05, momentum=0.9)
    hooks = [HOOKS[hook], Interrupt('after', 4)]
    runner = small_runner(tmp_path, PLAIN, hooks, max_epochs=3, model=model)
    runner.optim_wrapper = OptimWrapper(optimizer)
    interrupt(runner)
    before = model.neck.weight.detach().clone()
    assert before.eq(0).any()
    for _ in range(2):
        model(torch.randn(4, 3, 8, 8), torch.ones(4), mode='loss')['loss'].backward()
        optimizer.step()
    assert not model.neck.weight.eq(0).any()


@pytest.mark.parametrize('hook', ['dropout', 'orthogonality', 'repr', 'dsd'])
def test_the_same_run_goes_on_and_changes_each_iteration_once(tmp_path, hook):
    runner = interrupted(tmp_path, HOOKS[hook], 'after', 2)

    class Count(Hook):
        priority = 'LOWEST'
        most = 0

        def after_train_iter(self, runner, *args, **kwargs):
            hooks = [len(module._forward_hooks) for module in runner.model.modules()]
            hooks.append(len(runner.optim_wrapper.optimizer._optimizer_step_post_hooks))
            self.most = max(self.most, *hooks)

    count = Count()
    runner._hooks = [each for each in runner.hooks if not isinstance(each, Interrupt)]
    runner.register_hook(count)
    runner.train()
    assert runner.epoch == 3
    assert count.most == 1


def test_a_hook_that_is_used_again_forgets_the_run_before(tmp_path):
    hook = RePrHook(full_epochs=1, sub_epochs=1, cycles=1, drop_ratio=0.5)
    interrupted(tmp_path / 'first', hook, 'after', 4)
    assert hook.phase == 0
    ends = []
    for name, each in (('again', hook), ('new', HOOKS['repr'])):
        runner = small_runner(tmp_path / name, PLAIN, [each], max_epochs=3)
        runner.train()
        ends.append(runner.model.state_dict())
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[1])


@pytest.mark.parametrize('hook', ['dropout', 'orthogonality'])
def test_a_copy_made_in_an_iteration_is_a_plain_model(tmp_path, hook):
    class Copy(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            self.copy = deepcopy(runner.model)

    copy = Copy()
    runner = small_runner(tmp_path, PLAIN, [HOOKS[hook], copy], max_epochs=1)
    runner.train()
    clean = SmallModel()
    clean.load_state_dict(runner.model.state_dict())
    batch = dict(inputs=torch.randn(4, 3, 8, 8), target=torch.ones(4), mode='loss')
    assert copy.copy.training
    assert copy.copy(**batch) == clean(**batch)


@pytest.mark.parametrize(
    'hook', [DropoutHook(0.5, 'neck'), OrthogonalityHook('so'), RePrHook(1, 1, cycles=1)]
)
def test_a_train_loop_without_single_iterations_is_refused(tmp_path, hook):
    class Loop(EpochBasedTrainLoop):
        run_iter = property()

    options = dict(train_cfg=dict(by_epoch=True, max_epochs=3))
    runner = small_runner(tmp_path, PLAIN, [hook], **options)
    runner._train_loop = Loop(runner, runner._train_dataloader, max_epochs=3)
    with pytest.raises(TypeError, match=rf'{type(hook).__name__} works in train loops that have r'):
        runner.train()
