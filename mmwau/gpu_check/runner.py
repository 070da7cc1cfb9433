"""Trainings by MMEngine's Runner: a small model, the demo, and a compiled one."""

from collections.abc import Sequence

import mmengine
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

from mmwau.datasets.shapes import make_shapes
from mmwau.engine.package_configs import read_config
from mmwau.engine.wau_hook import WAUHook  # noqa: F401  (registers what configs name)

from .bits import HeldBits, small_network
from .ops import why_no_ops
from .part import ROOT, Finding, NotPossibleError, Place

CONFIG = ROOT / 'configs' / 'faster_rcnn_r18_wau_demo.py'
PRECISIONS = ('float16', 'bfloat16')
NO_AMP = "in float32, since MMEngine's mixed precision needs an accelerator"
# The batch whose loss is infinite.
POISONED = 2


class CheckHook(Hook):
    """Checks after each iteration that held slices kept their bits."""

    priority = 'VERY_LOW'

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Keep what the update begins with."""
        wrapper = runner.optim_wrapper
        if runner.iter == 0:
            self.bits = HeldBits(wrapper.layers)
        self._scale = self._scale_of(runner)
        self._active = wrapper.wau.select(wrapper.layers, wrapper.updates.index)
        self.bits.start()

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Look at what has moved; the scale falls where an update was skipped."""
        self.bits.check(self._active, self._scale_of(runner) < self._scale)

    def _scale_of(self, runner: Runner) -> float:
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        return 1.0 if scaler is None else scaler.get_scale()


class SmallClassifier(BaseModel):
    """A network that learns the sums of images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_network(torch.device('cpu'))

    def forward(self, inputs: Tensor, target: Tensor, mode: str = 'tensor') -> dict | Tensor:
        """The loss, or what the network gives."""
        output = self.backbone(inputs).mean(dim=(1, 2, 3))
        return dict(loss=(output - target).square().mean()) if mode == 'loss' else output


class SmallImages(Dataset):
    """Drawn numbers as images.

    Args:
        poisoned: The batch of four whose targets are infinite, or None.
    """

    def __init__(self, poisoned: int | None):
        self.poisoned = poisoned

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        is_poisoned = self.poisoned is not None and index // 4 == self.poisoned
        return dict(inputs=image, target=torch.tensor(torch.inf) if is_poisoned else image.mean())


def train_small(place: Place) -> Finding:
    """Train the small model in each precision.

    Raises:
        AssertionError: If held slices moved, or no update was skipped that should have been.
    """
    told, values = [], {}
    for precision in _precisions(place):
        bits = _train(place, precision, f'small_{precision}').bits
        if precision != 'float32' and bits.skipped != 1:
            raise AssertionError(f'{bits.skipped} updates were skipped, and not the one of 6')
        values[precision] = dict(updates=bits.updates, skipped=bits.skipped)
        told.append(f'{precision}: {bits.updates} updates, {bits.skipped} skipped')
    remark = '' if place.is_gpu else f' ({NO_AMP})'
    return Finding(f'held slices kept every bit; {"; ".join(told)}{remark}', values)


def train_compiled(place: Place) -> Finding:
    """Train the small model with MMEngine's ``compile=True``.

    Raises:
        AssertionError: If held slices moved.
    """
    # On a CPU nothing is made of what is traced, which would take half a minute.
    setting = True if place.is_gpu else dict(backend='eager')
    bits = _train(place, 'float32', 'compiled', compile=setting).bits
    told = f'held slices kept every bit in {bits.updates} updates with compile={setting}'
    return Finding(told, dict(updates=bits.updates))


def _precisions(place: Place) -> Sequence[str]:
    return PRECISIONS if place.is_gpu else ('float32',)


def _wrapper(precision: str) -> dict:
    """The optimizer wrapper of a precision."""
    if precision == 'float32':
        return dict(type='WAUOptimWrapper')
    return dict(type='WAUAmpOptimWrapper', dtype=precision, loss_scale=dict(init_scale=256.0))


def _train(place: Place, precision: str, name: str, **cfg: object) -> CheckHook:
    check = CheckHook()
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.01)
    poisoned = None if precision == 'float32' else POISONED
    runner = Runner(
        model=SmallClassifier(),
        work_dir=str(place.folder / name),
        train_dataloader=dict(
            dataset=SmallImages(poisoned),
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(_wrapper(precision), hold='state', optimizer=optimizer),
        custom_hooks=[dict(type='WAUHook'), check],
        randomness=dict(seed=0),
        experiment_name=name,
        cfg=dict(cfg),
    )
    runner.train()
    return check


def train_demo(place: Place) -> Finding:
    """Train the demo's detector for a while in each precision.

    Raises:
        NotPossibleError: If mmcv's ops do not work on the device.
        AssertionError: If held filters moved.
    """
    reason = why_no_ops(place.device)
    if reason:
        raise NotPossibleError(reason)
    from mmwau.scripts.launch import build_runner

    data = place.folder / 'data'
    make_shapes(data, {'train': 64 if place.is_gpu else 4}, image_size=96, progress=False)
    told, values = [], {}
    for precision in _precisions(place):
        cfg = read_config(CONFIG)
        cfg.merge_from_dict(dict(optim_wrapper=_wrapper(precision)))
        loader = cfg.train_dataloader
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.data_root = f'{data}/'
        for part in ('val', 'test'):
            for setting in ('cfg', 'dataloader', 'evaluator'):
                cfg[f'{part}_{setting}'] = None
        cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
        cfg.work_dir, cfg.launcher = str(place.folder / precision), 'none'
        cfg.experiment_name = f'demo_{precision}'
        runner, check = build_runner(cfg), CheckHook()
        runner.register_hook(check)
        runner.train()
        losses, _ = runner.message_hub.get_scalar('train/loss').data
        values[precision] = dict(
            updates=check.bits.updates, skipped=check.bits.skipped, last_loss=float(losses[-1])
        )
        told.append(
            f'{precision}: {check.bits.updates} updates, {check.bits.skipped} skipped, loss '
            f'{losses[0]:.2f} to {losses[-1]:.2f}'
        )
    remark = '' if place.is_gpu else f' ({NO_AMP})'
    values['mmengine'] = mmengine.__version__
    return Finding(f'held filters kept every bit; {"; ".join(told)}{remark}', values)
