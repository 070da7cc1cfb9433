"""Whether the compiled ops of mmcv, which detectors need, work on a device."""

import torch

from .part import first_line


def why_no_ops(device: torch.device) -> str:
    """Why detectors can't be trained on a device, or an empty string if they can."""
    try:
        import mmdet.models  # noqa: F401
        from mmcv.ops import RoIAlign, nms

        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]], device=device)
        nms(boxes, torch.ones(2, device=device), 0.5)
        regions = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
        RoIAlign(2)(torch.ones(1, 1, 8, 8, device=device), regions)
    # An assertion about versions, a symbol that torch has no longer, an op that was compiled
    # without CUDA: whatever it is, it is the reason.
    except Exception as error:
        return f"mmcv's ops do not work here ({type(error).__name__}: {first_line(error)})"
    return ''
