"""``neurons.exponentials`` compiled for the CPU, for one neuron and for vectors of them."""

from __future__ import annotations

from ...neurons import exponentials
from ..binding import compiled
from .compile import index, inlined, kernel

_inlined = compiled(exponentials, inlined)
_halvings, _short_exp = _inlined.halvings, _inlined.short_exp
_short_relative_expm1 = _inlined.short_relative_expm1

_compiled = compiled(exponentials, kernel)
decay, coefficients = _compiled.decay, _compiled.coefficients


@inlined
def fill_coefficients(gap, rate_mem, rate_syn, fastest, e_syn, e_mem, psp):
    """``coefficients`` of a vector of neurons, or of the one entry that all neurons share."""
    count = _halvings(gap, fastest)
    short = gap * 0.5**count
    for j in range(rate_mem.shape[0]):
        h = index(j)
        p, q = short * rate_mem[h], short * rate_syn[h]
        decay = _short_exp(-p)
        e_syn[h], e_mem[h] = _short_exp(-q), decay
        psp[h] = p * decay * _short_relative_expm1(p - q)
    for _ in range(count):
        for j in range(rate_mem.shape[0]):
            h = index(j)
            psp[h] *= e_syn[h] + e_mem[h]
            e_syn[h] *= e_syn[h]
            e_mem[h] *= e_mem[h]
