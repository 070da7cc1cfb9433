"""What tests of hooks share: hooks that watch or end a run, and readers of what it logged."""

import json
from pathlib import Path

import torch
from mmengine.hooks import Hook


def scalars(work_dir, key='loss'):
    """What the visualizer wrote down, in each entry that has the key."""
    lines = next(Path(work_dir).glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if key in entry]


def log(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def assert_plain(value):
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            assert_plain(one)
    else:
        assert type(value) in (int, str, bool, torch.Tensor, type(None))


class StopAfter(Hook):
    """Ends a run after the checkpoint of an epoch."""

    priority = 'LOWEST'

    def __init__(self, epochs):
        self.epochs = epochs

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epochs:
            raise KeyboardInterrupt


class Recorder(Hook):
    """Keeps the weights before and after every iteration, and which slices were selected."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.weights = []

    def before_train(self, runner):
        self.weights.append(self._weights(runner))

    def after_train_iter(self, runner, *args, **kwargs):
        self.weights.append(self._weights(runner))

    def _weights(self, runner):
        parameters = runner.model.named_parameters()
        return {name: param.detach().cpu().clone() for name, param in parameters}

    def moved(self, name):
        """For each iteration a bool tensor: which filters of a parameter changed by any bit."""
        pairs = zip(self.weights[:-1], self.weights[1:], strict=True)
        return [old[name].ne(new[name]).flatten(1).any(dim=1) for old, new in pairs]
