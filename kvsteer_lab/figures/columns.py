"""Which columns of a table a figure can draw."""

from __future__ import annotations

from collections.abc import Iterable


def check_column(column: str, known: Iterable[str]) -> None:
    """Refuse a column whose intervals, scale or name the figure doesn't know.

    Args:
        column: what is to be drawn.
        known: what can be.

    Raises:
        ValueError: another one.

    >>> check_column("accuracy", ("accuracy", "reasoned"))
    """
    if column not in (names := list(known)):
        raise ValueError(f"There is no column {column!r} to draw; choose one of: {', '.join(names)}.")
