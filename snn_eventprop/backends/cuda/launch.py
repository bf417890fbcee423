"""How CUDA kernels are compiled and launched: on torch's stream, on torch's memory.

A kernel is a Python function that Numba compiles for the GPU at its first launch with arrays of a
given type, and keeps on disk. Under Numba's simulator (``NUMBA_ENABLE_CUDASIM=1``) the same
functions run as Python threads on NumPy arrays, and the launcher takes tensors of the CPU.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import torch
from numba import cuda, extending
from numba.cuda import extending as cuda_extending
from torch import Tensor

from ..cpu.compile import follow_sources, name_in_cache

# Early versions of numba-cuda have no types of their own.
_typeof_impl = getattr(cuda_extending, "typeof_impl", extending.typeof_impl)

# Numba advises against few blocks, which a small batch is.
warnings.filterwarnings("ignore", "Grid size .* will likely result in GPU under-utilization")

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1"

# Most threads of a block. Larger layers have several neurons in each thread.
MOST_THREADS = 512

# Threads that share a row of weights where its product with a vector is wanted: a warp.
LANES = 32

# Dynamic shared memory that every device grants without being asked, less a kernel's own arrays.
SHARED_BYTES = 44 * 1024

# What kernels call: functions that speak to other threads, and functions of numbers alone, which
# the simulator need not wrap.
device = cuda.jit(device=True)
scalar = (lambda function: function) if SIMULATED else device


def kernel(function):
    """Compile for ``MOST_THREADS`` threads, which share the registers of a multiprocessor."""
    return kernel_of()(function)


def kernel_of(*parts):
    """``kernel`` for closures over ``parts``: modules, which have a ``NAME``."""
    names = tuple(part.NAME for part in parts)
    options: dict[str, Any] = {"cache": True, "max_registers": 65536 // MOST_THREADS}

    def compile(function):
        compiled = cuda.jit(**({} if SIMULATED else options))(function)
        if names:
            name_in_cache(compiled, names)
        return follow_sources(compiled)

    return compile


def threads_for(size: int) -> int:
    """Threads of a block for a layer of ``size`` neurons: whole warps."""
    return min(max(-(-size // 32), 1) * 32, MOST_THREADS)


def _array(tensor: Tensor):
    """The tensor's memory as an array of Numba's; absent ones look like the present ones."""
    if not tensor.is_cuda:  # the simulator
        return tensor.detach().numpy()
    itemsize = tensor.element_size()
    interface = {
        "shape": tuple(tensor.shape),
        # Numba takes strides of zero, which it would compute here, for another type of array.
        "strides": None if tensor.numel() else (itemsize,) * tensor.ndim,
        "typestr": np.dtype(str(tensor.dtype).removeprefix("torch.")).str,
        "data": (tensor.data_ptr(), False),
        "version": 2,
    }
    return cuda.from_cuda_array_interface(interface, owner=tensor, sync=False)


# Numba's types of groups of contiguous arrays, by what tells them apart.
_group_types: dict[Hashable, Any] = {}


def _type_of_group(group: tuple, context: Any) -> Any:
    """The type of a named tuple. Numba would look at each entry again at every launch, in Python:
    13 us for an array, of which a launch has up to forty."""
    key = (type(group), *((x.dtype, x.ndim) if hasattr(x, "ndim") else type(x) for x in group))
    if key not in _group_types:
        _group_types[key] = _typeof_impl.dispatch(tuple)(group, context)
    return _group_types[key]


@functools.cache
def _register_group(kind: type) -> None:
    """Have Numba use ``_type_of_group`` for named tuples of this class."""
    _typeof_impl.register(kind)(_type_of_group)


def _for_kernel(argument: Any) -> Any:
    """The argument with arrays in place of tensors."""
    if isinstance(argument, Tensor):
        return _array(argument)
    if isinstance(argument, tuple):  # a named one
        group: Any = type(argument)
        _register_group(group)
        return group._make(map(_for_kernel, argument))
    return argument


def _flat(arguments: tuple) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from _flat(argument)
        else:
            yield argument


def launch(kernel, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
    """Queue ``kernel`` on the current stream of the device that the tensors live on.

    Args:
        blocks, threads: size of the grid, of each block.
        shared: bytes of dynamic shared memory.
        arguments: contiguous tensors of one device, numbers, and named tuples of these.
    """
    if blocks == 0:
        return
    home = next(x.device for x in _flat(arguments) if isinstance(x, Tensor))
    if home.type != "cuda":
        arrays = [_for_kernel(x) for x in arguments]
        kernel[blocks, threads, 0, max(shared, 8)](*arrays)
        return
    with torch.cuda.device(home), cuda.gpus[home.index]:
        arrays = [_for_kernel(x) for x in arguments]
        handle = torch.cuda.current_stream(home).cuda_stream
        stream = cuda.external_stream(handle) if handle else 0  # 0: the default stream
        kernel[blocks, threads, stream, shared](*arrays)
