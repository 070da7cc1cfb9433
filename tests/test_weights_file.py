import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from small import small_runner
from torch import nn
from torchvision.models import resnet18

from mmwau.analysis.weights_file import read_weights


@pytest.fixture(scope='module')
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1))


def same(first, second):
    return list(first) == list(second) and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize('place', [None, 'state_dict', 'model', 'net', 'state_dict_ema'])
def test_reads_state_dicts_wherever_training_scripts_put_them(tmp_path, network, place):
    state = network.state_dict()
    torch.save(state if place is None else {'epoch': 3, place: state}, tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), state)


def test_prefers_the_weights_over_their_average(tmp_path, network):
    average = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    torch.save({'state_dict_ema': average, 'state_dict': network.state_dict()}, tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), network.state_dict())


def test_reads_weights_of_distributed_training_and_old_files(tmp_path, network):
    state = {f'module.{name}': value for name, value in network.state_dict().items()}
    torch.save({'model': state, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'w.pth',
               _use_new_zipfile_serialization=False)  # fmt: skip
    assert same(read_weights(tmp_path / 'w.pth'), network.state_dict())


def test_reads_checkpoints_of_mmengine(tmp_path):
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper'), [dict(type='WAUHook')])
    runner.train()
    assert same(read_weights(tmp_path / 'epoch_2.pth'), runner.model.state_dict())


def test_reads_safetensors(tmp_path, network):
    save_file(network.state_dict(), tmp_path / 'w.safetensors')
    read = read_weights(tmp_path / 'w.safetensors')
    assert same(dict(sorted(read.items())), dict(sorted(network.state_dict().items())))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, network, zipped):
    content = {'state_dict': network.state_dict(), 'meta': Hostile(tmp_path / 'made')}
    torch.save(content, tmp_path / 'w.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'refused: it asks to run \w+\.mkdir, .*--unsafe-load'):
        read_weights(tmp_path / 'w.pth')
    assert not (tmp_path / 'made').exists()
    assert same(read_weights(tmp_path / 'w.pth', unsafe=True), network.state_dict())
    assert (tmp_path / 'made').exists()


def test_what_stands_beside_the_weights_is_not_made(tmp_path, network):
    class Attribute:
        def __reduce__(self):
            return getattr, (Hostile(tmp_path / 'made'), 'path')

    torch.save({'state_dict': network.state_dict(), 'x': Attribute()}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='asks to run'):
        read_weights(tmp_path / 'w.pth')

    class Harmless:
        def __reduce__(self):
            return getattr, ('text', 'upper')

    torch.save({'state_dict': network.state_dict(), 'x': Harmless()}, tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), network.state_dict())


def test_a_whole_model_is_refused_unless_the_user_insists(tmp_path):
    model = resnet18()
    torch.save(model, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'asks to run torchvision\.models\.resnet\.ResNet'):
        read_weights(tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth', unsafe=True), model.state_dict())


def test_truncated_and_foreign_files_are_told(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / 'whole.pth')
    content = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'truncated.pth').write_bytes(content[: len(content) // 2])
    (tmp_path / 'text.pth').write_text('not found')
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'hostile.pth').write_bytes(pickle.dumps(Hostile(tmp_path / 'made')))
    for name in ('truncated', 'text', 'empty', 'hostile'):
        with pytest.raises(ValueError, match=rf'{name}.pth can not be read; it is truncated or'):
            read_weights(tmp_path / f'{name}.pth')
    assert not (tmp_path / 'made').exists()
    (tmp_path / 'w.safetensors').write_bytes(content)
    with pytest.raises(ValueError, match='is truncated or is no safetensors file'):
        read_weights(tmp_path / 'w.safetensors')
    torch.save({'epoch': 3, 'loss': 0.1}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'no weights by name: .*It has: epoch, loss'):
        read_weights(tmp_path / 'w.pth')
    with pytest.raises(FileNotFoundError, match=r'missing\.pth does not exist'):
        read_weights(tmp_path / 'missing.pth')
