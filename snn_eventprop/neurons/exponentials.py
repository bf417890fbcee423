"""Coefficients of the flow over gaps of any length, as polynomials that vectorise.

Gaps between events are short against the time constants, where a few terms of the power series
give exp(-gap/tau_syn), exp(-gap/tau_mem) and the PSP to rounding, whether or not the time
constants are equal. A longer gap is halved until it is short, and its map squared back.

Plain functions on scalars, which backends compile as they compile neurons.
"""

from __future__ import annotations

import math

# Longest gap that is not halved, in time constants: the series below are then exact to 1e-16.
_SHORT = 1 / 16


_2, _3, _4, _5, _6, _7, _8 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320


def short_exp(x):
    """exp(x) for abs(x) <= 1/16."""
    # Pairs of terms, so that products need not wait for each other.
    square = x * x
    low = (1.0 + x) + square * (_2 + x * _3)
    high = (_4 + x * _5) + square * (_6 + x * _7)
    fourth = square * square
    return low + fourth * (high + fourth * _8)


def short_relative_expm1(x):
    """expm1(x) / x for abs(x) <= 1/16."""
    square = x * x
    low = (1.0 + x * _2) + square * (_3 + x * _4)
    high = (_5 + x * _6) + square * (_7 + x * _8)
    return low + square * square * high


def decay(x):
    """exp(-x) for x >= 0."""
    return short_exp(-x) if x <= _SHORT else math.exp(-x)


def halvings(gap, fastest):
    """How often a gap is halved, ``fastest`` being the largest rate, 1/s."""
    count = 0
    while gap * fastest > _SHORT:
        gap *= 0.5
        count += 1
    return count


def coefficients(gap, rate_mem, rate_syn):
    """(e_syn, e_mem, psp) of one neuron; rates are inverse time constants, 1/s."""
    count = halvings(gap, max(rate_mem, rate_syn))
    gap = gap * 0.5**count
    p, q = gap * rate_mem, gap * rate_syn
    e_syn, e_mem = short_exp(-q), short_exp(-p)
    psp = p * e_mem * short_relative_expm1(p - q)
    for _ in range(count):
        psp *= e_syn + e_mem
        e_syn *= e_syn
        e_mem *= e_mem
    return e_syn, e_mem, psp
