"""Events of one sample: where those of a bin begin, and all in order of their unit."""

from __future__ import annotations

from .compile import kernel


def first_entry(bins, lo, hi, k):
    """First e in lo..hi with bins[e] >= k, by bisection; hi where there is none."""
    while lo < hi:
        middle = (lo + hi) // 2
        if bins[middle] < k:
            lo = middle + 1
        else:
            hi = middle
    return lo


first_from = kernel(first_entry)


@kernel
def sort_by_unit(inputs, bins, units, values, lo, hi, begin, ends, rows, scales):
    """Rows, ``bins[e] - begin``, and values of events lo..hi, sorted by unit.

    Unit n's events lie in ``ends[n - 1]..ends[n]`` (from 0 for the first unit) of ``rows`` and, if
    there are values, of ``scales``. ``ends`` is [inputs + 1], the others [hi - lo] or longer.
    """
    ends[: inputs + 1] = 0
    for e in range(lo, hi):
        ends[units[e] + 1] += 1
    for n in range(inputs):
        ends[n + 1] += ends[n]
    for e in range(lo, hi):
        j = ends[units[e]]
        rows[j] = bins[e] - begin
        if values.shape[0] > 0:
            scales[j] = values[e]
        ends[units[e]] = j + 1  # now the end of this unit's events, the start of the next one's
