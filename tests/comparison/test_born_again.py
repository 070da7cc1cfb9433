"""A network learns from a teacher: what is added to the loss, and which teachers are refused."""

from copy import deepcopy

import mmpretrain.models
import mmpretrain.registry
import pytest
import torch
from hooks import Recorder, StopAfter, log
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from small import SmallData, small_runner
from torch import nn
from torch.nn import functional

from mmwau import BornAgainHook
from mmwau.comparison.born_again import make_teacher
from mmwau.files.weights_file import read_checkpoint

PLAIN = dict(type='OptimWrapper')


class Classifier(BaseModel):
    """A backbone, and a head that tells two classes apart; its form is that of MMPreTrain's."""

    def __init__(self, classes=2, width=6):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, inputs, target=None, mode='tensor'):
        logits = self.head(self.backbone(inputs).mean(dim=(2, 3)))
        if mode == 'loss':
            return {'loss': functional.cross_entropy(logits, (target > 0).long())}
        return logits


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(1)
    torch.save(Classifier().state_dict(), tmp_path / 'teacher.pth')
    return str(tmp_path / 'teacher.pth')


def load(path, classes):
    return make_teacher(Classifier(), path, read_checkpoint(path)[0], classes)


def runner_of(work_dir, hooks, wrapper=PLAIN, model=None, **options):
    torch.manual_seed(2)
    return small_runner(work_dir, wrapper, hooks, model=model or Classifier(), **options)


class Look(Hook):
    """Keeps the model and the batch of each iteration, and what it gave."""

    priority = 'LOWEST'

    def __init__(self):
        self.models, self.batches, self.losses = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.models.append(deepcopy(runner.model))
        self.batches.append(data_batch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: value.item() for name, value in outputs.items()})
        runner.model.eval()
        assert runner.model(**data_batch, mode='loss').keys() == {'loss'}
        runner.model.train()


def test_the_loss_is_the_cross_entropy_with_the_teacher_beside_that_of_the_labels(
    tmp_path, teacher
):
    look = Look()
    hook = dict(type='BornAgainHook', teacher=teacher)
    runner = runner_of(tmp_path / 'run', [hook, look])
    runner.train()
    taught = Classifier().eval()
    taught.load_state_dict(torch.load(teacher))
    assert len(look.losses) == 6
    for model, batch, losses in zip(look.models, look.batches, look.losses, strict=True):
        with torch.no_grad():
            logits, says = model(batch['inputs']), taught(batch['inputs']).softmax(dim=1)
        expected = -(says * logits.log_softmax(dim=1)).sum(dim=1).mean().item()
        assert losses['loss_born_again'] == pytest.approx(expected, rel=1e-5)
    assert not runner.model._forward_hooks
    assert not runner.model.head._forward_hooks


class Grads(Hook):
    """Keeps the gradients of the first update."""

    def before_train(self, runner):
        self.grads = None
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *args: self.keep(runner))

    def keep(self, runner):
        if self.grads is None:
            named = runner.model.named_parameters()
            self.grads = {name: param.grad.clone() for name, param in named}


@pytest.mark.parametrize('counts', [1, 3], ids=['each', 'accumulation'])
def test_the_gradient_is_that_of_both_losses(tmp_path, teacher, counts):
    watch = Grads()
    hook = dict(type='BornAgainHook', teacher=teacher)
    wrapper = dict(PLAIN, accumulative_counts=counts)
    runner_of(tmp_path / 'run', [hook, watch], wrapper, max_epochs=1).train()
    plain = Look()
    runner_of(tmp_path / 'plain', [plain], wrapper, max_epochs=1).train()
    taught = Classifier().eval()
    taught.load_state_dict(torch.load(teacher))
    model = plain.models[0]
    for batch in plain.batches[:counts]:
        loss = model(**batch, mode='loss')['loss']
        says = taught(batch['inputs']).detach().softmax(dim=1)
        loss = loss + functional.cross_entropy(model(batch['inputs']), says)
        (loss / counts).backward()
    for name, param in model.named_parameters():
        torch.testing.assert_close(watch.grads[name], param.grad, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_in_no_checkpoint_and_a_resumed_run_ends_with_the_same_bits(
    tmp_path, teacher
):
    hook = dict(type='BornAgainHook', teacher=teacher)
    whole = runner_of(tmp_path / 'whole', [hook], max_epochs=3)
    whole.train()
    saved = torch.load(tmp_path / 'whole' / 'epoch_3.pth', weights_only=False)
    assert saved['state_dict'].keys() == Classifier().state_dict().keys()
    assert len(saved['optimizer']['state']) == len(list(Classifier().parameters()))
    with pytest.raises(KeyboardInterrupt):
        runner_of(tmp_path / 'parts', [hook, StopAfter(1)], max_epochs=3).train()
    parts = runner_of(tmp_path / 'parts', [hook], max_epochs=3, resume=True)
    parts.train()
    one, two = whole.model.state_dict(), parts.model.state_dict()
    assert all(one[name].equal(two[name]) for name in one)


def test_a_teacher_that_diverged_is_refused(tmp_path):
    model = Classifier()
    with torch.no_grad():
        model.head.bias[0] = float('nan')
    torch.save(model.state_dict(), tmp_path / 'broken.pth')
    with pytest.raises(ValueError, match=r'broken.pth has values in head.bias that are not finite'):
        load(str(tmp_path / 'broken.pth'), None)


def test_a_single_output_has_no_probabilities_of_classes(tmp_path):
    class Binary(Classifier):
        def forward(self, inputs, target=None, mode='tensor'):
            logits = super().forward(inputs)
            return {'loss': logits.square().mean()} if mode == 'loss' else logits

    torch.save(Binary(1).state_dict(), tmp_path / 'one.pth')
    hook = dict(type='BornAgainHook', teacher=str(tmp_path / 'one.pth'))
    with pytest.raises(TypeError, match='the model has a single output'):
        runner_of(tmp_path / 'run', [hook], model=Binary(1)).train()


class WithHead(Classifier):
    """A classifier with a head of MMPreTrain."""

    def __init__(self, **head):
        super().__init__()
        self.head = mmpretrain.registry.MODELS.build(dict(num_classes=2, in_channels=6, **head))

    def forward(self, inputs, target=None, mode='tensor'):
        logits = self.head((self.backbone(inputs).mean(dim=(2, 3)),))
        if mode == 'loss':
            return {'loss': functional.cross_entropy(logits, (target > 0).long())}
        return logits


LINEAR = 'LinearClsHead'


@pytest.mark.parametrize(
    ('head', 'part'),
    [
        (dict(type='MultiLabelLinearClsHead'), ''),
        (
            dict(type=LINEAR, loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
            'CrossEntropyLoss of ',
        ),
        (dict(type=LINEAR, loss=dict(type='AsymmetricLoss')), 'AsymmetricLoss of '),
        (dict(type=LINEAR, loss=dict(type='FocalLoss')), 'FocalLoss of '),
        (
            dict(
                type=LINEAR,
                loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, use_sigmoid=True),
            ),
            'CrossEntropyLoss of ',
        ),
        (dict(type=LINEAR, loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)), None),
        (dict(type=LINEAR), None),
    ],
)
def test_a_head_that_takes_each_class_by_itself_is_refused(tmp_path, head, part):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = WithHead(**head)
    torch.save(model.state_dict(), tmp_path / 'teacher.pth')
    hook = dict(type='BornAgainHook', teacher=str(tmp_path / 'teacher.pth'))
    runner = runner_of(tmp_path / 'run', [hook], model=model, max_epochs=1)
    if part is None:
        runner.train()
        return
    words = rf'exclude one another \(softmax\); {part}the head, {head["type"]}, takes each'
    with pytest.raises(TypeError, match=words):
        runner.train()


def test_a_checkpoint_of_a_student_is_a_teacher(tmp_path, teacher):
    hook = dict(type='BornAgainHook', teacher=teacher)
    student = runner_of(tmp_path / 'one', [hook], max_epochs=1)
    student.train()
    path = str(tmp_path / 'one' / 'epoch_1.pth')
    hooks = [dict(hook, teacher=path)]
    for seed in (3, 4):  # small_runner's own is 3
        folder = tmp_path / f'seed{seed}'
        runner_of(folder, hooks, max_epochs=1, randomness=dict(seed=seed)).train()
        assert ('trained with the seed of this run, 3' in log(folder)) == (seed == 3)
    copy = load(path, None)
    assert not copy.training
    assert not any(param.requires_grad for param in copy.parameters())
    for name, value in student.model.state_dict().items():
        assert copy.state_dict()[name].equal(value)


@pytest.mark.parametrize('hold', ['weight', 'state'])
def test_with_wau_filters_are_held(tmp_path, teacher, hold):
    watch = Recorder()
    wrapper = dict(type='WAUOptimWrapper', hold=hold)
    hooks = [dict(type='BornAgainHook', teacher=teacher), watch]
    runner_of(tmp_path / 'run', hooks, wrapper, max_epochs=1).train()
    assert [int(moved.sum()) for moved in watch.moved('backbone.0.weight')] == [3, 3, 3]


class Named(SmallData):
    def __init__(self):
        self.metainfo = dict(classes=('cat', 'dog'))


@pytest.mark.parametrize(
    ('there', 'words'),
    [
        (Classifier(3), r'head.weight is of shape \(3, 6\) there, \(2, 6\) here; head.bias .*form'),
        (Classifier(width=4), r'backbone.0.weight is of shape .* and 4 more. A teacher has'),
        (nn.Linear(2, 2), r'backbone.0.weight is of shape none there, \(6, 3, 3, 3\) here'),
    ],
    ids=['classes', 'width', 'network'],
)
def test_a_teacher_of_another_form_is_refused(tmp_path, there, words):
    torch.save(there.state_dict(), tmp_path / 'teacher.pth')
    hook = dict(type='BornAgainHook', teacher=str(tmp_path / 'teacher.pth'))
    with pytest.raises(ValueError, match=f'teacher: .*teacher.pth is of another network: {words}'):
        runner_of(tmp_path / 'run', [hook]).train()


@pytest.mark.parametrize(
    ('taught', 'words'),
    [
        (('dog', 'cat'), "2 there, 2 here, and where they first differ 'dog' and 'cat'"),
        (('cat', 'dog', 'cow'), '3 there, 2 here. A teacher has the classes'),
    ],
)
def test_a_teacher_of_other_classes_is_refused(tmp_path, taught, words):
    meta = dict(dataset_meta=dict(classes=taught))
    content = dict(meta=meta, state_dict=Classifier().state_dict())
    torch.save(content, tmp_path / 'teacher.pth')
    load(tmp_path / 'teacher.pth', taught)
    with pytest.raises(ValueError, match=f'was trained on other classes: {words}'):
        load(tmp_path / 'teacher.pth', ('cat', 'dog'))


def test_classes_of_the_data_are_compared(tmp_path):
    meta = dict(dataset_meta=dict(classes=('dog', 'cat')))
    content = dict(meta=meta, state_dict=Classifier().state_dict())
    torch.save(content, tmp_path / 'teacher.pth')
    hook = dict(type='BornAgainHook', teacher=str(tmp_path / 'teacher.pth'))
    runner = runner_of(tmp_path / 'run', [hook])
    runner._train_dataloader['dataset'] = Named()
    with pytest.raises(ValueError, match='other classes'):
        runner.train()


class Headless(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, inputs, target, mode='tensor'):
        return {'loss': self.conv(inputs).mean()}


class Maps(Classifier):
    """Its head gives a map, not logits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, inputs, target, mode='tensor'):
        return {'loss': self.head(self.backbone(inputs)).mean()}


@pytest.mark.parametrize(
    ('hooks', 'model', 'error', 'words'),
    [
        (1, Headless, TypeError, r'classifiers with a head, .*; Headless has none'),
        (1, Maps, TypeError, r'logits of shape \(N, classes\); the head, Conv2d, gave none'),
        (2, Classifier, ValueError, 'custom_hooks has two BornAgainHooks'),
    ],
)
def test_runs_that_it_does_not_go_with_are_refused(tmp_path, hooks, model, error, words):
    torch.save(model().state_dict(), tmp_path / 'teacher.pth')
    hook = dict(type='BornAgainHook', teacher=str(tmp_path / 'teacher.pth'))
    with pytest.raises(error, match=words):
        runner_of(tmp_path / 'run', [hook] * hooks, model=model()).train()


def test_a_teacher_that_does_not_exist_is_reported(tmp_path):
    hook = dict(type='BornAgainHook', teacher='work_dirs/none.pth')
    with pytest.raises(FileNotFoundError, match=r'teacher: the checkpoint work_dirs/none.pth does'):
        runner_of(tmp_path, [hook]).train()


@pytest.mark.parametrize('teacher', [None, '', 3])
def test_a_wrong_argument_is_reported(teacher):
    with pytest.raises(TypeError, match='teacher must be the path of a checkpoint, got'):
        BornAgainHook(teacher)
