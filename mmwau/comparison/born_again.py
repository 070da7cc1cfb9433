"""Born-again networks: a network learns from another of its form that was trained before."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional

from mmwau.core.sharding import refuse_sharded
from mmwau.engine.bare_model import bare_model
from mmwau.engine.plan import Plan
from mmwau.files.weights_file import read_checkpoint

from .added_loss import AddedLossHook

# Of MMPreTrain and torch, those that have no argument ``use_sigmoid``.
SIGMOID_KINDS = {'MultiLabelClsHead', 'FocalLoss', 'BCEWithLogitsLoss', 'BCELoss'}


@HOOKS.register_module()
class BornAgainHook(AddedLossHook):
    """Train on what a teacher says of each image beside its label (Furlanello et al., 1805.04770).

    The teacher is a classifier of the same form, trained before on the same classes, such as the
    baseline. To the loss of the labels is added the cross-entropy between the probabilities that
    the teacher gives and those of the student, ``loss_born_again`` in the log: "BAN+L" there. (That
    both count alike, and that the teacher is in evaluation mode, is as we read the paper.) A
    student can teach the next one, so that there are generations; each starts from weights of its
    own, so give each run another seed.

    The teacher sees the images as the student does, augmented. It is no part of the model: neither
    checkpoints nor the optimizer know of it.

    The probabilities are those of a softmax, so heads with a sigmoid for each class, such as those
    for several labels an image, are refused.

    Args:
        teacher: Checkpoint of the teacher.

    Raises:
        TypeError: If ``teacher`` is no name of a file.
    """

    loss_name = 'loss_born_again'

    def __init__(self, teacher: str):
        if not isinstance(teacher, str) or not teacher:
            raise TypeError(f'teacher must be the path of a checkpoint, got {teacher!r}')
        self.teacher = teacher

    def check(self, plan: Plan) -> None:
        """Raise if two such hooks meet, or there is no teacher.

        Args:
            plan: The training.

        Raises:
            FileNotFoundError: If its checkpoint does not exist.
            ValueError: If two such hooks meet.
        """
        if sum(issubclass(hook, BornAgainHook) for hook in plan.hooks) > 1:
            raise ValueError('custom_hooks has two BornAgainHooks; keep one of them')
        if not Path(self.teacher).is_file():
            raise FileNotFoundError(
                f'teacher: the checkpoint {self.teacher} does not exist (from {Path.cwd()}). Train '
                'the teacher first, or name the checkpoint of another network of this form'
            )

    def before_train(self, runner: Runner) -> None:
        """Make the teacher.

        Raises:
            FileNotFoundError: See :meth:`check`.
            TypeError: If the model is no classifier with a head, the head's classes don't exclude
                one another, its parameters are cut over processes, or the train loop has no
                ``run_iter``.
            ValueError: See :meth:`check`; or if the checkpoint can't be read, or is of another
                network or other classes.
        """
        refuse_sharded(runner.model, type(self).__name__)
        super().before_train(runner)
        model = bare_model(runner.model)
        if not isinstance(getattr(model, 'head', None), nn.Module):
            raise TypeError(
                'BornAgainHook teaches classifiers with a head, such as ImageClassifier of '
                f'MMPreTrain; {type(model).__name__} has none'
            )
        _check_head(model.get_submodule('head'))
        content, _ = read_checkpoint(self.teacher)
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        self._teacher = make_teacher(model, self.teacher, content, metainfo.get('classes'))
        runner.logger.info(f'{type(model).__name__} is taught by {self.teacher}')
        if _find(content, 'meta', 'seed') == runner.seed:
            runner.logger.warning(
                f'The teacher was trained with the seed of this run, {runner.seed}, so that both '
                'start from the same weights. In the paper each generation has another seed'
            )

    def after_train(self, runner: Runner) -> None:
        """Let go of the teacher."""
        del self._teacher

    @contextmanager
    def changed(self, runner: Runner) -> Iterator[None]:
        """Keep what the head says in the forward passes made inside; see the base class."""
        own = bare_model(runner.model).get_submodule('head')
        self._logits: object = None

        def keep(head: nn.Module, args: tuple, logits: object) -> None:
            if head is own:
                self._logits = logits

        handle = own.register_forward_hook(keep)
        try:
            with super().changed(runner):
                yield
        finally:
            handle.remove()
            self._logits = None

    def added(self, runner: Runner, args: tuple, kwargs: dict) -> Tensor:
        """The mean over images of the cross-entropy with what the teacher says.

        Raises:
            TypeError: If the head gave no logits of shape (N, classes), or of a single class.
        """
        logits = self._logits
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            head = bare_model(runner.model).get_submodule('head')
            raise TypeError(
                'BornAgainHook compares what head.forward returns, logits of shape (N, classes); '
                f'the head, {type(head).__name__}, gave none'
            )
        if logits.shape[1] < 2:
            raise TypeError(
                'BornAgainHook compares probabilities of classes that exclude one another; the '
                'model has a single output'
            )
        with torch.no_grad():
            taught = self._teacher(*args, **{**kwargs, 'mode': 'tensor'})
        return functional.cross_entropy(logits.float(), taught.float().softmax(dim=1))


def make_teacher(
    model: nn.Module, path: str, content: Mapping, classes: Sequence[str] | None
) -> nn.Module:
    """Make a teacher of a model's form.

    Args:
        model: The model.
        path: Checkpoint of the teacher.
        content: What is in it, from :func:`mmwau.files.weights_file.read_checkpoint`.
        classes: Names of the classes that the model is trained on, if known.

    Returns:
        A copy of the model with the weights of the checkpoint, in evaluation mode.

    Raises:
        ValueError: If the checkpoint is of another network or other classes, or diverged.
    """
    _check_classes(path, _find(content, 'meta', 'dataset_meta', 'classes'), classes)
    teacher = deepcopy(model).eval().requires_grad_(False)
    weights = {name: it for name, it in content['state_dict'].items() if isinstance(it, Tensor)}
    _check_form(path, weights, teacher.state_dict())
    broken = [name for name, it in weights.items() if not it.isfinite().all()]
    if broken:
        raise ValueError(
            f'teacher: {path} has values in {broken[0]} that are not finite. Take an earlier '
            'checkpoint, or train the teacher anew'
        )
    teacher.load_state_dict(weights)
    return teacher


def _check_head(head: nn.Module) -> None:
    """Raise if a head, or its loss, takes each class by itself."""
    for part in head.modules():
        kinds = {kind.__name__ for kind in type(part).__mro__}
        if getattr(part, 'use_sigmoid', False) or kinds & SIGMOID_KINDS:
            loss = '' if part is head else f'{type(part).__name__} of '
            raise TypeError(
                'BornAgainHook compares probabilities of classes that exclude one another '
                f'(softmax); {loss}the head, {type(head).__name__}, takes each class by itself '
                '(sigmoid). Give the head a loss with softmax, or leave the hook out'
            )


def _find(content: object, *keys: str) -> object:
    """What stands in a checkpoint where MMEngine writes it; None if it is of another origin."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _check_classes(path: str, taught: object, classes: Sequence[str] | None) -> None:
    if not isinstance(taught, Sequence) or classes is None or list(taught) == list(classes):
        return
    differ = (pair for pair in zip(taught, classes, strict=False) if pair[0] != pair[1])
    first = next(differ, None)
    difference = f', and where they first differ {first[0]!r} and {first[1]!r}' if first else ''
    raise ValueError(
        f'teacher: {path} was trained on other classes: {len(taught)} there, {len(classes)} here'
        f'{difference}. A teacher has the classes of its student, in the same order'
    )


def _check_form(path: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    there, here = ({name: tuple(it.shape) for name, it in part.items()} for part in (weights, own))
    if there == here:
        return
    reasons = [
        f'{name} is of shape {there.get(name, "none")} there, {here.get(name, "none")} here'
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]
    more = f', and {len(reasons) - 3} more' if len(reasons) > 3 else ''
    raise ValueError(
        f'teacher: {path} is of another network: {"; ".join(reasons[:3])}{more}. A teacher has the '
        'form of its student, and as many classes: train it with the same model settings'
    )
