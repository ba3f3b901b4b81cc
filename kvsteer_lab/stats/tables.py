"""Tables written for reading: one format a column, intervals as their estimates, no p-value as zero."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from functools import partial
from numbers import Integral, Real
from typing import TypeGuard

import pandas as pd

from .._util.html import TextTable
from .._util.terms import in_terms

_MOST_PLACES = 5
"""A column that needs more is written with exponents."""


def readable(table: pd.DataFrame, decimals: int | None = None) -> pd.DataFrame:
    """The same table as text, in which the numbers of a column have one format.

    A column has as many decimals as its largest number needs for three digits, at least two where a number lies below
    1, but none that would be zero in all of it: whole numbers stay whole. Intervals (`low` and `high` after their
    estimate, `gain_low` and `gain_high` of `gain`) share the estimate's. P-values have three, below 0.001 they are
    `<0.001`. Missing numbers are left blank.

    Args:
        table: any table of results; columns called `p` or `p_...`, on any level, hold p-values.
        decimals: how many all numbers of the table have that aren't whole by nature (p-values keep three).

    Returns:
        A table of strings. Columns and labels that the field calls otherwise have its terms: `reasoned` is the CoT
        rate, `dose` the relative strength, `forced 'Step'` a response prefill.

    Examples:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"share": [1.0, 0.5], "low": [0.839, 0.3], "n": [20.0, 4.0], "p": [0.0004, 0.04]})
        >>> kv.stats.readable(table).to_numpy().tolist()
        [['1.00', '0.84', '20', '<0.001'], ['0.50', '0.30', '4', '0.040']]
        >>> kv.stats.readable(table[["share"]], decimals=3).share.tolist()
        ['1.000', '0.500']
    """
    written: dict[Hashable, list[str]] = {}
    for names in _estimates_with_intervals(table.columns):
        shared = _form(value for name in names for value in table[name]) if decimals is None else f"z.{decimals}f"
        for name in names:
            numbers = [value for value in table[name] if _is_number(value) and not pd.isna(value)]
            whole = all(isinstance(value, Integral) for value in numbers)
            write = _write_p if _holds_p(name) else str if whole else partial(_write, form=shared)
            written[name] = ["" if pd.isna(value) else write(value) for value in table[name]]
    return in_terms(TextTable({name: written[name] for name in table.columns}, index=table.index))


def _estimates_with_intervals(columns: Iterable[Hashable]) -> Iterable[list[Hashable]]:
    groups: dict[str, list[Hashable]] = {}
    before = ""
    for name in columns:
        estimate, _, end = _text(name).rpartition("_")
        if end not in ("low", "high"):
            estimate = before = _text(name)
        groups.setdefault(estimate or before, []).append(name)
    return groups.values()


def _holds_p(name: Hashable) -> bool:
    return any(str(part) == "p" or str(part).startswith("p_") for part in (name if isinstance(name, tuple) else [name]))


def _text(name: Hashable) -> str:
    return "_".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _form(values: Iterable[object]) -> str:
    """How a column's numbers are written, as Python's formats have it; `z`: no minus zero."""
    sizes = [abs(float(value)) for value in values if _is_number(value) and math.isfinite(value)]
    largest = max(sizes, default=0.0)
    if not largest:
        return "z.0f"
    places = max(2 - math.floor(math.log10(largest)), 2 * any(0 < size < 1 for size in sizes))
    if places > _MOST_PLACES:
        return "z.2e"
    while places > 0 and all(round(size, places - 1) == round(size, places) for size in sizes):
        places -= 1
    return f"z.{max(places, 0)}f"


def _write(value: object, form: str) -> str:
    return f"{float(value):{form}}" if _is_number(value) else str(value)


def _write_p(value: object) -> str:
    return str(value) if not _is_number(value) else "<0.001" if value < 0.001 else f"{float(value):.3f}"


def _is_number(value: object) -> TypeGuard[Real]:
    return isinstance(value, Real) and not isinstance(value, bool)
