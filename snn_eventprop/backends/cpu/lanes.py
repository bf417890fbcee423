"""Vectors of neurons as numbers: ``Lanes`` add and multiply like scalars, so that equations run on
them as they stand, and stay in registers.

Compilers vectorise loops over neurons, but go through memory from one loop to the next. A block of
neurons that takes the rows of all events of a bin before it is written again costs a third less.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .compile import index, inlined

# Neurons side by side: four registers of the widest kind for float32, and one for what remains.
WIDE, NARROW = 64, 16


class Lanes(types.Type):
    """``width`` numbers of one kind."""

    def __init__(self, dtype: types.Float, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(name=f"Lanes({dtype}, {width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        number = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(number, lanes.width))


def _instruction(function: Callable) -> Callable[..., Any]:
    return intrinsic(prefer_literal=True)(function)


def _arithmetic(of, instruction):
    # Not ``overload``, whose inlining drops what it takes for dead stores to arrays in tuples.
    @infer_global(of)
    class _(AbstractTemplate):
        def generic(self, operands, keywords):
            if isinstance(operands[0], Lanes) and operands[0] == operands[-1]:
                return signature(operands[0], *operands)
            return None

    lower_builtin(of, Lanes, Lanes)(
        lambda context, builder, signature, operands: getattr(builder, instruction)(*operands)
    )


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")


def _lanes_of(array, ndim, width):
    if not (isinstance(array, types.Array) and array.layout == "C" and array.ndim == ndim):
        raise TypingError(f"lanes are read from contiguous arrays [{ndim}-d], got {array}")
    if not isinstance(width, types.IntegerLiteral):
        raise TypingError(f"the number of lanes must be known to the compiler, got {width}")
    return Lanes(array.dtype, width.literal_value)


def _place(context, builder, kind, array, at, lanes):
    """Pointer to the lanes that begin at an index, or at (row, index)."""
    array = context.make_array(kind)(context, builder, array)
    if len(at) == 2:
        at = [builder.add(builder.mul(at[0], builder.extract_value(array.shape, 1)), at[1])]
    number = builder.gep(array.data, at)
    return builder.bitcast(number, context.get_value_type(lanes).as_pointer())


def _loaded(lanes, signature):
    def generate(context, builder, signature, arguments):
        array, *at, _ = arguments
        place = _place(context, builder, signature.args[0], array, at, lanes)
        return builder.load(place, align=lanes.dtype.bitwidth // 8)

    return signature, generate


@_instruction
def load(typing_context, array, at, width):
    """``array[at : at + width]``, of a vector."""
    lanes = _lanes_of(array, 1, width)
    return _loaded(lanes, lanes(array, types.uint64, width))


@_instruction
def load_row(typing_context, array, row, at, width):
    """``array[row, at : at + width]``."""
    lanes = _lanes_of(array, 2, width)
    return _loaded(lanes, lanes(array, types.uint64, types.uint64, width))


def _stored(array, signature):
    def generate(context, builder, signature, arguments):
        array, *at, value = arguments
        place = _place(context, builder, signature.args[0], array, at, signature.args[-1])
        builder.store(value, place, align=signature.args[-1].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@_instruction
def store(typing_context, array, at, value):
    """``array[at : at + width] = value``."""
    return _stored(array, types.void(array, types.uint64, value))


@_instruction
def store_row(typing_context, array, row, at, value):
    """``array[row, at : at + width] = value``."""
    return _stored(array, types.void(array, types.uint64, types.uint64, value))


@_instruction
def turn(typing_context, out, out_row, out_at, source, row, at, add):
    """out[out_row + i, out_at + j] = source[row + j, at + i] for i, j < ``NARROW``; or +=.

    Four times a shuffle of the two halves of 16 rows into pairs of neighbours transposes them.
    """
    lanes = _lanes_of(source, 2, types.literal(NARROW))
    half = NARROW // 2

    def generate(context, builder, signature, arguments):
        out, out_row, out_at, source, row, at, _ = arguments
        kinds, bits = signature.args, ir.IntType(32)

        def place(of, array, row, at, number):
            row = builder.add(row, ir.Constant(row.type, number))
            return _place(context, builder, kinds[of], array, (row, at), lanes)

        def pairs(first):
            order = [n for j in range(first, first + half) for n in (j, j + NARROW)]
            return ir.Constant(ir.VectorType(bits, NARROW), [ir.Constant(bits, n) for n in order])

        align = lanes.dtype.bitwidth // 8
        rows = [
            builder.load(place(3, source, row, at, j), align=align) for j in range(NARROW)
        ]
        for _ in range(NARROW.bit_length() - 1):
            rows = [
                builder.shuffle_vector(low, high, pairs(first))
                for low, high in zip(rows[:half], rows[half:], strict=True)
                for first in (0, half)
            ]
        for i, value in enumerate(rows):
            to = place(0, out, out_row, out_at, i)
            if add.literal_value:
                value = builder.fadd(builder.load(to, align=align), value)
            builder.store(value, to, align=align)
        return context.get_dummy_value()

    number = types.uint64
    return types.void(out, number, number, source, number, number, add), generate


def _spread(number, signature):
    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(signature.return_type)
        nothing = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None)
        return builder.shuffle_vector(first, nothing, everywhere)

    return signature, generate


@_instruction
def spread(typing_context, number, width):
    """The same number in all lanes."""
    return _spread(number, Lanes(number, width.literal_value)(number, width))


@_instruction
def constant(typing_context, values, at, width):
    """Lanes of a vector over neurons, or of the number that stands for one."""
    if isinstance(values, types.Float):
        return _spread(values, Lanes(values, width.literal_value)(values, at, width))
    lanes = _lanes_of(values, 1, width)
    return _loaded(lanes, lanes(values, types.uint64, width))


@_instruction
def total(typing_context, lanes):
    """Sum over the lanes, in an order of the compiler's choice."""

    def generate(context, builder, signature, arguments):
        number, kind = (context.get_value_type(t) for t in (lanes.dtype, lanes))
        bits = lanes.dtype.bitwidth
        name = f"llvm.vector.reduce.fadd.v{lanes.width}f{bits}"
        kinds = ir.FunctionType(number, (number, kind))
        function = builder.module.declare_intrinsic(name, (), kinds)
        zero = ir.Constant(number, -0.0)
        return builder.call(function, (zero, arguments[0]), fastmath=("reassoc",))

    return lanes.dtype(lanes), generate


@_instruction
def bits_above(typing_context, values, limits):
    """Bit j: lane j of ``values`` exceeds that of ``limits``."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(
            builder.fcmp_ordered(">", *arguments), ir.IntType(values.width)
        )
        return builder.zext(bits, ir.IntType(64)) if values.width < 64 else bits

    return types.uint64(values, limits), generate


@_instruction
def _lowest(typing_context, bits):
    """Position of the lowest bit that is set; of 0, 64."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@_instruction
def _number_of(typing_context, bits):
    """How many bits are set."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@inlined
def each_block(body, size, arguments):
    """``body(at, width, arguments)`` for blocks of neurons ``at..at + width`` that make up size."""
    for h in range(0, size - size % WIDE, WIDE):
        body(index(h), WIDE, arguments)
    for h in range(size - size % WIDE, size - size % NARROW, NARROW):
        body(index(h), NARROW, arguments)
    for h in range(size - size % NARROW, size):
        body(index(h), 1, arguments)


def words(size):
    """Words of 64 bits that hold a bit for each of so many neurons."""
    return -(-size // WIDE)


@inlined
def mark_above(values, limits, at, marks):
    """Set the bits, from ``at`` on, of lanes that exceed their limits, and clear the others."""
    mark(bits_above(values, limits), at, marks)


@inlined
def mark(bits, at, marks):
    """Write the bits of a block into ``marks``, from ``at`` on."""
    word, shift = at // index(WIDE), at % index(WIDE)
    bits = bits << shift
    if shift > index(0):
        bits |= marks[word]
    marks[word] = bits


@inlined
def list_marked(marks, found):
    """Positions of the bits that are set into ``found`` [64 (words + 1)], ascending; how many.

    Few neurons spike at a time. To branch on whether one of a block did would mean to guess, and
    to wait for the weights in order to guess again: the first ones of every block are written
    down whether or not there are so many, and written over.
    """
    count = index(0)
    for word in range(marks.shape[0]):
        bits, first = marks[index(word)], index(word) * index(WIDE)
        at = count
        count += _number_of(bits)
        for _ in range(4):
            found[at] = first + _lowest(bits)
            bits &= bits - index(1)
            at += index(1)
        while bits != 0:
            found[at] = first + _lowest(bits)
            bits &= bits - index(1)
            at += index(1)
    return np.int64(count)


@inlined
def exceeding(values, limits, found):
    """Indices h with ``values[h] > limits[h]``, ascending, into ``found`` [H + 1]; how many.

    For where there is hardly ever one.
    """
    size = values.shape[0]
    whole = size - size % WIDE
    count = 0
    for h in range(0, whole, WIDE):
        bits = bits_above(load(values, index(h), WIDE), load(limits, index(h), WIDE))
        while bits != 0:
            found[index(count)] = h + _lowest(bits)
            bits &= bits - index(1)
            count += 1
    for h in range(whole, size):  # no branch: a miss is overwritten by the next write
        found[index(count)] = h
        count += values[index(h)] > limits[index(h)]
    return count
