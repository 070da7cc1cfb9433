import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import mmdet.registry
import mmpretrain.registry
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import build_classifier
from pytorchcv.models.resnet_cifar import get_resnet_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from torch import nn
from torchvision.models import GoogLeNet_Weights

from mmwau import WAU, HeldGradSkipper, find_layers
from mmwau.models import (
    CIFARAlexNet,
    CIFARGoogLeNet,
    CIFARWideResNet,
    GoogLeNet,
    NarrowVGG,
    PytorchCVBackbone,
)

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cifar'


def build(config):
    """The whole classifier of a config, shapes without values."""
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    with torch.device('meta'):
        return build_classifier(cfg.model)


def count(model):
    return sum(param.numel() for param in model.parameters())


# Millions of parameters for 10 classes, to the digits that the source gives.
RESNETS = '1512.03385, table 6'
CLASSIFICATION = 'README of github.com/bearpaw/pytorch-classification'
PARAMETERS = [
    ('alexnet', '2.47', CLASSIFICATION),
    ('vgg19bn', '20.04', CLASSIFICATION),
    ('resnet20', '0.27', RESNETS),
    ('resnet32', '0.46', RESNETS),
    ('resnet56', '0.85', RESNETS),
    ('preresnet110', '1.7', f'{RESNETS}, ResNet-110'),
    ('resnext29_8x64d', '34.4', '1611.05431, table 7'),
    ('resnext29_8x64d', '34.43', CLASSIFICATION),
    ('wrn28_10', '36.5', '1605.07146, table 4'),
    ('wrn28_10', '36.48', CLASSIFICATION),
    ('densenet100_12', '0.8', '1608.06993, table 2'),
    ('densenet100_12', '0.77', CLASSIFICATION),
    ('densenet40_12', '0.18', 'README of pytorchcv: 176,122'),
    ('resnet50', '0.76', 'counted by hand below'),
    ('shakeshake26_2x32d', '2.9', '1707.07012, table 1'),
    ('shakeshake26_2x32d', '2.923162', 'README of pytorchcv'),
    ('shakeshake26_2x96d', '26.2', '1707.07012, table 1'),
    ('shakedrop110', '1.7', f'{RESNETS}, ResNet-110'),
    ('googlenet', '5.87', 'counted below'),
]
# The shortcuts of He et al. have no parameters (option A), those of pytorchcv where the width
# grows are 1×1 convolutions with batch norm (option B).
OPTION_B = 16 * 32 + 32 * 64 + 2 * (32 + 64)


@pytest.mark.parametrize(('config', 'millions', 'source'), PARAMETERS)
def test_number_of_parameters_is_that_of_the_literature(config, millions, source):
    number = count(build(f'{config}_cifar10'))
    if source == RESNETS:
        number -= OPTION_B
    digits = len(millions.partition('.')[2])
    assert f'{number / 1e6:.{digits}f}' == millions


@pytest.mark.parametrize(('depth', 'n'), [(20, 3), (32, 5), (50, 8), (56, 9)])
def test_number_of_parameters_of_6n_plus_2_layers(depth, n):
    """Counted by hand: the stem, n blocks in three stages, batch norms, shortcuts, classifier."""
    convolutions = 3 * 16 * 9 + sum(2 * n * width * width * 9 for width in (16, 32, 64))
    convolutions -= (32 * 16 + 64 * 32) * 9  # the first of a wider stage has half of the inputs
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    expected = convolutions + norms + OPTION_B + 64 * 10 + 10
    assert count(build(f'resnet{depth}_cifar10')) == expected


def test_number_of_parameters_of_googlenet():
    """With other convolutions in its third branches it is what others have counted."""
    imagenet = count(build('../imagenet/googlenet_8xb32_in1k'))
    backbone = GoogLeNet()
    units = [layer.branch3 for name, layer in backbone.named_children() if 'inception' in name]
    assert len(units) == 9
    widths = [unit[1].conv.weight.shape for unit in units]
    # Torchvision has 3×3 in place of 5×5.
    others = sum(out * into * (5 * 5 - 3 * 3) for out, into, *_ in widths)
    assert imagenet - others == GoogLeNet_Weights.IMAGENET1K_V1.meta['num_params'] == 6_624_904
    # Caffe's bvlc_googlenet has a bias for each filter, where batch norm has two numbers.
    filters = sum(m.out_channels for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert imagenet - filters == 6_998_552
    # The one of pytorch-cifar has two of 3×3 in place of one of 5×5, and biases before batch norm.
    cifar = CIFARGoogLeNet()
    filters = sum(m.out_channels for m in cifar.modules() if isinstance(m, nn.Conv2d))
    second = sum(out * out * 3 * 3 + 2 * out + out for out, *_ in widths)
    assert count(build('googlenet_cifar10')) - others + second + filters == 6_166_250


@pytest.mark.parametrize('network', sorted({network for network, _, _ in PARAMETERS}))
@pytest.mark.parametrize('classes', [10, 100])
def test_head_fits_its_backbone_and_classes(network, classes):
    logits = build(f'{network}_cifar{classes}')(torch.zeros(2, 3, 32, 32, device='meta'))
    assert logits.shape == (2, classes)


@pytest.mark.parametrize('registry', [MODELS, mmdet.registry.MODELS, mmpretrain.registry.MODELS])
@pytest.mark.parametrize(
    'kind',
    [CIFARAlexNet, CIFARGoogLeNet, CIFARWideResNet, GoogLeNet, NarrowVGG, PytorchCVBackbone],
)
def test_both_libraries_find_the_backbones(registry, kind):
    assert registry.get(kind.__name__) is kind


@pytest.mark.parametrize(('depth', 'width'), [(11, 1.0), (19, 0.25), (16, 0.01)])
def test_narrow_vgg(depth, width):
    model = MODELS.build(dict(type='NarrowVGG', depth=depth, width=width, norm_cfg=dict(type='BN')))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == depth - 3
    widths = [convolution.out_channels for convolution in convolutions]
    assert (widths[0], widths[-1]) == (max(1, round(64 * width)), round(512 * width))
    (features,) = model(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, widths[-1], 1, 1)
    if width == 1:
        # MMPreTrain's has biases before its norms.
        of_mmpretrain = MODELS.get('mmpretrain.VGG')(depth=depth, norm_cfg=dict(type='BN'))
        assert count(of_mmpretrain) - count(model) == sum(widths)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(depth=12), 'depth must be one of 11, 13, 16, 19, got 12'),
        (dict(width=0), r'width must be in \(0, 1\], got 0'),
    ],
)
def test_narrow_vgg_with_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        NarrowVGG(**arguments)


class TestPytorchCVBackbone:
    def test_computes_what_the_network_computes_before_its_classifier(self):
        torch.manual_seed(0)
        network = get_resnet_cifar(num_classes=10, blocks=8, bottleneck=False).eval()
        backbone = PytorchCVBackbone('resnet_cifar', blocks=8, bottleneck=False).eval()
        backbone.load_state_dict(network.features.state_dict())
        images = torch.randn(3, 3, 32, 32)
        (features,) = backbone(images)
        assert features.shape == (3, 64, 8, 8)
        logits = network.output(features.mean(dim=(2, 3)))
        torch.testing.assert_close(logits, network(images))

    def test_starts_with_the_weights_that_pytorchcv_gives(self):
        torch.manual_seed(0)
        network = get_resnet_cifar(num_classes=10, blocks=8, bottleneck=False)
        torch.manual_seed(0)
        backbone = PytorchCVBackbone('resnet_cifar', blocks=8, bottleneck=False)
        backbone.init_weights()
        for name, value in network.features.state_dict().items():
            assert torch.equal(backbone.state_dict()[name], value), name

    def test_stages_are_the_second_segment_of_names(self):
        backbone = PytorchCVBackbone('densenet_cifar', blocks=10, growth_rate=4, bottleneck=True)
        stages = [name for name, _ in backbone.named_children()]
        assert stages == ['init_block', 'stage1', 'stage2', 'stage3', 'post_activ']

    @settings(max_examples=30)
    @given(height=st.integers(1, 40), width=st.integers(1, 40))
    def test_takes_images_of_any_size(self, height, width):
        with torch.device('meta'):
            backbone = PytorchCVBackbone('preresnet_cifar', blocks=8, bottleneck=False)
            (features,) = backbone(torch.zeros(2, 3, height, width))
        assert features.shape == (2, 64, (height + 3) // 4, (width + 3) // 4)

    @pytest.mark.parametrize(
        ('arguments', 'error', 'words'),
        [
            (
                dict(family='resnet20'),
                ValueError,
                "family must be a module of pytorchcv.models with a builder, got 'resnet20'; "
                'those for CIFAR are .*, resnet_cifar, ',
            ),
            (dict(family='common'), ValueError, "with a builder, got 'common'"),
            (
                dict(family='resnet_cifar', blocks=21, bottleneck=False),
                ValueError,
                r'no resnet_cifar with blocks=21, bottleneck=False; .* blocks=6n\+2 layers',
            ),
            (
                dict(family='resnet_cifar', blocks=20),
                TypeError,
                "missing 1 required positional argument: 'bottleneck'",
            ),
            (
                dict(family='fractalnet_cifar'),
                TypeError,
                "CIFARFractalNet of family='fractalnet_cifar' is no sequence of features",
            ),
        ],
    )
    def test_wrong_arguments_are_reported(self, arguments, error, words):
        with pytest.raises(error, match=words):
            PytorchCVBackbone(**arguments)

    def test_missing_package_is_reported(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'pytorchcv', None)
        monkeypatch.delitem(sys.modules, 'pytorchcv.models')
        with pytest.raises(ModuleNotFoundError, match='not installed: pip install pytorchcv'):
            PytorchCVBackbone('resnet_cifar', blocks=20, bottleneck=False)


class TestShaken:
    """Networks whose backward pass draws random numbers of its own."""

    @pytest.mark.usefixtures('skip_in_small_layers')
    @pytest.mark.parametrize('axis', ['out', 'in', 'layer'])
    @pytest.mark.parametrize('family', ['shakeshakeresnet_cifar', 'shakedropresnet_cifar'])
    def test_gradients_that_are_not_skipped_are_those_without_skipping(self, family, axis):
        torch.manual_seed(0)
        backbone = PytorchCVBackbone(family, blocks=8, bottleneck=False)
        images = torch.randn(4, 3, 8, 8)
        layers = find_layers(backbone, axis=axis)
        active = WAU(0.5).select(layers.values(), 0)
        skipper = HeldGradSkipper(backbone, layers)
        assert not skipper.refused
        grads, states = [], []
        for skipping in (nullcontext(), skipper.skipping(active)):
            torch.manual_seed(1)
            backbone.zero_grad()
            with skipping:
                backbone(images)[0].square().sum().backward()
            grads.append({name: p.grad.clone() for name, p in backbone.named_parameters()})
            states.append(torch.get_rng_state())
        assert torch.equal(*states)
        masks = {f'{name}.weight': mask for name, mask in zip(layers, active, strict=True)}
        for name, dense in grads[0].items():
            skipped = grads[1][name]
            if name not in masks:
                torch.testing.assert_close(skipped, dense, rtol=1e-3, atol=1e-4)
                continue
            if axis == 'layer':
                dense, skipped = dense[None], skipped[None]
            if axis == 'in':
                dense, skipped = dense.transpose(0, 1), skipped.transpose(0, 1)
            mask = masks[name]
            torch.testing.assert_close(skipped[mask], dense[mask], rtol=1e-3, atol=1e-4)
            assert not skipped[~mask].any()

    def test_a_shaken_pass_is_another_each_time_and_evaluation_is_not(self):
        for family in ('shakeshakeresnet_cifar', 'shakedropresnet_cifar'):
            torch.manual_seed(0)
            backbone = PytorchCVBackbone(family, blocks=8, bottleneck=False)
            images = torch.randn(2, 3, 8, 8)
            assert not torch.equal(backbone(images)[0], backbone(images)[0])
            backbone.eval()
            assert torch.equal(backbone(images)[0], backbone(images)[0])


class TestGoogLeNet:
    @pytest.mark.parametrize('kind', [GoogLeNet, CIFARGoogLeNet])
    def test_makes_images_smaller_by_its_stride(self, kind):
        stride = 32 if kind is GoogLeNet else 4
        with torch.device('meta'):
            (features,) = kind()(torch.zeros(2, 3, 7 * stride, 3 * stride))
        assert features.shape == (2, 1024, 7, 3)

    def test_has_convolutions_of_5_by_5_that_keep_the_size_in_each_block(self):
        backbone = GoogLeNet()
        for name, block in backbone.named_children():
            if 'inception' in name:
                sizes = {
                    conv.kernel_size for conv in block.modules() if isinstance(conv, nn.Conv2d)
                }
                assert sizes == {(1, 1), (3, 3), (5, 5)}

    def test_drops_channels_of_the_mean_features_while_it_trains(self):
        torch.manual_seed(0)
        backbone = GoogLeNet()
        backbone.init_weights()
        features = []
        backbone.inception5b.register_forward_hook(lambda *args: features.append(args[2]))
        (dropped,) = backbone(torch.randn(4, 3, 64, 64))
        before, after = (x.mean(dim=(2, 3)) for x in (features[0], dropped))
        kept = after != 0
        torch.testing.assert_close(after[kept], before[kept] / 0.6)
        assert 0.57 < kept.sum() / (before > 0).sum() < 0.63
        backbone.eval()
        assert torch.equal(backbone(torch.ones(1, 3, 64, 64))[0], features[1])

    def test_missing_package_is_reported(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'torchvision', None)
        monkeypatch.delitem(sys.modules, 'torchvision.models')
        with pytest.raises(ModuleNotFoundError, match='not installed: pip install torchvision'):
            CIFARGoogLeNet()


class TestCIFARWideResNet:
    def test_computes_what_pytorchcv_computes_without_dropout(self):
        torch.manual_seed(0)
        network = get_wrn_cifar(num_classes=10, blocks=16, width_factor=2)
        backbone = CIFARWideResNet(depth=16, widen_factor=2)
        theirs, ours = network.features.state_dict(), backbone.state_dict()
        assert [value.shape for value in ours.values()] == [v.shape for v in theirs.values()]
        backbone.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
        images = torch.randn(2, 3, 32, 32)
        (features,) = backbone(images)
        assert features.shape == (2, 128, 8, 8)
        torch.testing.assert_close(
            network.output(features.mean(dim=(2, 3))), network(images), rtol=1e-4, atol=1e-4
        )

    def test_drops_between_the_convolutions_of_each_block_while_it_trains(self):
        torch.manual_seed(0)
        backbone = CIFARWideResNet(depth=10, widen_factor=2, dropout=0.3)
        seen = []
        for stage in (backbone.stage1, backbone.stage2, backbone.stage3):
            stage[0].dropout.register_forward_hook(lambda _, x, y: seen.append((x[0], y)))
            stage[0].conv2.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        images = torch.randn(2, 3, 32, 32)
        backbone(images)
        for (before, after), used in zip(seen[::2], seen[1::2], strict=True):
            assert used is after
            assert (before >= 0).all()
            kept = after != 0
            torch.testing.assert_close(after[kept], before[kept] / 0.7)
            assert 0.67 < kept.sum() / (before > 0).sum() < 0.73
        backbone.eval()
        assert torch.equal(backbone(images)[0], backbone(images)[0])

    def test_starts_with_hes_normal_weights(self):
        torch.manual_seed(0)
        backbone = CIFARWideResNet(depth=10, widen_factor=4)
        backbone.init_weights()
        for name, module in backbone.named_modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
                assert module.weight.abs().max() > 2 * (2 / fan_out) ** 0.5, name  # not uniform

    @pytest.mark.parametrize('depth', [4, 27, 30])
    def test_wrong_depth_is_reported(self, depth):
        with pytest.raises(ValueError, match=rf'depth must be 6n \+ 4, .* got {depth}'):
            CIFARWideResNet(depth=depth, widen_factor=1)


def test_alexnet_has_five_convolutions_and_one_pixel_left():
    backbone = CIFARAlexNet()
    (features,) = backbone(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 256, 1, 1)
    shapes = [tuple(m.weight.shape) for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert shapes == [
        (64, 3, 11, 11),
        (192, 64, 5, 5),
        (384, 192, 3, 3),
        (256, 384, 3, 3),
        (256, 256, 3, 3),
    ]


def test_importing_mmwau_imports_neither_pytorchcv_nor_mmpretrain():
    code = 'import sys, mmwau; print(*{"pytorchcv", "mmpretrain", "mmdet"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, '')
