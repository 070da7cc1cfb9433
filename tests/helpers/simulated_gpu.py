"""A GPU that is simulated: the devices and shapes of tensors on it, and who waits for it.

FakeTensorMode of torch makes tensors on 'cuda' without one, which have no values, and raises where
one on the CPU meets one on the GPU. Tensors on the CPU are real here, since WAU draws there. What
would let the CPU wait for the GPU is noted, and gives values of ones.
"""

import sys
from collections import Counter
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmwau.benchmark.launches import is_work

aten = torch.ops.aten
# torch 2.5 makes a tensor on the real one here and there.
needs_simulation = pytest.mark.skipif(
    not (hasattr(torch._C, '_ensureCUDADeviceGuardSet') or torch.cuda.is_available()),
    reason='this torch simulates a GPU only where there is one',
)
# Their results have as many elements as the values have it.
COUNT_FIRST = ('nonzero', 'masked_select', '_unique2', 'unique_dim', 'repeat_interleave')


class SimulatedGPU(TorchDispatchMode):
    """Inside, tensors can be on 'cuda'.

    Attributes:
        waits: How often the CPU would wait, by who asked: a function of mmwau, as
            'movement.measure', or the name of another package.
        launches: How often each operation was given to the GPU that works there.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.launches = Counter(), Counter()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self):
        with ExitStack() as stack:
            stack.enter_context(self.fake)
            super().__enter__()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.prim.device.default:
            # What only C++ asks: the backward pass would look for streams of a GPU.
            return torch.device('meta')
        kwargs = dict(kwargs or {})
        if kwargs.get('device') == torch.device('meta'):
            kwargs['device'] = torch.device('cuda')  # C++ has asked where a tensor is
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        to = kwargs.get('device')
        to = None if to is None else torch.device(to).type
        if any(map(is_on_gpu, tensors)) and is_work(operation):
            self.launches[operation.overloadpacket.__name__] += 1
        waits, result = wait_for(operation, tensors, args, kwargs, to)
        if waits:
            self.waits[who_asks()] += 1
        if result is not None:
            return result
        if to not in (None, 'cpu') or any(isinstance(one, FakeTensor) for one in tensors):
            return operation(*args, **kwargs)
        with unset_fake_temporarily():
            return operation(*args, **kwargs)

    def waits_of(self, *packages):
        """Who let the CPU wait, without these packages."""
        return self.waits.keys() - set(packages)


def is_on_gpu(tensor):
    return isinstance(tensor, FakeTensor) and tensor.device.type == 'cuda'


def wait_for(operation, tensors, args, kwargs, to):
    """Whether the CPU waits for an operation, and what it gets, if it gets something."""
    if operation is aten.copy_.default:
        one, other = args[:2]
        if is_on_gpu(one) == is_on_gpu(other):
            return False, None
        if not is_on_gpu(one):
            with unset_fake_temporarily():
                return True, one.fill_(1)
        return not (args[2] if len(args) > 2 else kwargs.get('non_blocking', False)), None
    if not any(map(is_on_gpu, tensors)):
        sends = operation is aten._to_copy.default and to == 'cuda'
        return sends and not kwargs.get('non_blocking', False), None
    if operation is aten._local_scalar_dense.default:
        with unset_fake_temporarily():
            return True, torch.ones((), dtype=args[0].dtype).item()
    if operation is aten.equal.default:
        return True, False
    if operation is aten._to_copy.default and to == 'cpu':
        return True, ones(args[0].shape, kwargs.get('dtype') or args[0].dtype)
    if operation.overloadpacket.__name__ in COUNT_FIRST:
        raise AssertionError(f'{who_asks()} waits for the GPU, which has to count: {operation}')
    if operation.overloadpacket in (aten.index, aten.index_put_, aten.index_put):
        # Indices on the CPU are sent to the GPU while it waits.
        return any(one is not None and not is_on_gpu(one) for one in args[1]), None
    return False, None


def ones(shape, dtype):
    with unset_fake_temporarily():
        return torch.ones(shape, dtype=dtype)


def who_asks():
    """The innermost function of mmwau on the stack, or a package that is further inside."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get('__name__', '')
        package = module.partition('.')[0]
        if package == 'mmwau':
            return f'{module.removeprefix("mmwau.")}.{frame.f_code.co_name}'
        if package not in (__name__, 'torch', *sys.stdlib_module_names):
            return package
        frame = frame.f_back
    return ''
