"""WAU beside the other parts of MMEngine and the libraries built on it."""

import copy
import subprocess
import sys

import pytest
import torch
from hooks import Recorder
from mmengine.optim import OptimWrapperDict
from small import SmallModel, small_runner
from torch import nn

from mmwau import WAU, WAUHook, WAUOptimWrapper

SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01)


def assert_held_keep_every_bit(runner, recorder, seed=3):
    wrapper = runner.optim_wrapper
    assert wrapper.layers
    for layer in wrapper.layers.values():
        for update, moved in enumerate(recorder.moved(layer.name)):
            assert torch.equal(moved, WAU(0.5, seed=seed).select([layer], update)[0]), layer.name


def train(tmp_path, optim_wrapper=(), hooks=(), **options):
    recorder = Recorder()
    wrapper = {'type': 'WAUOptimWrapper', **dict(optim_wrapper)}
    runner = small_runner(tmp_path, wrapper, [recorder, dict(type='WAUHook'), *hooks], **options)
    runner.train()
    return runner, recorder


def test_ema_hook(tmp_path):
    runner, recorder = train(tmp_path, hooks=[dict(type='EMAHook', momentum=0.1)])
    assert_held_keep_every_bit(runner, recorder)
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert not torch.equal(
        checkpoint['state_dict']['neck.weight'],
        checkpoint['ema_state_dict']['module.neck.weight'],
    )


@pytest.mark.parametrize(
    'paramwise_cfg',
    [
        dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
        dict(custom_keys={'backbone': dict(lr_mult=0.1, decay_mult=0.9)}),
        dict(bypass_duplicate=True, bias_lr_mult=2.0),
    ],
)
def test_paramwise_cfg(tmp_path, paramwise_cfg):
    runner, recorder = train(tmp_path, dict(paramwise_cfg=paramwise_cfg))
    assert len(runner.optim_wrapper.optimizer.param_groups) > 1
    assert_held_keep_every_bit(runner, recorder)


def test_layer_decay_constructor_of_mmdet(tmp_path):
    class ConvNeXtBackbone(nn.Sequential):
        """The constructor goes by the name of the backbone's class and of its stages."""

    model = SmallModel()
    stages = nn.ModuleList([model.backbone[1]])
    backbone = ConvNeXtBackbone(model.backbone[0], stages[0], *model.backbone[2:])
    model.backbone = backbone
    constructor = dict(
        constructor='mmdet.LearningRateDecayOptimizerConstructor',
        paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6),
        optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
    )
    runner, recorder = train(tmp_path, constructor, model=model)
    assert len(runner.optim_wrapper.optimizer.param_groups) > 1
    assert_held_keep_every_bit(runner, recorder)


def test_auto_scale_lr(tmp_path):
    scale = dict(enable=True, base_batch_size=16)
    runner, recorder = train(tmp_path, auto_scale_lr=scale)
    assert runner.optim_wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(0.05 / 4)
    assert_held_keep_every_bit(runner, recorder)


def test_activation_checkpointing(tmp_path):
    cfg = dict(activation_checkpointing=['neck'])
    runner, recorder = train(tmp_path, cfg=cfg)
    assert_held_keep_every_bit(runner, recorder)


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiled_training_step(tmp_path, backend):
    runner, recorder = train(tmp_path, cfg=dict(compile=dict(backend=backend)))
    assert_held_keep_every_bit(runner, recorder)


def test_clipping_by_value(tmp_path):
    runner, recorder = train(tmp_path, dict(clip_grad=dict(type='value', clip_value=1e-3)))
    assert_held_keep_every_bit(runner, recorder)


@pytest.mark.parametrize('kind', ['DeformConv2d', 'ModulatedDeformConv2dPack'])
def test_deformable_convolutions_of_mmcv(tmp_path, kind):
    from mmcv import ops

    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = getattr(ops, kind)(8, 6, 3, padding=1)
            if kind == 'DeformConv2d':  # the other one has its offsets inside
                self.offset = nn.Conv2d(8, 18, 3, padding=1)

        def forward(self, x):
            return self.conv(x, self.offset(x)) if kind == 'DeformConv2d' else self.conv(x)

    model = SmallModel()
    model.neck = Deformable()
    runner, recorder = train(tmp_path, model=model)
    assert 'neck.conv' in runner.optim_wrapper.layers
    assert_held_keep_every_bit(runner, recorder)


def test_optim_wrapper_dict_is_refused_by_the_hook(tmp_path):
    class TwoOptimizers(SmallModel):
        def train_step(self, data, optim_wrapper):
            raise AssertionError('training should not begin')

    runner = small_runner(tmp_path, {}, [dict(type='WAUHook')], model=TwoOptimizers())
    parts = {
        name: WAUOptimWrapper(
            optimizer=torch.optim.SGD(getattr(runner.model, name).parameters(), lr=0.1), seed=0
        )
        for name in ('neck', 'head')
    }
    runner.optim_wrapper = OptimWrapperDict(**parts)
    with pytest.raises(TypeError, match=r'is an OptimWrapperDict, .*several optimizers'):
        runner.train()


class TestNoSideEffects:
    def test_config_is_not_changed(self, tmp_path):
        clip_grad = dict(type='norm', max_norm=1.0)
        wrapper = dict(type='WAUOptimWrapper', optimizer=SGD, clip_grad=clip_grad, targets=['neck'])
        hooks = [dict(type='WAUHook', ratio_schedule=[dict(type='constant', ratio=1, end=1)])]
        before = copy.deepcopy((wrapper['optimizer'], wrapper['targets'], hooks))
        small_runner(tmp_path, wrapper, hooks).train()
        assert (wrapper['optimizer'], wrapper['targets'], hooks) == before
        WAUHook(**{key: value for key, value in hooks[0].items() if key != 'type'})
        assert hooks == before[2]

    def test_model_is_left_as_it_was(self, tmp_path):
        untrained, model = SmallModel(), SmallModel()
        train(tmp_path, model=model)
        assert model.state_dict().keys() == untrained.state_dict().keys()
        for module, other in zip(model.modules(), untrained.modules(), strict=True):
            assert type(module) is type(other)
            assert vars(module).keys() == vars(other).keys()
            for hooks in ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks'):
                assert not getattr(module, hooks)
        assert not any(param._backward_hooks for param in model.parameters())

    def test_data_order_and_augmentation_are_those_of_a_plain_run(self, tmp_path):
        seen = {}
        for wrapper in ('OptimWrapper', 'WAUOptimWrapper'):
            draws = []

            class Seeing(SmallModel):
                def forward(self, inputs, target, mode='tensor', draws=draws):
                    draws.append((target.tolist(), torch.rand(1).item()))
                    return super().forward(inputs, target, mode)

            small_runner(tmp_path / wrapper, dict(type=wrapper), model=Seeing()).train()
            seen[wrapper] = draws
        assert len(seen['OptimWrapper']) == 6
        assert seen['OptimWrapper'] == seen['WAUOptimWrapper']

    @pytest.mark.slow
    def test_checkpoint_loads_where_there_is_no_mmwau(self, tmp_path):
        train(tmp_path)
        code = (
            "import sys; sys.modules['mmwau'] = None\n"
            'from mmengine.runner import CheckpointLoader\n'
            f'checkpoint = CheckpointLoader.load_checkpoint({str(tmp_path / "epoch_2.pth")!r})\n'
            "print(sorted(checkpoint['state_dict'])[0], sorted(checkpoint))\n"
        )
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "backbone.0.bias ['message_hub', 'meta', 'optimizer'" in done.stdout
