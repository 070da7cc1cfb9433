"""EfficientNets of timm as backbones of detectors, whose first stages can be frozen."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@MODELS.register_module()
class TimmEfficientNet(BaseModule):
    """An EfficientNet of timm (Tan and Le, 1905.11946), frozen as MMDetection's ResNet can be.

    Args:
        model_name: Name of the network in timm, such as ``'tf_efficientnet_lite0'``.
        out_indices: Which of its feature maps to give: 0 to 4 have strides of 2 to 32.
        frozen_stages: -1: nothing is frozen; 0: the stem; n: the stem and the first n of
            ``network.blocks``. What is frozen has no gradients, and statistics that stay.
        norm_eval: Whether all batch norms keep their statistics in training. Defaults to False.
        init_cfg: Initialization config of OpenMMLab projects. Weights of ImageNet come from
            ``tools/model_converters/efficientnet_lite0.py``.

    Raises:
        ModuleNotFoundError: If timm is not installed.
        ValueError: If ``model_name`` is no EfficientNet, or ``frozen_stages`` is out of range.
    """

    def __init__(
        self,
        model_name: str = 'tf_efficientnet_lite0',
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(init_cfg)
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TimmEfficientNet needs timm: pip install 'mmwau[finetune]'", name='timm'
            ) from error
        if 'efficientnet' not in model_name:
            raise ValueError(
                f"model_name must be an EfficientNet of timm, such as 'tf_efficientnet_lite0', got "
                f'{model_name!r}'
            )
        self.network = timm.create_model(model_name, features_only=True, out_indices=out_indices)
        blocks = list(self.network.get_submodule('blocks').children())
        if not -1 <= frozen_stages <= len(blocks):
            raise ValueError(
                f'frozen_stages must be from -1 (nothing) to {len(blocks)} (all of {model_name}), '
                f'got {frozen_stages!r}'
            )
        stem = [self.network.get_submodule(name) for name in ('conv_stem', 'bn1')]
        self._frozen = [*stem, *blocks[:frozen_stages]] if frozen_stages >= 0 else []
        for module in self._frozen:
            module.requires_grad_(False)
        self.norm_eval = norm_eval

    def train(self, mode: bool = True) -> 'TimmEfficientNet':
        """Set the mode of what is not frozen."""
        super().train(mode)
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        for module in (*self._frozen, *(norms if self.norm_eval else ())):
            module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of images of shape (N, 3, H, W), from fine to coarse."""
        return tuple(self.network(x))
