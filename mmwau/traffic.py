"""Send less between processes: all-reduce the gradients of only the active slices.

All processes select the same slices, so that none needs to announce which ones it sends.
"""

import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket, ProcessGroup
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from mmwau.core.sharding import refuse_join
from mmwau.core.slices import ALL, Layers, Slices, find_slices, put, take

# The traffic of each model that has some: a model takes one communication hook in its life.
_traffic_of: 'weakref.WeakKeyDictionary[nn.Module, ActiveTraffic]' = weakref.WeakKeyDictionary()


class ActiveTraffic:
    """What the processes send in an update; the state of :func:`all_reduce_active`.

    Args:
        group: The processes. Defaults to all.
        model: The model that is trained, which this does not keep alive.

    Attributes:
        sent_bytes: Bytes of the gradients that this process gave to the all-reduce in the last
            backward pass that communicated.
    """

    def __init__(self, group: ProcessGroup | None = None, model: nn.Module | None = None):
        self.group = group
        self.sent_bytes = 0
        self.slices: dict[Tensor, Slices] = {}
        self._model = (lambda: None) if model is None else weakref.ref(model)
        self._is_checked = False

    def start(self, layers: Layers, active: Sequence[Tensor]) -> None:
        """Leave out held slices from now on.

        The first time, the processes compare what they have selected.

        Args:
            layers: The layers.
            active: For each of them a bool tensor of shape (num_slices,) on the CPU, the same in
                all processes.

        Raises:
            ValueError: If the processes have selected different slices, or the model trains
                inside of ``torch.distributed.algorithms.Join``.
        """
        model = self._model()
        if model is not None:
            refuse_join(model)
        found = find_slices(layers, active)
        if found and not self._is_checked:
            self._check_same(active, found[0].param.device)
        self.slices = {slices.param: slices for slices in found}

    def stop(self) -> None:
        """Send everything from now on."""
        self.slices = {}

    @contextmanager
    def sending(self, layers: Layers, active: Sequence[Tensor]) -> Iterator[None]:
        """Leave out held slices in the backward passes made inside; see :meth:`start`."""
        self.start(layers, active)
        try:
            yield
        finally:
            self.stop()

    def _check_same(self, active: Sequence[Tensor], device: torch.device) -> None:
        """Raise, in all processes, unless the first selection is the same in all of them."""
        digest = zlib.crc32(torch.cat(list(active)).numpy().tobytes())
        ends = torch.tensor([digest, -digest], device=device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=self.group)
        # On a GPU the CPU waits here, once in a training.
        largest, smallest = ends[0].item(), -ends[1].item()
        if largest != smallest:
            raise ValueError(
                'send_active_only needs all processes to select the same slices, and here they '
                'select different ones. Give WAU the same settings and seed in all of them, and '
                'select for the same number of the update'
            )
        self._is_checked = True


def all_reduce_active(traffic: ActiveTraffic, bucket: GradBucket) -> Future[Tensor]:
    """Average a bucket of gradients over the processes, only active slices; zero the held ones.

    A communication hook of ``DistributedDataParallel``. What is not held is averaged as without
    the hook: multiplied by 1 / world_size, then summed. ``fp16_compress_wrapper`` and
    ``bf16_compress_wrapper`` of torch can be put around it.

    Args:
        traffic: Knows the slices, and counts.
        bucket: The gradients, as one flat tensor.
    """
    flat = bucket.buffer()
    views = _views(flat, bucket.parameters())
    held = [traffic.slices.get(param) for param in bucket.parameters()]
    if any(held):
        pieces = [
            view if slices is None else _active(view, slices)
            for view, slices in zip(views, held, strict=True)
        ]
        shapes = [piece.shape for piece in pieces]
        sent = torch.cat([piece.flatten() for piece in pieces])
    else:
        sent = flat
    if bucket.index() == 0:
        traffic.sent_bytes = 0
    traffic.sent_bytes += sent.numel() * sent.element_size()
    sent.mul_(1 / distributed.get_world_size(traffic.group))

    def put_back(future: Future[list[Tensor]]) -> Tensor:
        if sent is not flat:
            reduced = future.value()[0].split([shape.numel() for shape in shapes])
            for view, slices, shape, values in zip(views, held, shapes, reduced, strict=True):
                if slices is None:
                    view.copy_(values.view(shape))
                elif slices.held is ALL:
                    view.zero_()
                else:
                    put(view.zero_(), slices.dim, slices.active, values.view(shape))
        return flat

    work = distributed.all_reduce(sent, group=traffic.group, async_op=True)
    return work.get_future().then(put_back)


def send_active_only(model: nn.Module) -> ActiveTraffic:
    """Let the processes that train a model send the gradients of only the active slices.

    Args:
        model: The model. One that sends so already is left as it is.

    Returns:
        The model's traffic, which needs the active slices before each backward pass.

    Raises:
        TypeError: If the model is not wrapped by ``DistributedDataParallel``.
        ValueError: If it has a communication hook already.
    """
    # MMEngine has a wrapper that is derived from it, but communicates through its parts.
    communicates = hasattr(model, 'process_group')
    if not isinstance(model, DistributedDataParallel) or not communicates:
        raise TypeError(
            'send_active_only needs a model in one DistributedDataParallel, whose communication it '
            f'changes, got {type(model).__name__}'
        )
    if model in _traffic_of:
        return _traffic_of[model]
    traffic = ActiveTraffic(model.process_group, model)
    try:
        model.register_comm_hook(traffic, all_reduce_active)
    except RuntimeError as error:
        raise ValueError(
            'send_active_only: DistributedDataParallel has a communication hook already and takes '
            'only one. Leave that one out, or put fp16_compress_wrapper around '
            'mmwau.traffic.all_reduce_active and register that'
        ) from error
    _traffic_of[model] = traffic
    return traffic


def _active(view: Tensor, slices: Slices) -> Tensor:
    """The active slices of a gradient."""
    # A single number has no dimension to select on.
    return view.new_empty(0) if slices.held is ALL else take(view, slices.dim, slices.active)


def _views(flat: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """The gradients in a bucket, laid out as DistributedDataParallel lays them out."""
    views, offset = [], 0
    for param in params:
        # A complex number is two reals there, on a last dimension of their own.
        like = torch.view_as_real(param.detach()) if param.is_complex() else param
        own = flat.narrow(0, offset, like.numel())
        # A parameter with gaps in memory has a contiguous gradient.
        if torch.empty_like(like, device='meta').stride() == like.stride():
            views.append(own.as_strided(like.shape, like.stride()))
        else:
            views.append(own.view(like.shape))
        offset += like.numel()
    return views
