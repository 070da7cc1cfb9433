import copy
import functools
import logging
import math
import re

import pytest
import torch
from hooks import Recorder
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from small import SmallModel, small_runner

from mmwau import WAU, WAUAmpOptimWrapper, WAUOptimWrapper
from mmwau.engine.optim_wrapper import WAUMixin
from mmwau.traffic import ActiveTraffic


def train(tmp_path, optim_wrapper, **options):
    recorder = Recorder()
    runner = small_runner(tmp_path, optim_wrapper, hooks=[recorder], **options)
    runner.train()
    return runner, recorder


def test_held_filters_keep_every_bit_in_a_real_run_and_active_ones_move(tmp_path):
    runner, recorder = train(tmp_path, dict(type='WAUOptimWrapper'))
    layers = list(runner.optim_wrapper.layers.values())
    assert [layer.name for layer in layers] == ['backbone.1.weight', 'neck.weight']
    for layer in layers:
        moved = recorder.moved(layer.name)
        assert len(moved) == 6
        for update, mask in enumerate(moved):
            (expected,) = WAU(0.5, seed=3).select([layer], update)
            assert torch.equal(mask, expected)
    # What is not a target trains as ever.
    assert all(mask.all() for mask in recorder.moved('head.weight'))


def test_one_selection_in_one_window_of_gradient_accumulation(tmp_path):
    # 9 iterations, 4 in a window, so that the last window has a single one.
    _, recorder = train(tmp_path, dict(type='WAUOptimWrapper', accumulative_counts=4), max_epochs=3)
    moved = recorder.moved('neck.weight')
    (layer,) = find_neck()
    for iteration, mask in enumerate(moved):
        if iteration in (3, 7, 8):
            update = iteration // 4
            (expected,) = WAU(0.5, seed=3).select([layer], update)
            assert torch.equal(mask, expected), iteration
        else:
            assert not mask.any(), iteration


def test_ratio_1_trains_as_the_plain_wrapper_does(tmp_path):
    wau, _ = train(tmp_path / 'wau', dict(type='WAUOptimWrapper', update_ratio=1))
    plain, _ = train(tmp_path / 'plain', dict(type='OptimWrapper'))
    assert_same_weights(wau.model, plain.model)


def test_seed_is_the_runs_own_unless_given(tmp_path):
    own, _ = train(tmp_path / 'own', dict(type='WAUOptimWrapper'))
    same, _ = train(tmp_path / 'same', dict(type='WAUOptimWrapper', seed=3))
    other, _ = train(tmp_path / 'other', dict(type='WAUOptimWrapper', seed=4))
    assert own.optim_wrapper.wau.seed == 3
    assert_same_weights(own.model, same.model)
    assert not torch.equal(own.model.neck.weight, other.model.neck.weight)


def test_resumed_run_ends_as_one_never_stopped(tmp_path):
    wrapper = dict(type='WAUOptimWrapper', sampler='cyclic', hold='state')
    whole, _ = train(tmp_path / 'whole', dict(wrapper), max_epochs=4)
    train(tmp_path / 'part', dict(wrapper), max_epochs=2)
    resumed, _ = train(
        tmp_path / 'resumed',
        dict(wrapper),
        max_epochs=4,
        resume=True,
        load_from=str(tmp_path / 'part' / 'epoch_2.pth'),
    )
    assert_same_weights(whole.model, resumed.model)


def test_what_changes_at_a_resume_is_told(tmp_path):
    train(tmp_path / 'part', dict(type='WAUOptimWrapper'), max_epochs=1)
    resume = dict(max_epochs=2, resume=True, load_from=str(tmp_path / 'part' / 'epoch_1.pth'))
    changed = dict(type='WAUOptimWrapper', update_ratio=0.25, sampler='cyclic', seed=8)
    train(tmp_path / 'changed', changed, **resume)
    log = next((tmp_path / 'changed').glob('*/*.log')).read_text()
    assert 'WARNING - WAU: update_ratio was 0.5 until here and is 0.25 from now on' in log
    assert "WARNING - WAU: sampler was 'uniform' until here and is 'cyclic' from now on" in log
    assert 'WARNING - WAU: seed was 3 until here and is 8 from now on' in log
    train(tmp_path / 'same', dict(type='WAUOptimWrapper'), **resume)
    assert 'until here' not in next((tmp_path / 'same').glob('*/*.log')).read_text()


def test_plain_run_resumes_under_wau_and_the_other_way_round(tmp_path):
    for first, then in (('OptimWrapper', 'WAUOptimWrapper'), ('WAUOptimWrapper', 'OptimWrapper')):
        start, _ = train(tmp_path / first, dict(type=first), max_epochs=1)
        checkpoint = str(tmp_path / first / 'epoch_1.pth')
        place = tmp_path / f'{first}-{then}'
        _, recorder = train(place, dict(type=then), max_epochs=2, resume=True, load_from=checkpoint)
        assert torch.equal(recorder.weights[0]['neck.weight'], start.model.neck.weight)
        moved = [int(mask.sum()) for mask in recorder.moved('neck.weight')]
        assert moved == [3, 3, 3] if then == 'WAUOptimWrapper' else [6, 6, 6]
        told = (
            'the run was trained without WAU until here' in next(place.glob('*/*.log')).read_text()
        )
        assert told == (then == 'WAUOptimWrapper')


def test_gradients_of_held_filters_do_not_count_in_clipping_under_state():
    norms = {}
    for hold in ('weight', 'state'):
        wrapper, model = wrapper_of(hold=hold, seed=0, clip_grad=dict(max_norm=1e9))
        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        model.neck.weight.grad = torch.ones_like(model.neck.weight)
        wrapper.step()
        norms[hold] = wrapper.message_hub.get_scalar('train/grad_norm').current()
    # 6 filters of 8 weights, each with a gradient of 1; 3 of the filters are active.
    assert norms == {'weight': pytest.approx(48**0.5), 'state': pytest.approx(24**0.5)}


def test_log_tells_what_is_held(tmp_path):
    train(tmp_path, dict(type='WAUOptimWrapper', targets=['backbone', 'nek']))
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert (
        'WAU holds slices of 1 convolutions below backbone, nek with 8 filters: update_ratio=0.5, '
        "axis='out', sampler='uniform', hold='weight', rescale=False, seed=3" in log
    )
    assert 'WAU leaves out 1 convolutions (frozen): backbone.0' in log
    assert "WARNING - WAU finds no convolution below 'nek', one of its targets" in log


def test_model_wrapped_for_distributed_training_has_the_same_names():
    from torch.nn.parallel import DataParallel

    wrapper, model = wrapper_of(seed=0)
    wrapper.initialize_count_status(DataParallel(model), 0, 10)
    assert list(wrapper.layers) == ['backbone.1', 'neck']


def test_no_convolution_below_the_targets_is_an_error():
    with pytest.raises(ValueError, match=r"targets=\('bakbone',\).*backbone, neck, head"):
        wrapper_of(targets='bakbone', seed=0)


def test_step_before_the_model_is_known_is_an_error():
    optimizer = torch.optim.SGD(SmallModel().parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r'WAUOptimWrapper does not know .*initialize_count'):
        WAUOptimWrapper(optimizer=optimizer).step()


def test_seed_none_outside_of_a_run_is_that_of_torch_and_is_logged(caplog):
    hub = MessageHub.get_instance('no run')
    assert hub.get_info('seed') is None
    torch.manual_seed(11)
    wrapper, model = wrapper_of(seed=None)
    assert wrapper.wau.seed == 11
    logger = MMLogger.get_instance('seed', logger_name='seed')
    logger.handlers = [caplog.handler]
    wrapper.initialize_count_status(model, 0, 10)
    assert 'seed=11' in caplog.text
    torch.manual_seed(12)
    resumed = WAUOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    resumed.load_state_dict(wrapper.state_dict())
    resumed.initialize_count_status(model, 0, 10)
    assert resumed.wau.seed == 11


def test_a_state_that_is_loaded_after_the_beginning_brings_its_seed():
    assert MessageHub.get_instance('none of a run').get_info('seed') is None
    saved = dict(updates=3, seed=11)
    for own, expected in ((None, 11), (5, 5)):
        model = SmallModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapper = WAUOptimWrapper(optimizer=optimizer, seed=own)
        wrapper.initialize_count_status(model, 0, 8)
        wrapper.load_state_dict({**wrapper.state_dict(), 'wau': saved})
        assert wrapper.updates.index == 3
        assert wrapper.wau.seed == wrapper.updates.wau.seed == expected


@pytest.mark.parametrize('name', ['WAUOptimWrapper', 'WAUAmpOptimWrapper'])
def test_both_are_registered_and_share_one_step(name):
    wrapper = OPTIM_WRAPPERS.get(name)
    assert issubclass(wrapper, OptimWrapper)
    assert wrapper.step is WAUMixin.step


def test_a_layer_without_a_learning_rate_is_frozen(tmp_path):
    paramwise_cfg = dict(custom_keys={'neck': dict(lr_mult=0)})
    runner, _ = train(tmp_path, dict(type='WAUOptimWrapper', paramwise_cfg=paramwise_cfg))
    assert list(runner.optim_wrapper.layers) == ['backbone.1']
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'INFO - WAU leaves out 1 convolutions (frozen by a learning rate of 0): neck\n' in log


def test_stage_unfrozen_later_is_held_from_then_on(tmp_path):
    class Unfreeze(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:
                runner.model.backbone[0].requires_grad_(True)

    recorder = Recorder()
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper'), [recorder, Unfreeze()])
    assert not runner.model.backbone[0].weight.requires_grad
    runner.train()
    moved = recorder.moved('backbone.0.weight')
    assert [int(mask.sum()) for mask in moved] == [0, 0, 0, 2, 2, 2]
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'WAU holds slices of 2 convolutions' in log
    assert 'WAU holds slices of 3 convolutions' in log


def test_when_all_is_frozen_in_training_it_goes_on_and_says_so(tmp_path):
    class Freeze(Hook):
        def before_train_epoch(self, runner):
            trains = runner.epoch != 1
            runner.model.backbone[1].requires_grad_(trains)
            runner.model.neck.requires_grad_(trains)

    recorder = Recorder()
    runner = small_runner(
        tmp_path,
        dict(type='WAUOptimWrapper'),
        [recorder, Freeze(), dict(type='WAUHook')],
        max_epochs=3,
    )
    runner.train()
    moved = [int(mask.sum()) for mask in recorder.moved('neck.weight')]
    assert moved == [3, 3, 3, 0, 0, 0, 3, 3, 3]
    assert all(mask.all() for mask in recorder.moved('head.weight'))
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'WARNING - WAU holds nothing from now on: No convolution below' in log


@pytest.mark.parametrize(
    ('min_active', 'words'),
    [(1, 'INFO - WAU: .* 1 layers, of which one slice'), (0, 'WARNING - .* 1 layers, which never')],
)
def test_layers_with_no_draw_are_named(tmp_path, min_active, words):
    wrapper = dict(type='WAUOptimWrapper', sampler='with_replacement', update_ratio=0.15)
    train(tmp_path, {**wrapper, 'min_active': min_active})
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert re.search(rf'{words}.*\(min_active={min_active}\): neck\n', log)


@pytest.mark.usefixtures('one_process')
def test_parameters_cut_over_processes_are_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(
        SmallModel(), device_id=torch.device('cpu'), use_orig_params=True
    )
    wrapper = WAUOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), seed=0)
    with pytest.raises(TypeError, match=r'not work with FullyShardedDataParallel.*Use MMDist'):
        wrapper.initialize_count_status(model, 0, 10)


class TestMixedPrecision:
    """MMEngine insists on an accelerator, so its scaler is replaced by torch's one for the CPU."""

    @pytest.fixture(autouse=True)
    def scaler_for_the_cpu(self, monkeypatch):
        module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
        monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
        scaler = functools.partial(torch.amp.GradScaler, device='cpu')
        monkeypatch.setattr(f'{module}.GradScaler', scaler)
        monkeypatch.setattr('mmengine.runner.amp.get_device', lambda: 'cpu')

    @pytest.mark.parametrize(
        ('hold', 'skip_held_grads'), [('weight', False), ('state', False), ('state', True)]
    )
    @pytest.mark.parametrize('rescale', [False, True])
    @pytest.mark.parametrize('loss_scale', ['dynamic', 128.0])
    @pytest.mark.usefixtures('skip_in_small_layers')
    def test_skipped_update_moves_and_loses_nothing(
        self, loss_scale, rescale, hold, skip_held_grads
    ):
        model = SmallModel()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        wrapper = WAUAmpOptimWrapper(
            optimizer=optimizer,
            loss_scale=loss_scale,
            dtype='bfloat16',
            hold=hold,
            rescale=rescale,
            seed=3,
            skip_held_grads=skip_held_grads,
        )
        wrapper.initialize_count_status(model, 0, 100)
        with torch.no_grad():
            model.neck.weight.fill_(-0.0)
        layers = wrapper.layers.values()
        scale = wrapper.loss_scaler.get_scale()
        for update in range(6):
            before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
            with wrapper.optim_context(model):
                loss = model(torch.randn(2, 3, 8, 8), torch.zeros(2), mode='loss')['loss']
            skipped = update in (0, 3)
            wrapper.update_params(loss * math.inf if skipped else loss)
            if skipped:
                for name, value in model.named_parameters():
                    assert torch.equal(value, before[0][name])
                    assert torch.equal(value.signbit(), before[0][name].signbit())
                assert_same_state(optimizer.state_dict(), before[1])
                continue
            for layer, mask in zip(layers, WAU(0.5, seed=3).select(layers, update), strict=True):
                weight = layer.tensors[0][0]
                moved = weight.ne(before[0][layer.name]).flatten(1).any(dim=1)
                assert torch.equal(moved, mask), (layer.name, update)
        # Two skipped updates halve a dynamic scale twice.
        expected = scale / 4 if loss_scale == 'dynamic' else scale
        assert wrapper.loss_scaler.get_scale() == expected

    def test_bfloat16_trains_and_holds(self):
        model = SmallModel()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        wrapper = WAUAmpOptimWrapper(optimizer=optimizer, dtype='bfloat16', seed=3)
        wrapper.initialize_count_status(model, 0, 100)
        (layer,) = find_neck()
        for update in range(4):
            before = model.neck.weight.detach().clone()
            with wrapper.optim_context(model):
                hidden = model.backbone(torch.randn(2, 3, 8, 8))
                assert model.neck(hidden).dtype == torch.bfloat16
                loss = model(torch.randn(2, 3, 8, 8), torch.zeros(2), mode='loss')['loss']
            wrapper.update_params(loss)
            moved = model.neck.weight.ne(before).flatten(1).any(dim=1)
            assert torch.equal(moved, WAU(0.5, seed=3).select([layer], update)[0])

    def test_scale_is_in_the_state_and_comes_back(self):
        wrappers = []
        for _ in range(2):
            optimizer = torch.optim.SGD(SmallModel().parameters(), lr=0.1)
            wrappers.append(WAUAmpOptimWrapper(optimizer=optimizer, loss_scale='dynamic', seed=0))
        wrappers[0].loss_scaler.scale(torch.ones(1))
        wrappers[0].loss_scaler.update(64.0)
        wrappers[1].load_state_dict(wrappers[0].state_dict())
        assert wrappers[1].loss_scaler.get_scale() == 64.0


@pytest.mark.skipif(torch.cuda.is_available(), reason='tells what happens without a GPU')
def test_amp_without_an_accelerator_is_told():
    optimizer = torch.optim.SGD(SmallModel().parameters(), lr=0.1)
    with pytest.raises(AssertionError, match='only available training on gpu'):
        WAUAmpOptimWrapper(optimizer=optimizer)


def wrapper_of(**options):
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = WAUOptimWrapper(optimizer=optimizer, **options)
    wrapper.initialize_count_status(model, 0, 10)
    return wrapper, model


def test_a_backward_pass_beside_the_wrapper_counts_too():
    wrapper, model = wrapper_of(seed=0)
    (neck,) = find_neck()
    for update in range(3):
        before = model.neck.weight.detach().clone()
        with wrapper.optim_context(model):
            loss_of(model).backward()
        wrapper.step()
        wrapper.zero_grad()
        moved = model.neck.weight.ne(before).flatten(1).any(dim=1)
        assert torch.equal(moved, WAU(seed=0).select([neck], update)[0])


class TwiceInAnIteration(SmallModel):
    """As a generator and a discriminator: two updates in one iteration, every third has one."""

    calls = 0

    def train_step(self, data, optim_wrapper):
        for _ in range(2 if TwiceInAnIteration.calls % 3 else 1):
            losses = super().train_step(data, optim_wrapper)
        TwiceInAnIteration.calls += 1
        return losses


class NoneNowAndThen(SmallModel):
    """Leaves out a batch, as one without boxes."""

    calls = 0

    def train_step(self, data, optim_wrapper):
        NoneNowAndThen.calls += 1
        if NoneNowAndThen.calls % 3 == 0:
            return {}
        return super().train_step(data, optim_wrapper)


@pytest.mark.parametrize('kind', [TwiceInAnIteration, NoneNowAndThen])
def test_resumes_to_the_same_bits_where_updates_are_not_iterations(tmp_path, monkeypatch, kind):
    wrapper = dict(type='WAUOptimWrapper')

    def train_(name, **options):
        torch.manual_seed(0)
        return train(tmp_path / name, dict(wrapper), model=kind(), **options)[0]

    monkeypatch.setattr(kind, 'calls', 0)
    whole = train_('whole', max_epochs=4)
    monkeypatch.setattr(kind, 'calls', 0)
    train_('part', max_epochs=2)
    checkpoint = str(tmp_path / 'part' / 'epoch_2.pth')
    resumed = train_('resumed', max_epochs=4, resume=True, load_from=checkpoint)
    assert_same_weights(whole.model, resumed.model)
    updates = {TwiceInAnIteration: 20, NoneNowAndThen: 8}[kind]
    assert whole.optim_wrapper.updates.index == resumed.optim_wrapper.updates.index == updates


def test_a_checkpoint_without_the_number_of_updates_resumes_by_iterations(tmp_path):
    whole, _ = train(tmp_path / 'whole', dict(type='WAUOptimWrapper'), max_epochs=4)
    train(tmp_path / 'part', dict(type='WAUOptimWrapper'), max_epochs=2)
    checkpoint = torch.load(tmp_path / 'part' / 'epoch_2.pth', weights_only=False)
    assert checkpoint['optimizer'].pop('wau') == dict(updates=6, seed=3)
    torch.save(checkpoint, tmp_path / 'old.pth')
    resumed, _ = train(
        tmp_path / 'resumed',
        dict(type='WAUOptimWrapper'),
        max_epochs=4,
        resume=True,
        load_from=str(tmp_path / 'old.pth'),
    )
    assert_same_weights(whole.model, resumed.model)


class FailInForward(SmallModel):
    fails_at, calls = 5, 0

    def forward(self, inputs, target, mode='tensor'):
        self.calls += 1
        hidden = self.neck(self.backbone(inputs))
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        output = self.head(hidden).mean(dim=(1, 2, 3))
        return {'loss': (output - target).square().mean()} if mode == 'loss' else output


@pytest.mark.parametrize('hold', ['state', 'grad'])
@pytest.mark.parametrize('counts', [1, 4])
@pytest.mark.usefixtures('skip_in_small_layers')
def test_a_model_trains_as_ever_after_an_interrupted_training(tmp_path, hold, counts):
    model = FailInForward()
    wrapper = dict(type='WAUOptimWrapper', hold=hold, accumulative_counts=counts)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'interrupted', wrapper, model=model)
    twin = SmallModel()
    twin.load_state_dict(model.state_dict())
    for one in (model, twin):
        one.zero_grad()
    plain = dict(type='OptimWrapper')
    _, recorder = train(tmp_path / 'plain', dict(plain), model=model)
    train(tmp_path / 'twin', dict(plain), model=twin)
    assert all(mask.all() for mask in recorder.moved('neck.weight'))
    assert_same_weights(model, twin)


@pytest.mark.parametrize('hold', ['state', 'grad'])
@pytest.mark.usefixtures('skip_in_small_layers')
def test_a_training_that_ends_inside_a_window_leaves_the_model_as_it_was(tmp_path, hold):
    class Stop(Hook):
        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = True

    wrapper = dict(type='WAUOptimWrapper', hold=hold, accumulative_counts=4)
    runner = small_runner(tmp_path, wrapper, [Stop()])
    runner.train()
    assert runner.iter == 3
    assert not any('_conv_forward' in module.__dict__ for module in runner.model.modules())


@pytest.mark.parametrize('hold', ['weight', 'state', 'grad'])
def test_a_batch_that_is_left_out_after_an_error_in_clipping_has_its_own_selection(hold):
    clip_grad = dict(max_norm=1.0, error_if_nonfinite=True)
    wrapper, model = wrapper_of(seed=0, hold=hold, clip_grad=clip_grad)
    (neck,) = find_neck()
    for update in range(4):
        before = model.neck.weight.detach().clone()
        with wrapper.optim_context(model):
            loss = loss_of(model)
        if update == 1:
            with pytest.raises(RuntimeError, match='non-finite'):
                wrapper.update_params(loss * math.inf)
            wrapper.zero_grad()
            assert torch.equal(model.neck.weight, before)
            continue
        wrapper.update_params(loss)
        moved = model.neck.weight.ne(before).flatten(1).any(dim=1)
        assert torch.equal(moved, WAU(seed=0).select([neck], update)[0])


class AddGroup(Hook):
    """Gives the optimizer the neck only in the second epoch."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            neck = [param for name, param in runner.model.named_parameters() if 'neck' in name]
            runner.optim_wrapper.optimizer.add_param_group(dict(params=neck))


class OnlyBackbone:
    """An optimizer wrapper constructor that leaves out the neck."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        params = [param for name, param in model.named_parameters() if 'neck' not in name]
        return WAUOptimWrapper(optimizer=torch.optim.SGD(params, lr=0.05), hold='state')


class ReplaceParameter(Hook):
    """Puts a new weight into the neck in the second epoch."""

    def before_train_epoch(self, runner):
        if runner.epoch != 1:
            return
        neck, optimizer = runner.model.neck, runner.optim_wrapper.optimizer
        neck.weight = torch.nn.Parameter(neck.weight.detach().clone())
        optimizer.add_param_group(dict(params=[neck.weight]))


class ReplaceModule(Hook):
    def before_train_epoch(self, runner):
        if runner.epoch != 1:
            return
        runner.model.neck = torch.nn.Conv2d(8, 6, 1)
        params = list(runner.model.neck.parameters())
        runner.optim_wrapper.optimizer.add_param_group(dict(params=params))


@pytest.mark.parametrize(
    ('change', 'constructor', 'first'),
    [(AddGroup, True, 0), (ReplaceParameter, False, 3), (ReplaceModule, False, 3)],
)
@pytest.mark.parametrize('skips', [False, True])
def test_parameters_that_come_in_training_are_held(
    tmp_path, monkeypatch, change, constructor, first, skips
):
    monkeypatch.setattr('mmwau.core.narrow_convolution.MIN_SAVED', 0 if skips else 10**9)
    monkeypatch.setattr('mmwau.core.narrow_convolution.BLOCK', 1)
    recorder = Recorder()
    wrapper = dict(type='WAUOptimWrapper', hold='state')
    if constructor:
        monkeypatch.setitem(OPTIM_WRAPPER_CONSTRUCTORS._module_dict, 'OnlyBackbone', OnlyBackbone)
        wrapper['constructor'] = 'OnlyBackbone'
    runner = small_runner(tmp_path, wrapper, [change(), recorder])
    runner.train()
    moved = [int(mask.sum()) for mask in recorder.moved('neck.weight')]
    # Where a module is replaced, everything changes between the iterations too.
    assert moved[:3] == [first] * 3
    assert moved[4:] == [3] * 2
    assert 'neck' in runner.optim_wrapper.layers


def test_an_interrupted_epoch_can_be_trained_again_with_the_same_wrapper(tmp_path):
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper', hold='state'))
    runner.train()
    weights = copy.deepcopy(runner.model.state_dict())
    runner.train_loop._epoch = runner.train_loop._iter = 0
    runner.train()
    assert runner.optim_wrapper.updates.index == 6
    assert not torch.equal(runner.model.neck.weight, weights['neck.weight'])


@pytest.mark.parametrize('hold', ['weight', 'state'])
@pytest.mark.parametrize('counts', [1, 3])
@pytest.mark.usefixtures('skip_in_small_layers')
def test_what_is_frozen_inside_of_an_update_is_held_through_its_step(hold, counts):
    wrapper, model = wrapper_of(seed=0, hold=hold, accumulative_counts=counts)
    (neck,) = find_neck()
    for update in range(3):
        before = copy.deepcopy(model.state_dict())
        for part in range(counts):
            with wrapper.optim_context(model):
                loss = loss_of(model)
            if update == 1 and part == counts - 1 and counts > 1:
                model.neck.requires_grad_(False)
                with wrapper.optim_context(model):
                    loss = loss_of(model)
            wrapper.backward(loss)
        if update == 1:
            model.neck.requires_grad_(False)
        wrapper.step()
        wrapper.zero_grad()
        (active,) = WAU(seed=0).select([neck], update)
        moved = model.neck.weight.ne(before['neck.weight']).flatten(1).any(dim=1)
        assert torch.equal(moved, active if update < 2 else torch.zeros(6, dtype=torch.bool))
        moved = model.neck.bias.ne(before['neck.bias'])
        assert not moved[~active].any()
    assert list(wrapper.layers) == ['backbone.1']


@pytest.fixture
def one_process(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures('one_process')
def test_what_is_sent_follows_a_layer_that_is_frozen_inside_of_an_update():
    wrapper, model = wrapper_of(seed=0, hold='state', accumulative_counts=2)
    wrapper.traffic = ActiveTraffic()
    for frozen in (False, True):
        model.neck.requires_grad_(not frozen)
        with wrapper.optim_context(model):
            loss = loss_of(model)
        wrapper.update_params(loss)
    assert list(wrapper.layers) == ['backbone.1']
    assert wrapper.updates.index == 1


@pytest.mark.usefixtures('skip_in_small_layers')
def test_gradients_are_where_users_look_for_them_between_the_calls():
    """Clipped by the user, and dropped inside of a window: with and without skipping alike."""
    ends = []
    for skips in (False, True):
        torch.manual_seed(0)
        wrapper, model = wrapper_of(
            seed=0, hold='state', accumulative_counts=3, skip_held_grads=skips
        )
        for iteration in range(9):
            torch.manual_seed(iteration)
            with wrapper.optim_context(model):
                loss = loss_of(model)
            if iteration < 6:
                wrapper.update_params(loss)
                if iteration == 3:
                    model.zero_grad()
                continue
            wrapper.backward(loss)
            # By value: in a norm those of held filters count where they are computed.
            torch.nn.utils.clip_grad_value_(model.neck.parameters(), 1e-3)
            assert model.neck.weight.grad.abs().max() == 1e-3
            wrapper.step()
            wrapper.zero_grad()
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures('skip_in_small_layers')
@pytest.mark.parametrize('hold', ['weight', 'state', 'grad'])
def test_a_closure_sees_the_whole_network(hold):
    wrapper, model = wrapper_of(seed=0, hold=hold)
    (neck,) = find_neck()
    shapes = []
    for update in range(3):
        before = model.neck.weight.detach().clone()

        def closure():
            model.zero_grad()
            shapes.append(model.neck.weight.shape)
            loss = loss_of(model)
            loss.backward()
            return loss

        wrapper.step(closure=closure)
        moved = model.neck.weight.ne(before).flatten(1).any(dim=1)
        assert torch.equal(moved, WAU(seed=0).select([neck], update)[0])
    assert shapes == [(6, 8, 1, 1)] * 3


@pytest.mark.usefixtures('skip_in_small_layers')
def test_zeroing_between_forward_and_backward_keeps_skipping():
    wrapper, model = wrapper_of(seed=0, hold='state')
    for _ in range(3):
        with wrapper.optim_context(model):
            loss = loss_of(model)
        wrapper.zero_grad()
        wrapper.update_params(loss)
    assert wrapper.updates.skipper.find_full() == {}


def test_lazy_layers_are_held_once_they_have_weights():
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LazyConv2d(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = WAUOptimWrapper(optimizer=optimizer, targets='', seed=0)
    wrapper.initialize_count_status(model, 0, 10)
    assert list(wrapper.layers) == ['0']
    for _ in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.randn(2, 3, 6, 6)).square().mean()
        before = model[1].weight.detach().clone()
        wrapper.update_params(loss)
    assert list(wrapper.layers) == ['0', '1']
    assert int(model[1].weight.ne(before).flatten(1).any(dim=1).sum()) == 3


def test_a_weight_that_is_computed_from_now_on_is_no_longer_held():
    wrapper, model = wrapper_of(seed=0)
    torch.nn.utils.parametrizations.weight_norm(model.neck)
    with wrapper.optim_context(model):
        wrapper.update_params(loss_of(model))
    assert list(wrapper.layers) == ['backbone.1']


def test_the_number_of_updates_is_that_of_the_state_that_was_loaded_last():
    wrapper, model = wrapper_of(seed=0)

    def update(times):
        for _ in range(times):
            with wrapper.optim_context(model):
                wrapper.update_params(loss_of(model))

    update(2)
    state = copy.deepcopy(wrapper.state_dict())
    update(3)
    with wrapper.optim_context(model):
        loss_of(model)
    wrapper.load_state_dict(state)  # inside of an update, which begins anew
    assert wrapper.updates.index == 2
    assert wrapper.updates.active is None
    update(5)
    wrapper.initialize_count_status(model, 3, 10)  # as a second call of Runner.train does
    assert wrapper.updates.index == 7
    with pytest.raises(KeyError):
        wrapper.load_state_dict({'wau': dict(updates=77, seed=0)})
    assert wrapper.updates.index == 7


def test_an_optimizer_without_rows_of_state_is_told_before_training(tmp_path):
    wrapper = dict(type='WAUOptimWrapper', hold='state', optimizer=dict(type='Rprop', lr=0.01))
    runner = small_runner(tmp_path, wrapper)
    with pytest.raises(ValueError, match=r"Rprop's has not\. Use hold='weight'"):
        runner.train()
    assert runner.iter == 0


def loss_of(model):
    return model(torch.randn(2, 3, 8, 8), torch.zeros(2), mode='loss')['loss']


def find_neck():
    from mmwau import find_layers

    return find_layers(SmallModel(), 'neck').values()


def assert_same_state(state, other):
    assert state['state'].keys() == other['state'].keys()
    for index, values in state['state'].items():
        for key, value in values.items():
            assert torch.equal(value, other['state'][index][key])


def assert_same_weights(model, other):
    for (name, param), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(param, twin), name
