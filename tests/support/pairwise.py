"""Pairwise tables: every pair of values of any two parameters, in far fewer rows than the product.

Most defects that depend on options depend on one or on two of them. A table in which every pair
occurs finds those; the product of five options also runs every triple, at ten times the cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest


def pairs_of(row: Iterable[int]) -> set[tuple]:
    """The pairs ((column, value), (column, value)) of a row of indices."""
    return set(itertools.combinations(enumerate(row), 2))


def covering_rows(
    sizes: list[int], allowed: Callable[[tuple[int, ...]], bool] = lambda row: True
) -> list[tuple[int, ...]]:
    """Rows of indices in which every pair occurs that occurs in any allowed row of the product.

    Greedy: the next row is the first of those with the most pairs that are not yet covered.
    """
    product = [row for row in itertools.product(*map(range, sizes)) if allowed(row)]
    if len(sizes) < 3:
        return product
    missing = set().union(*map(pairs_of, product))
    rows = []
    while missing:
        best = max(product, key=lambda row: len(pairs_of(row) & missing))
        missing -= pairs_of(best)
        rows.append(best)
    return rows


def pairwise(
    *, unless: Callable[..., bool] = lambda **row: False, **columns: Mapping[str, Any] | Iterable
) -> pytest.MarkDecorator:
    """Parametrise a test by a pairwise table.

    Args:
        unless: takes the parameters; true for combinations that do not exist.
        columns: the values of each parameter, as ``{id: value}`` or a list of values that are
            their own ids. A value may be a ``pytest.param`` with marks, which its rows then have.
    """
    table = [
        [
            (id, *_value_and_marks(value))
            for id, value in (
                column.items() if isinstance(column, Mapping) else ((str(v), v) for v in column)
            )
        ]
        for column in columns.values()
    ]

    def exists(row: tuple[int, ...]) -> bool:
        chosen = (column[k][1] for column, k in zip(table, row, strict=True))
        return not unless(**dict(zip(columns, chosen, strict=True)))

    parameters = []
    for row in covering_rows([len(column) for column in table], exists):
        ids, values, marks = zip(
            *(column[k] for column, k in zip(table, row, strict=True)), strict=True
        )
        parameters.append(pytest.param(*values, id="-".join(ids), marks=sum(marks, ())))
    return pytest.mark.parametrize(tuple(columns), parameters)


_Param = type(pytest.param())


def _value_and_marks(value: Any) -> tuple[Any, tuple]:
    return (value.values[0], tuple(value.marks)) if isinstance(value, _Param) else (value, ())
