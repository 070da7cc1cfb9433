"""The model inside of what wraps it for distributed training."""

from typing import cast

from mmengine.model import is_model_wrapper
from torch import nn


def bare_model(model: nn.Module) -> nn.Module:
    """A model, wrapped by one of MMEngine's or torch's wrappers or not, without its wrapper."""
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model
