import argparse
import datetime
import os
import pathlib
import pickle
import sys
import types
from collections import defaultdict
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import small_runner
from torch import nn
from torchvision.models import resnet18

from mmwau.files.weights_file import read_checkpoint, read_weights


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
    torch.save(
        {'model': state, 'args': argparse.Namespace(lr=0.1)},
        tmp_path / 'w.pth',
        _use_new_zipfile_serialization=False,
    )
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
    with pytest.raises(
        ValueError, match=r'an object of the class torchvision\.models\.resnet\.ResNet, '
    ):
        read_weights(tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth', unsafe=True), model.state_dict())


def test_truncated_and_foreign_files_are_reported(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / 'whole.pth')
    content = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'truncated.pth').write_bytes(content[: len(content) // 2])
    (tmp_path / 'text.pth').write_text('not found')
    (tmp_path / 'empty.pth').write_bytes(b'')
    (tmp_path / 'hostile.pth').write_bytes(pickle.dumps(Hostile(tmp_path / 'made')))
    for name in ('truncated', 'text', 'empty'):
        with pytest.raises(ValueError, match=rf'{name}.pth can not be read; it is truncated or'):
            read_weights(tmp_path / f'{name}.pth')
    with pytest.raises(ValueError, match=r'plain pickle, .* refused: it asks to run \w+\.mkdir'):
        read_weights(tmp_path / 'hostile.pth')
    assert not (tmp_path / 'made').exists()
    (tmp_path / 'lfs.pth').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1')
    with pytest.raises(ValueError, match=r'a pointer of Git LFS to it: fetch it with git lfs pull'):
        read_weights(tmp_path / 'lfs.pth')
    (tmp_path / 'page.pth').write_text('\n<!doctype html><html></html>')
    with pytest.raises(ValueError, match='is text, no checkpoint: was a web page'):
        read_weights(tmp_path / 'page.pth')
    (tmp_path / 'w.safetensors').write_bytes(content)
    with pytest.raises(ValueError, match='is truncated or is no safetensors file'):
        read_weights(tmp_path / 'w.safetensors')
    torch.save({'epoch': 3, 'loss': 0.1}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'no weights by name: .*It has: epoch, loss'):
        read_weights(tmp_path / 'w.pth')
    with pytest.raises(FileNotFoundError, match=r'missing\.pth does not exist'):
        read_weights(tmp_path / 'missing.pth')
    with pytest.raises(IsADirectoryError, match=r'is a folder; .* in it: .*page.pth, text.pth'):
        read_weights(tmp_path)


def test_values_beside_the_weights_do_not_hide_them(tmp_path, network):
    """The form of PyTorch's own ImageNet example."""
    beside = {'epoch': 3, 'best_acc1': torch.tensor(76.1)}
    torch.save({**beside, 'state_dict': network.state_dict()}, tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), network.state_dict())
    content, left_out = read_checkpoint(tmp_path / 'w.pth')
    assert content['best_acc1'] == 76.1
    # Versions of the modules, which load_state_dict reads.
    assert content['state_dict']._metadata == network.state_dict()._metadata
    assert left_out == []


@pytest.mark.parametrize('prefix', ['_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'])
def test_names_are_those_without_wrappers(tmp_path, network, prefix):
    state = {f'{prefix}{name}': value for name, value in network.state_dict().items()}
    torch.save({'model': state}, tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), network.state_dict())


def test_names_of_a_compiled_part_are_those_without_wrappers(tmp_path, network):
    network = nn.ModuleDict({'backbone': network, 'head_orig_mod': nn.Linear(2, 3)})
    state = network.state_dict()
    network['backbone'] = torch.compile(network['backbone'])
    assert 'backbone._orig_mod.0.weight' in network.state_dict()
    torch.save(network.state_dict(), tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), state)


def test_names_stay_where_two_would_become_one(tmp_path):
    state = {'weight': torch.zeros(2), 'module.weight': torch.ones(2)}
    torch.save(state, tmp_path / 'w.pth')
    assert same(read_weights(tmp_path / 'w.pth'), state)


class Arguments(dict):
    """As config classes of other projects: a dict with attributes."""


class Unknown:
    def __init__(self):
        self.value = 3


def of_name(module, name, *arguments):
    """Something that is pickled by the name of a class, which need not exist here."""
    kind = type(name, (), {'__module__': module, '__qualname__': name})
    kind.__reduce__ = lambda self: (kind, arguments)
    return kind


@pytest.mark.parametrize('zipped', [True, False])
def test_what_other_scripts_keep_beside_the_weights_does_no_harm(
    tmp_path, monkeypatch, network, zipped
):
    windows = of_name('pathlib', 'WindowsPath', 'runs', 'a')
    monkeypatch.setattr(pathlib, 'WindowsPath', windows)
    local = types.ModuleType('pathlib._local')
    local.PosixPath = of_name('pathlib._local', 'PosixPath', 'runs', 'b')
    monkeypatch.setitem(sys.modules, 'pathlib._local', local)
    monkeypatch.setattr(pathlib, '_local', local, raising=False)
    counts = defaultdict(list, a=[1])
    arguments = Arguments(lr=0.1)
    arguments.name = 'x'
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    beside = {
        'paths': [windows(), local.PosixPath(), Path('runs')],
        'counts': counts,
        'args': arguments,
        'unknown': Unknown(),
        'numbers': np.arange(3.0),
        'best': np.float64(0.5),
        'names': {'a', 'b'},
        'optimizer': optimizer,
        'date': datetime.date(2026, 1, 1),
    }
    torch.save(
        {**beside, 'net': network.state_dict()},
        tmp_path / 'w.pth',
        _use_new_zipfile_serialization=zipped,
    )
    assert same(read_weights(tmp_path / 'w.pth'), network.state_dict())
    content, left_out = read_checkpoint(tmp_path / 'w.pth')
    assert content['counts'] == {'a': [1]}
    assert content['paths'] == [PureWindowsPath('runs/a'), Path('runs/b'), Path('runs')]
    assert content['numbers'].tolist() == [0.0, 1.0, 2.0]
    assert (content['best'], content['names']) == (0.5, {'a', 'b'})
    module = Arguments.__module__
    assert set(left_out) == {
        f'{module}.Arguments',
        f'{module}.Unknown',
        'torch.optim.sgd.SGD',
        'datetime.date',
    }


def test_what_the_user_allowed_torch_is_made(tmp_path, network):
    torch.save({'state_dict': network.state_dict(), 'x': Unknown()}, tmp_path / 'w.pth')
    before = set(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([Unknown])
    try:
        content, left_out = read_checkpoint(tmp_path / 'w.pth')
        assert Unknown in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))
    assert (content['x'].value, left_out) == (3, [])
    read_checkpoint(tmp_path / 'w.pth')
    assert set(torch.serialization.get_safe_globals()) == before


class Quantized:
    """A weight of a class that torch does not know."""

    def __init__(self, value):
        self.value = value


def test_weights_that_can_not_be_read_are_not_left_out(tmp_path, network):
    state = {**network.state_dict(), '2.weight': Quantized(network[2].weight)}
    torch.save({'state_dict': state}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'weights of a class .* 2\.weight \(.*Quantized\)'):
        read_weights(tmp_path / 'w.pth')


def test_a_model_inside_of_a_checkpoint_is_reported(tmp_path):
    torch.save({'epoch': 1, 'model': Unknown()}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'no weights by .* has: epoch, model \(.*\.Unknown'):
        read_weights(tmp_path / 'w.pth')
    torch.save(Unknown(), tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=r'an object of the class .*Unknown, which is code'):
        read_weights(tmp_path / 'w.pth')


def test_safetensors_are_known_by_their_content(tmp_path, network):
    save_file(network.state_dict(), tmp_path / 'w.bin')
    assert read_weights(tmp_path / 'w.bin').keys() == network.state_dict().keys()


def test_torchscript_is_reported_with_what_to_do(tmp_path, network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(network).save('script.pt')
    with pytest.raises(ValueError, match='is a TorchScript archive: a program') as told:
        read_weights('script.pt')
    exec(str(told.value).rpartition(': ')[2])
    assert same(read_weights('weights.pth'), network.state_dict())
    assert same(read_weights('script.pt', unsafe=True), network.state_dict())


def test_reads_models_of_detectron2(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {'model': {'conv.weight': weight, 'n': np.float32(2)}, '__author__': 'x'}
    for protocol in (2, 4):
        (tmp_path / 'w.pkl').write_bytes(pickle.dumps(content, protocol))
        read = read_weights(tmp_path / 'w.pkl')
        assert list(read) == ['conv.weight', 'n']
        assert read['conv.weight'].tolist() == weight.tolist()
    content['model']['x'] = Hostile(tmp_path / 'made')
    (tmp_path / 'w.pkl').write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r'asks to run \w+\.mkdir.* pickles those of NumPy'):
        read_weights(tmp_path / 'w.pkl')
    assert not (tmp_path / 'made').exists()
