"""What one process can show; two of them are in test_distributed.py."""

import pytest
import torch
from small import SmallModel, small_runner

from mmwau import WAUOptimWrapper
from mmwau.traffic import send_active_only


def test_a_model_that_is_not_distributed_is_reported():
    words = 'needs a model in one DistributedDataParallel, .* got SmallModel'
    with pytest.raises(TypeError, match=words):
        send_active_only(SmallModel())


def test_a_wrapper_that_needs_all_gradients_sends_all():
    optimizer = torch.optim.SGD(SmallModel().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"does not go with hold='weight'"):
        WAUOptimWrapper(optimizer=optimizer).send_active_only(SmallModel())


def test_one_process_has_nothing_to_send(tmp_path):
    hook = dict(type='WAUHook', send_active_only=True)
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper', hold='state'), [hook])
    runner.train()
    assert runner.optim_wrapper.traffic is None
    assert 'train/sent_mb' not in runner.message_hub.log_scalars


def test_hold_weight_is_refused_before_training(tmp_path):
    hook = dict(type='WAUHook', send_active_only=True)
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper'), [hook])
    with pytest.raises(ValueError, match=r"send_active_only=True does not go with hold='weight'"):
        runner.train()
