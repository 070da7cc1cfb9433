"""VGG with fewer channels, for images of 32×32."""

from collections import OrderedDict

from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

# Convolutions of each stage by depth, of which three layers are linear (1409.1556, table 1).
STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class NarrowVGG(Sequential):
    """The convolutions of VGG (1409.1556) with batch norm, and with a part of its channels.

    It takes the place of MMPreTrain's ``VGG`` in a config for CIFAR, which has one width::

        --cfg-options model.backbone.type=NarrowVGG model.backbone.width=0.25 \
model.head.in_channels=128

    The weights start as PyTorch starts them.

    Args:
        depth: 11, 13, 16 or 19.
        width: Part of the channels, in (0, 1]; each layer keeps at least one.
        norm_cfg (dict): The norm behind each convolution. Defaults to ``dict(type='BN')``.
        init_cfg (dict or list[dict], optional): Initialization config of OpenMMLab projects.
            Defaults to None.

    Raises:
        ValueError: If ``depth`` or ``width`` is none of these.
    """

    def __init__(
        self,
        depth: int = 19,
        width: float = 0.25,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ):
        if depth not in STAGES:
            raise ValueError(f'depth must be one of {", ".join(map(str, STAGES))}, got {depth}')
        if not 0 < width <= 1:
            raise ValueError(f'width must be in (0, 1], got {width}')
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        in_channels = 3
        for stage, (count, full) in enumerate(zip(STAGES[depth], CHANNELS, strict=True), start=1):
            channels = max(1, round(width * full))
            for place in range(1, count + 1):
                name = f'{stage}_{place}'
                layers[f'conv{name}'] = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
                norm = dict(norm_cfg or dict(type='BN'), num_features=channels)
                layers[f'norm{name}'] = MODELS.build(norm)
                layers[f'relu{name}'] = nn.ReLU(inplace=True)
                in_channels = channels
            layers[f'pool{stage}'] = nn.MaxPool2d(2)
        super().__init__(layers, init_cfg=init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the features of images.

        Args:
            x: Images of shape (N, 3, H, W), H and W at least 32.

        Returns:
            One feature map of shape (N, 512 · width, H // 32, W // 32).
        """
        return (super().forward(x),)
