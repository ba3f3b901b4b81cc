"""Tables in the forms in which notebooks hand them over, and the texts in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd


def table_of(given: Any, name: str, columns: Mapping[str, str | None]) -> pd.DataFrame:
    """A table as a pandas `DataFrame` in which the named columns are there and have no empty cells.

    Args:
        given: a `DataFrame`, anything with `to_pandas` (a `datasets.Dataset`, a pyarrow table), a mapping from column
            to values, or dictionaries, one a row.
        name: the task's name, for messages.
        columns: what each column is for -> its name; `None`: not used.

    Raises:
        ValueError: something that isn't a table, an empty one, a missing column or one that is there twice, an empty
            cell.

    >>> table_of([{"question": "Why?", "answer": "So."}], "t", {"text": "question"}).shape
    (1, 2)
    """
    table = _as_frame(given, name)
    for role, column in columns.items():
        if column is not None and column not in table.columns:
            raise ValueError(
                f"The table has no column {column!r}; name one of its columns as {role}=:"
                f" {', '.join(map(str, table.columns))}."
            )
    if table.empty:
        raise ValueError(f"The table of task {name!r} has no rows; a task needs at least one question.")
    for column in dict.fromkeys(c for c in columns.values() if c is not None):
        if isinstance(table[column], pd.DataFrame):
            raise ValueError(f"The table of task {name!r} has the column {column!r} twice; rename one of them.")
        for row, cell in enumerate(table[column]):
            if (pd.api.types.is_scalar(cell) and pd.isna(cell)) or not str(cell).strip():
                raise ValueError(
                    f"Column {column!r} of task {name!r} is empty in row {row}; fill the cell in, or leave the row out"
                    " yourself."
                )
    return table


def text_of(cell: Any, name: str, column: str, row: int) -> str:
    """The text in a cell; numbers are written out.

    Raises:
        ValueError: a cell that holds something else, as content parts or a whole chat, or half of a character.

    >>> text_of(7, "t", "answer", 0)
    '7'
    """
    if not pd.api.types.is_scalar(cell) or isinstance(cell, bytes):
        raise ValueError(
            f"Column {column!r} of task {name!r} holds a {type(cell).__name__} in row {row}; it needs plain text."
        )
    try:
        str(cell).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"Column {column!r} of task {name!r} holds half of a character (a lone surrogate) in row {row}; mend the"
            " text."
        ) from None
    return str(cell)


def _as_frame(given: Any, name: str) -> pd.DataFrame:
    if isinstance(given, pd.DataFrame):
        return given
    if hasattr(given, "to_pandas"):
        return given.to_pandas()
    if isinstance(given, Mapping) and given and all(hasattr(part, "to_pandas") for part in given.values()):
        raise ValueError(
            f"What was given as the table of task {name!r} has the parts {', '.join(map(str, given))}; pass one of"
            " them."
        )
    try:
        if isinstance(given, Mapping):
            return pd.DataFrame(dict(given))
        rows = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else None
        if rows is not None and all(isinstance(row, Mapping) for row in rows):
            return pd.DataFrame.from_records(rows)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The table of task {name!r} holds half of a character (a lone surrogate) in {error.object!r}; mend the"
            " text."
        ) from None
    except ValueError as error:
        raise ValueError(f"What was given as the table of task {name!r} isn't one ({error}).") from error
    raise ValueError(
        f"What was given as the table of task {name!r} is a {type(given).__name__}; pass a DataFrame, a"
        " datasets.Dataset, or a list of dictionaries, one a row."
    )
