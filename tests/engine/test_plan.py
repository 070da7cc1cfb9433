"""A config and the runner that is made from it say the same of a training."""

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from small import small_runner

from mmwau import DSDHook, WAUHook, WAUOptimWrapper
from mmwau.engine.plan import Plan

WAU = dict(type='WAUOptimWrapper', hold='state')


@LOOPS.register_module()
class LoopOfOnesOwn(IterBasedTrainLoop):
    """Counts iterations, under another name."""


class Reads(Hook):
    """Keeps the plan that it finds in a runner before training."""

    def before_train(self, runner):
        self.plan = Plan.of_runner(runner)


def test_config_and_runner_agree(tmp_path):
    reads = Reads()
    small_runner(tmp_path, WAU, [dict(type='WAUHook'), reads], max_epochs=1).train()
    cfg = Config(
        dict(
            optim_wrapper=WAU,
            custom_hooks=[dict(type='WAUHook')],
            train_cfg=dict(by_epoch=True, max_epochs=1),
        )
    )
    plan = Plan.of_config(cfg)
    assert plan.hooks == [WAUHook]
    assert WAUHook in reads.plan.hooks
    assert plan._replace(hooks=[]) == reads.plan._replace(hooks=[])
    assert plan._replace(hooks=[]) == Plan(
        wrapper=WAUOptimWrapper,
        wrapper_name='WAUOptimWrapper',
        hold='state',
        hooks=[],
        counts_iterations=False,
        max_epochs=1,
        runner='Runner',
    )


@pytest.mark.parametrize(
    ('loop', 'counts'),
    [
        (dict(type='EpochBasedTrainLoop', max_epochs=2), False),
        (dict(max_epochs=2), False),
        (dict(type='IterBasedTrainLoop', max_iters=2), True),
        (dict(type=IterBasedTrainLoop, max_iters=2), True),
        (dict(type='LoopOfOnesOwn', max_iters=2), True),
        (dict(by_epoch=False, max_iters=2), True),
        (dict(type='NobodyKnowsIt'), False),
    ],
)
def test_loops_that_count_only_iterations_are_known(loop, counts):
    assert Plan.of_config(Config(dict(train_cfg=loop))).counts_iterations is counts


def test_what_a_config_leaves_out_or_nobody_knows():
    plan = Plan.of_config(Config({}))
    assert (plan.wrapper, plan.wrapper_name) == (OptimWrapper, 'OptimWrapper')
    assert (plan.hooks, plan.runner, plan.sharding) == ([], 'Runner', None)
    hooks = [dict(type='SomeHook'), dict(type='DSDHook', begin=1, end=2)]
    plan = Plan.of_config(Config(dict(optim_wrapper=dict(type='my.Own'), custom_hooks=hooks)))
    assert (plan.wrapper, plan.wrapper_name) == (None, 'Own')
    assert plan.hooks == [DSDHook]
    assert Plan.of_config(Config(dict(strategy='FSDPStrategy'))).sharding == 'FSDPStrategy'
