"""The tests' own pairwise tables hold every value and every pair, in few rows."""

from __future__ import annotations

import itertools
import math

import pytest
from support.pairwise import covering_rows, pairs_of, pairwise

SIZES = [[2, 2, 2], [5, 2, 6], [6, 2, 2], [4, 2, 5, 3, 2], [2, 2, 2, 3, 2], [3, 1, 4], [7, 7, 7]]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_every_pair_of_values_occurs(sizes):
    rows = covering_rows(sizes)
    product = list(itertools.product(*map(range, sizes)))
    assert set(rows) <= set(product) and len(set(rows)) == len(rows)
    assert set().union(*map(pairs_of, rows)) == set().union(*map(pairs_of, product))
    largest, second = sorted(sizes)[:-3:-1]
    assert largest * second <= len(rows) <= 1.6 * largest * second
    assert covering_rows(sizes) == rows


def test_two_parameters_have_their_product():
    assert len(covering_rows([4, 3])) == 12 and len(covering_rows([4])) == 4


def test_combinations_that_do_not_exist_take_no_other_pair_with_them():
    sizes = [4, 3, 2, 2]

    def allowed(row):
        return not (row[0] == 3 and row[2] == 1)

    rows = covering_rows(sizes, allowed)
    assert all(map(allowed, rows))
    product = filter(allowed, itertools.product(*map(range, sizes)))
    assert set().union(*map(pairs_of, rows)) == set().union(*map(pairs_of, product))


def test_parameters_have_their_values_and_readable_ids():
    mark = pairwise(
        unless=lambda name, size, dtype: name == "b" and size == 2,
        name=["a", "b"],
        size=[1, 2],
        dtype={"f64": math.pi, "f32": pytest.param(math.e, marks=pytest.mark.slow)},
    )
    names, rows = mark.args
    assert names == ("name", "size", "dtype")
    assert {(row.values[0], row.values[1]) for row in rows} == {("a", 1), ("a", 2), ("b", 1)}
    for row in rows:
        name, size, kind = row.id.split("-")
        assert (name, int(size)) == row.values[:2]
        assert {"f64": math.pi, "f32": math.e}[kind] == row.values[2]
        assert [m.name for m in row.marks] == (["slow"] if kind == "f32" else [])
