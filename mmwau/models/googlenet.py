"""GoogLeNet, and its inception blocks for images of 32×32."""

from collections import OrderedDict

from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

STEM = ('conv1', 'maxpool1', 'conv2', 'conv3', 'maxpool2')


class _Inception(Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the features of images.

        Args:
            x: Images of shape (N, 3, H, W).

        Returns:
            One feature map of shape (N, 1024, H / s, W / s), where these are whole; s is 32 in
            :class:`GoogLeNet` and 4 in :class:`CIFARGoogLeNet`.
        """
        return (super().forward(x),)


@MODELS.register_module()
class GoogLeNet(_Inception):
    """GoogLeNet of Szegedy et al., "Going Deeper with Convolutions" (1409.4842), from torchvision.

    As there it has batch norm; it has no auxiliary classifiers. The third branch of each inception
    block has a convolution of 5×5, as in the paper. Torchvision's is of 3×3 (`issue 906
    <https://github.com/pytorch/vision/issues/906>`_), so that its weights do not fit.

    Args:
        dropout: Probability that a channel of the features of an image is dropped, in [0, 1]. As
            the classifier sees only their mean over the image, this is the paper's dropout between
            pooling and classifier. Defaults to 0.4, as in the paper.
        init_cfg (dict or list[dict], optional): Initialization config of OpenMMLab projects.
            Defaults to He's normal initialisation (fan out) of every convolution.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
        ValueError: If ``dropout`` is out of its range.
    """

    def __init__(
        self,
        dropout: float = 0.4,
        init_cfg: dict | list[dict] | None = dict(type='Kaiming', layer='Conv2d'),  # noqa: B006
    ):
        super().__init__(_layers(), init_cfg=init_cfg)
        self.add_module('dropout', nn.Dropout2d(dropout))


@MODELS.register_module()
class CIFARGoogLeNet(_Inception):
    """The nine inception blocks of :class:`GoogLeNet` after one convolution of 3×3, no dropout.

    As it is commonly trained on CIFAR; the source of the stem, whose 192 filters keep the size of
    the image, is `pytorch-cifar <https://github.com/kuangliu/pytorch-cifar>`_.

    Args:
        init_cfg (dict or list[dict], optional): See :class:`GoogLeNet`.

    Raises:
        ModuleNotFoundError: If torchvision is not installed.
    """

    def __init__(
        self,
        init_cfg: dict | list[dict] | None = dict(type='Kaiming', layer='Conv2d'),  # noqa: B006
    ):
        layers = _layers()
        stem = type(layers['conv1'])(3, 192, kernel_size=3, padding=1)
        blocks = ((name, layer) for name, layer in layers.items() if name not in STEM)
        super().__init__(OrderedDict([('conv1', stem), *blocks]), init_cfg=init_cfg)


def _layers() -> OrderedDict[str, nn.Module]:
    """The layers of torchvision's network before its pooling, with convolutions of 5×5."""
    try:
        from torchvision.models import GoogLeNet as Network
        from torchvision.models.googlenet import Inception
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'GoogLeNet needs torchvision, which is not installed: pip install torchvision'
        ) from error
    layers = OrderedDict(Network(aux_logits=False, init_weights=False).named_children())
    for name in ('avgpool', 'dropout', 'fc'):
        del layers[name]
    for layer in layers.values():
        if isinstance(layer, Inception):
            unit = layer.branch3[1]
            channels = unit.conv.in_channels, unit.conv.out_channels
            unit.conv = nn.Conv2d(*channels, 5, padding=2, bias=False)
    return layers
