"""Sums of two neighbours of a vector at a time, in one load and one addition.

Compilers do not find by themselves that ``x[i]`` and ``x[i + 1]``, each added to a sum of its own,
are one load. A pair of float32 travels in the bits of a float64, one of float64 as a complex
number.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

_CARRIER = {types.float32: types.float64, types.float64: types.complex128}
_NUMBER = {carrier: number for number, carrier in _CARRIER.items()}


def _carrier(values):
    if not (isinstance(values, types.Array) and values.layout == "C" and values.ndim == 1):
        raise TypingError(f"pairs are read from contiguous vectors, got {values}")
    return _CARRIER[values.dtype]


def _as_vector(builder, number, pair):
    vector = ir.VectorType(number, 2)
    if isinstance(pair.type, ir.DoubleType):
        return builder.bitcast(pair, vector)
    result = ir.Constant(vector, ir.Undefined)
    for place in (0, 1):
        part = builder.extract_value(pair, place)
        result = builder.insert_element(result, part, ir.Constant(ir.IntType(32), place))
    return result


def _as_carrier(context, builder, carrier, vector):
    if carrier == types.float64:
        return builder.bitcast(vector, ir.DoubleType())
    result = ir.Constant(context.get_value_type(carrier), ir.Undefined)
    for place in (0, 1):
        part = builder.extract_element(vector, ir.Constant(ir.IntType(32), place))
        result = builder.insert_value(result, part, place)
    return result


@intrinsic
def no_pair(typing_context, values):
    """Sums of zero of the dtype of ``values``."""
    carrier = _carrier(values)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(carrier), None)

    return carrier(values), generate


@intrinsic
def add_pair(typing_context, sums, values, at, scale):
    """``sums + scale * (values[at], values[at + 1])``; ``at`` is not negative."""
    carrier = _carrier(values)

    def generate(context, builder, signature, arguments):
        number = context.get_value_type(values.dtype)
        array = context.make_array(values)(context, builder, arguments[1])
        place = builder.gep(array.data, [arguments[2]])
        place = builder.bitcast(place, ir.VectorType(number, 2).as_pointer())
        pair = builder.load(place, align=values.dtype.bitwidth // 8)
        scales = ir.Constant(pair.type, ir.Undefined)
        for j in (0, 1):
            scales = builder.insert_element(scales, arguments[3], ir.Constant(ir.IntType(32), j))
        total = _as_vector(builder, number, arguments[0])
        total = builder.fadd(total, builder.fmul(pair, scales))
        return _as_carrier(context, builder, carrier, total)

    return carrier(carrier, values, types.uint64, values.dtype), generate


def _part(which):
    def take(typing_context, sums):
        number = _NUMBER[sums]

        def generate(context, builder, signature, arguments):
            vector = _as_vector(builder, context.get_value_type(number), arguments[0])
            return builder.extract_element(vector, ir.Constant(ir.IntType(32), which))

        return number(sums), generate  # type: ignore[operator]

    take.__name__ = take.__qualname__ = ("first_of", "second_of")[which]
    return intrinsic(take)


first_of, second_of = _part(0), _part(1)
