"""docs/coco_plan.md is what its script counts."""

import importlib.util

import pytest
from detection import ROOT


@pytest.fixture(scope='module')
def coco_plan():
    spec = importlib.util.spec_from_file_location('coco_plan', ROOT / 'docs' / 'coco_plan.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_what_is_counted(coco_plan):
    page = (ROOT / 'docs' / 'coco_plan.md').read_text()
    assert coco_plan.page() == page, 'write it anew: python docs/coco_plan.py'


def test_counts_of_a_detector(coco_plan):
    counts = coco_plan.count(coco_plan.NETWORKS['R50-FPN'])
    # MMDetection's model zoo has 41.53 M parameters, of which the stem and the first stage
    # (9,408 + 212,992 weights of convolutions) are frozen, as are all statistics of batch norm.
    assert counts.parameters == pytest.approx(41.5e6, rel=0.01)
    # Its tools/analysis_tools/get_flops.py counts some 207 G for a forward pass; a backward pass
    # takes twice that, less what is frozen.
    assert 2.5 * 207e9 < counts.whole < 3 * 216e9
    # ResNet-50 has 53 convolutions, 11 of them frozen; eight of FPN have a bias each.
    assert counts.tensors == 53 - 11 + 2 * 8
