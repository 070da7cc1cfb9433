"""AlexNet for images of 32×32."""

from collections import OrderedDict

from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

# Channels, kernel size, stride, padding; and whether a max pooling follows.
CONVOLUTIONS = (
    (64, 11, 4, 5, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


@MODELS.register_module()
class CIFARAlexNet(Sequential):
    """AlexNet's five convolutions with its classifier, 256 to classes, left to a linear head.

    As it is commonly trained on CIFAR; the source of the sizes is
    `pytorch-classification <https://github.com/bearpaw/pytorch-classification>`_. There is no
    batch norm. The weights start as PyTorch starts them.

    Args:
        init_cfg (dict or list[dict], optional): Initialization config of OpenMMLab projects.
            Defaults to None.
    """

    def __init__(self, init_cfg: dict | list[dict] | None = None):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        in_channels = 3
        for number, (channels, kernel, stride, padding, pools) in enumerate(CONVOLUTIONS, start=1):
            layers[f'conv{number}'] = nn.Conv2d(in_channels, channels, kernel, stride, padding)
            layers[f'relu{number}'] = nn.ReLU(inplace=True)
            if pools:
                layers[f'pool{number}'] = nn.MaxPool2d(2)
            in_channels = channels
        super().__init__(layers, init_cfg=init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the features of images.

        Args:
            x: Images of shape (N, 3, H, W), H and W at least 32.

        Returns:
            One feature map of shape (N, 256, H // 32, W // 32).
        """
        return (super().forward(x),)
