from itertools import combinations

import pytest
import torch
from hooks import StopAfter
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from small import small_runner
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmwau import DropoutHook
from mmwau.comparison.dropout import drop_out

PLAIN = dict(type='OptimWrapper')
HOOK = dict(type='DropoutHook', drop_prob=0.25, modules='backbone.2')


@pytest.mark.parametrize('channels', [False, True])
def test_elements_or_channels_are_dropped_and_the_others_scaled(channels):
    x = torch.rand(20, 40, 5, 5, generator=torch.Generator().manual_seed(0)) + 1
    dropped = drop_out(x, 0.25, channels, 'time', 'name')
    zero = dropped == 0
    torch.testing.assert_close(dropped[~zero], x[~zero] / 0.75)
    # 800 channels or 20,000 elements: within four standard deviations.
    count = 800 if channels else 20_000
    assert abs(zero.float().mean() - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5
    if channels:
        assert zero.flatten(2).all(dim=2).equal(zero.flatten(2).any(dim=2))


def test_what_is_dropped_is_a_function_of_time_and_name():
    x = torch.ones(2, 3, 4, 4)
    first = drop_out(x, 0.5, False, '0/0/0', 'one')
    assert drop_out(x, 0.5, False, '0/0/0', 'one').equal(first)
    assert not drop_out(x, 0.5, False, '0/1/0', 'one').equal(first)
    assert not drop_out(x, 0.5, False, '0/0/1', 'one').equal(first)
    assert not drop_out(x, 0.5, False, '0/0/0', 'two').equal(first)


def test_drops_only_in_training_and_leaves_no_hooks(tmp_path):
    seen = {True: [], False: []}

    class Look(Hook):
        priority = 'LOWEST'  # its forward hook comes after that of dropout

        def before_train(self, runner):
            runner.model.neck.register_forward_pre_hook(
                lambda module, args: seen[runner.model.training].append(args[0].detach())
            )

        def after_train_iter(self, runner, *args, **kwargs):
            runner.model.eval()
            runner.model(torch.randn(4, 3, 8, 8), None)
            runner.model.train()
            runner.model.backbone[2].eval()  # as norm_eval does it

    runner = small_runner(tmp_path, PLAIN, [HOOK, Look()], max_epochs=1)
    runner.model.backbone[3] = nn.Identity()  # no zeros but those of dropout
    runner.train()
    assert [(x == 0).any().item() for x in seen[True]] == [True] * 3
    assert [(x == 0).any().item() for x in seen[False]] == [False] * 3
    assert not runner.model.backbone[2]._forward_hooks


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    whole = small_runner(tmp_path / 'whole', PLAIN, [HOOK])
    whole.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, [HOOK, StopAfter(1)])
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, [HOOK], resume=True)
    parts.train()
    one, two = whole.model.state_dict(), parts.model.state_dict()
    assert all(one[name].equal(two[name]) for name in one)


class Reusing(BaseModel):
    """Uses a block on the images twice, on smaller ones, and on what it gave itself."""

    def __init__(self, checkpointing=None):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4))
        self.head = nn.Conv2d(4, 1, 3)
        self.checkpointing = checkpointing
        self.dropped = []

    def forward(self, inputs, target, mode='tensor'):
        x = self.stem(inputs)
        outputs = [
            self.run(self.block, x),
            self.run(self.block, x),
            self.run(self.block, x[..., ::2, ::2]),
            self.run(self.twice, x),
        ]
        self.dropped.append([output.detach() == 0 for output in outputs])
        output = sum(self.head(output).mean(dim=(1, 2, 3)) for output in outputs)
        loss = (output - target).square().mean()
        return {'loss': loss} if mode == 'loss' else output

    def run(self, part, x):
        if self.checkpointing is None:
            return part(x)
        return checkpoint(part, x, use_reentrant=self.checkpointing == 'reentrant')

    def twice(self, x):
        return self.block(self.block(x))


def reused(work_dir, checkpointing=None):
    hook = dict(HOOK, modules='block.1', drop_prob=0.5)
    model = Reusing(checkpointing)
    small_runner(work_dir, PLAIN, [hook], max_epochs=1, model=model).train()
    return model


def test_each_use_of_a_module_has_other_elements_dropped(tmp_path):
    dropped = reused(tmp_path).dropped
    assert len(dropped) == 3
    every = [one for of_iteration in dropped for one in of_iteration if one.shape[-1] == 8]
    assert len(every) == 9
    for one, other in combinations(every, 2):
        # Independent halves have a quarter in common: within five standard deviations.
        both = (one & other).float().mean()
        assert abs(both - 0.25) < 5 * (0.25 * 0.75 / one.numel()) ** 0.5


@pytest.mark.parametrize('checkpointing', ['reentrant', 'not reentrant'])
def test_recomputed_activations_have_the_same_elements_dropped(tmp_path, checkpointing):
    plain = reused(tmp_path / 'plain')
    again = reused(tmp_path / 'again', checkpointing)
    for one, other in zip(plain.dropped, again.dropped, strict=True):
        assert all(map(torch.equal, one, other))
    ends = plain.state_dict(), again.state_dict()
    for name in ends[0]:
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=1e-5, atol=1e-7)


def test_the_first_use_has_the_elements_dropped_that_it_always_had(tmp_path):
    (first, *_), *_ = reused(tmp_path).dropped
    assert first.equal(drop_out(torch.ones(4, 4, 8, 8), 0.5, False, '3/0/0', 'block.1') == 0)


def test_patterns_match_names(tmp_path):
    hook = DropoutHook(0.5, ['backbone.[13]', 'ne*'])
    small_runner(tmp_path, PLAIN, [hook], max_epochs=1).train()
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert 'channels=False after 3 modules: backbone.1, backbone.3, neck' in text


@pytest.mark.parametrize(
    ('options', 'error', 'words'),
    [
        (dict(drop_prob=1.0), ValueError, r'drop_prob must be in \(0, 1\), .* got 1.0'),
        (dict(drop_prob=None), TypeError, r'drop_prob must be a number .* got None'),
        (dict(modules=[]), TypeError, r'modules must be names of modules .* got \[\]'),
        (dict(modules=7), TypeError, r'modules must be names of modules .* got 7'),
        (dict(channels='all'), TypeError, r"channels must be True or False, got 'all'"),
    ],
)
def test_wrong_arguments_are_reported(options, error, words):
    with pytest.raises(error, match=words):
        DropoutHook(**{'drop_prob': 0.5, 'modules': 'backbone', **options})


def test_modules_that_do_not_exist_are_reported(tmp_path):
    runner = small_runner(tmp_path, PLAIN, [dict(HOOK, modules=['neck', 'trunk'])])
    with pytest.raises(ValueError, match=r"no module of SmallModel is called 'trunk'.*backbone, b"):
        runner.train()


def test_an_output_that_is_no_tensor_is_reported(tmp_path):
    class Tuple(nn.Module):
        def forward(self, x):
            return (x,)

    runner = small_runner(tmp_path, PLAIN, [HOOK], max_epochs=1)
    runner.model.backbone[2] = Tuple()
    with pytest.raises(TypeError, match=r"output of 'backbone.2' is a tuple, not a tensor"):
        runner.train()


def test_two_hooks_for_a_module_are_refused(tmp_path):
    hooks = [dict(type='DropoutHook', drop_prob=0.5, modules=name) for name in ('neck', 'n*')]
    with pytest.raises(ValueError, match="custom_hooks has two DropoutHooks for 'neck'"):
        small_runner(tmp_path, dict(type='OptimWrapper'), hooks, 1).train()
    hooks[1]['modules'] = 'backbone.1'
    small_runner(tmp_path, dict(type='OptimWrapper'), hooks, 1).train()
