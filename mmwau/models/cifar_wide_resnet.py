"""Wide residual networks for images of 32×32, with dropout."""

from mmengine.model import BaseModule, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional


class WideBlock(BaseModule):
    """Two convolutions, each after batch norm and ReLU, with dropout before the second."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output, (N, out_channels, H / stride, W / stride)."""
        activated = functional.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = functional.relu(self.norm2(self.conv1(activated)))
        return self.conv2(self.dropout(out)) + shortcut


@MODELS.register_module()
class CIFARWideResNet(BaseModule):
    """WRN-depth-widen_factor of Zagoruyko and Komodakis, "Wide Residual Networks" (1605.07146).

    Three stages of basic blocks with 16, 32 and 64 channels times the factor, and dropout between
    the convolutions of each block (section 2.4 there).

    Args:
        depth: Number of layers, 6n + 4.
        widen_factor: How many times wider than the ResNet of 16, 32 and 64 channels.
        dropout: Probability that a value is dropped, in [0, 1). Defaults to 0.
        init_cfg (dict or list[dict], optional): Initialization config of OpenMMLab projects.
            Defaults to He's normal initialisation (fan out) of every convolution.

    Raises:
        ValueError: If ``depth`` is not 6n + 4.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        dropout: float = 0.0,
        init_cfg: dict | list[dict] | None = dict(type='Kaiming', layer='Conv2d'),  # noqa: B006
    ):
        super().__init__(init_cfg)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'depth must be 6n + 4, such as 16, 28 or 40, got {depth!r}')
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels = [16, *(width * widen_factor for width in (16, 32, 64))]
        for number in (1, 2, 3):
            in_channels, out_channels = channels[number - 1 : number + 1]
            first = WideBlock(in_channels, out_channels, 1 if number == 1 else 2, dropout)
            others = [WideBlock(out_channels, out_channels, 1, dropout) for _ in range(1, blocks)]
            self.add_module(f'stage{number}', Sequential(first, *others))
        self.norm = nn.BatchNorm2d(channels[-1])

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the features of images.

        Args:
            x: Images of shape (N, 3, H, W).

        Returns:
            One feature map of shape (N, 64 * widen_factor, H / 4, W / 4).
        """
        x = self.stage3(self.stage2(self.stage1(self.conv1(x))))
        return (functional.relu(self.norm(x)),)
