import re
import runpy
import sys

import pytest
import torch
from detection import ROOT
from torchvision import models
from torchvision.transforms.functional import to_pil_image

from mmwau import find_layers
from mmwau.overlap import layer_overlap, mean_overlap

LOOP = ROOT / 'examples' / 'torchvision_loop.py'


def overlap_of(model):
    layers = {name: layer_overlap(model.get_submodule(name)) for name in find_layers(model)}
    return mean_overlap(layers)['overlap']


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script as its users do; returns its network, losses and overlaps."""

    def run(*arguments):
        networks, resnet18 = [], models.resnet18

        def watched(**options):
            networks.append(resnet18(**options))
            return networks[-1]

        monkeypatch.setattr(models, 'resnet18', watched)
        monkeypatch.setattr(sys, 'argv', [str(LOOP), *arguments])
        runpy.run_path(str(LOOP), run_name='__main__')
        *epochs, overlap = capsys.readouterr().out.splitlines()
        losses = [float(re.fullmatch(r'epoch \d+: loss (\d+\.\d+)', line)[1]) for line in epochs]
        told = re.fullmatch(r'filter overlap: (0\.\d{4}) before, (0\.\d{4}) after', overlap)
        (network,) = networks
        return network, losses, [float(value) for value in told.groups()]

    return run


def test_loop_learns_and_shows_the_overlap(run):
    network, losses, (before, after) = run('--epochs', '4')
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]
    torch.manual_seed(0)
    assert before == round(overlap_of(models.resnet18(num_classes=4)), 4)
    assert after == round(overlap_of(network.cpu()), 4)
    assert after != before


def test_loop_takes_a_folder_of_images(run, tmp_path):
    for name in ('ball', 'book', 'tree'):
        (tmp_path / name).mkdir()
        to_pil_image(torch.rand(3, 40, 50)).save(tmp_path / name / 'image.png')
    network, losses, _ = run('--data', str(tmp_path), '--epochs', '1')
    assert network.fc.out_features == 3
    assert len(losses) == 1


def test_loop_is_short_enough_to_copy():
    assert len(LOOP.read_text().splitlines()) < 60
