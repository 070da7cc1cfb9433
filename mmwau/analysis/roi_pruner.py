"""Tells torch-pruning about MMDetection's extractors of regions, which know how many channels."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch_pruning.pruner.function import BasePruningFunc


class RoIExtractorPruner(BasePruningFunc):
    """An extractor gives as many channels as it gets."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        """Let it expect so many channels less."""
        layer.out_channels -= len(idxs)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """How many it expects."""
        return layer.out_channels

    get_in_channels = get_out_channels


def roi_extractor_pruners(model: nn.Module) -> dict[type, RoIExtractorPruner]:
    """The pruners of the extractors in a model by their class; none if it has no extractor."""
    found = {type(module) for module in model.modules() if hasattr(module, 'roi_layers')}
    return {kind: RoIExtractorPruner() for kind in found}
