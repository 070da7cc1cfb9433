"""Networks of pytorchcv as backbones."""

from collections import OrderedDict
from importlib import import_module
from pkgutil import iter_modules

from mmengine.model import Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class PytorchCVBackbone(Sequential):
    """A classification network of `pytorchcv <https://github.com/osmr/pytorchcv>`_ as backbone.

    Its last pooling and its classifier are left out. For MMPreTrain's ``ImageClassifier`` with
    the neck ``GlobalAveragePooling`` and the head ``LinearClsHead``::

        backbone=dict(type='PytorchCVBackbone', family='resnet_cifar', blocks=20, bottleneck=False)

    The weights start as pytorchcv starts them; for the CIFAR families that is He's uniform
    initialisation (fan in) of every convolution, and PyTorch's own of what else there is.

    Args:
        family: Name of a module of ``pytorchcv.models`` that has a builder: ``'resnet_cifar'`` for
            ``pytorchcv.models.resnet_cifar.get_resnet_cifar``. So networks without a name of their
            own in pytorchcv can be had too.
        init_cfg (dict or list[dict], optional): Initialization config of OpenMMLab projects.
            Defaults to None: the weights stay as pytorchcv starts them.
        **kwargs: Arguments of the builder but ``num_classes``: ``blocks``, ``bottleneck``,
            ``in_channels``, ...

    Raises:
        ModuleNotFoundError: If pytorchcv is not installed.
        TypeError: If the builder does not know an argument, or the network can't be cut before
            its classifier.
        ValueError: If there is no such family, or it has no network for these arguments.
    """

    def __init__(self, family: str, init_cfg: dict | list[dict] | None = None, **kwargs: object):
        network = _build(family, kwargs)
        features = getattr(network, 'features', None)
        if type(features) is not nn.Sequential:
            raise TypeError(
                f'{type(network).__name__} of family={family!r} is no sequence of features before '
                'a classifier, so that it can not be a backbone'
            )
        parts = OrderedDict(features.named_children())
        parts.pop('final_pool', None)
        super().__init__(parts, init_cfg=init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the features of images.

        Args:
            x: Images of shape (N, C, H, W).

        Returns:
            Only the last feature map, of shape (N, channels, height, width); 8×8 at the end of
            the CIFAR families for images of 32×32.
        """
        return (super().forward(x),)


def _build(family: str, kwargs: dict) -> nn.Module:
    try:
        import pytorchcv.models
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'PytorchCVBackbone needs pytorchcv, which is not installed: pip install pytorchcv'
        ) from error
    families = sorted(module.name for module in iter_modules(pytorchcv.models.__path__))
    builder = None
    if family in families:
        module = import_module(f'pytorchcv.models.{family}')
        builder = getattr(module, f'get_{family}', None)
    if builder is None:
        of_cifar = ', '.join(name for name in families if name.endswith('_cifar'))
        raise ValueError(
            f'family must be a module of pytorchcv.models with a builder, got {family!r}; those '
            f'for CIFAR are {of_cifar}'
        )
    try:
        return builder(num_classes=10, **kwargs)  # the classifier is left out, whatever its size
    except AssertionError as error:
        arguments = ', '.join(f'{name}={value!r}' for name, value in kwargs.items())
        raise ValueError(
            f'pytorchcv has no {family} with {arguments}; a ResNet of basic blocks, for example, '
            'has blocks=6n+2 layers'
        ) from error
