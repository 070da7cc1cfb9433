"""What a training goes on with, from whatever is known."""

import pytest
import torch
from mmengine.logging import MessageHub

from mmwau.engine.resume import find_index, find_seed, keep_options


def test_a_seed_is_the_given_one_then_the_checkpoints_then_torchs():
    torch.manual_seed(7)
    assert find_seed(3, {'seed': 5}) == 3
    assert find_seed(0, {'seed': 5}) == 0
    assert find_seed(None, {'seed': 5}) == 5
    assert find_seed(None, {}) == 7


@pytest.mark.parametrize(
    ('loaded', 'before', 'iterations', 'index'),
    [
        ({'updates': 9}, 4, 8, 9),  # a checkpoint
        ({}, 4, 8, 4),  # a training that goes on in the same process
        ({}, 4, 0, 0),  # a training that begins again
        ({}, None, 8, 4),  # a checkpoint without WAU
    ],
)
def test_the_number_of_updates(loaded, before, iterations, index):
    assert find_index(loaded, before, iterations, accumulative=2) == index


def test_options_are_kept_and_what_changed_is_told():
    hub = MessageHub.get_instance('test_options_are_kept')
    assert [text for _, text in keep_options(hub, {'hold': 'weight'}, resumed=False)] == []
    (told,) = keep_options(hub, {'hold': 'state'}, resumed=True)
    assert told.text == "WAU: hold was 'weight' until here and is 'state' from now on"
    # Kept before anybody asks for the messages.
    keep_options(hub, {'hold': 'grad'}, resumed=True)
    assert hub.get_info('wau_options') == {'hold': 'grad'}
