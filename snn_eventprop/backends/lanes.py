"""Which of many numbers exceed their limits, as bits: 64 comparisons in a few instructions.

Loops that look for the few neurons that spike cost more than the arithmetic of all neurons, unless
they look at single neurons only where there is one. Compilers do not find this by themselves.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .compile import index, inlined

LANES = 64


@intrinsic
def _exceeding(typing_context, values, limits, start):
    """Bit j: ``values[start + j] > limits[start + j]``, for 64 j; both contiguous, of one dtype."""
    for array in (values, limits):
        if not (isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1):
            raise TypingError(f"contiguous vectors are compared, got {array}")
    if values.dtype != limits.dtype:
        raise TypingError(f"one dtype is compared, got {values.dtype} and {limits.dtype}")

    def generate(context, builder, signature, arguments):
        sides = []
        for kind, value in zip(signature.args[:2], arguments[:2], strict=True):
            array = context.make_array(kind)(context, builder, value)
            number = context.get_value_type(kind.dtype)
            place = builder.gep(array.data, [arguments[2]])
            vector = builder.bitcast(place, ir.VectorType(number, LANES).as_pointer())
            sides.append(builder.load(vector, align=kind.dtype.bitwidth // 8))
        return builder.bitcast(builder.fcmp_ordered(">", *sides), ir.IntType(LANES))

    return types.uint64(values, limits, types.uint64), generate


@intrinsic
def _lowest(typing_context, bits):
    """Position of the lowest bit that is set; ``bits`` is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@inlined
def exceeding(values, limits, found):
    """Indices h with ``values[h] > limits[h]``, ascending, into ``found`` [H + 1]; how many."""
    size = values.shape[0]
    whole = size - size % LANES
    count = 0
    for start in range(0, whole, LANES):
        bits = _exceeding(values, limits, index(start))  # type: ignore[call-arg, var-annotated]
        while bits != 0:
            found[index(count)] = start + _lowest(bits)
            bits &= bits - index(1)
            count += 1
    for h in range(whole, size):  # no branch: a miss is overwritten by the next write
        found[index(count)] = h
        count += values[index(h)] > limits[index(h)]
    return count
