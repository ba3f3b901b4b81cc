"""The parquet file of a chunk: one type for each column in every file, and a checksum of the rows in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .._util.json import read_json

_KEY = b"kvsteer_lab"
_TYPES = {
    **dict.fromkeys(
        "question intervention control_of control_kind text forced closing finish_reason".split(), pa.string()
    ),
    **dict.fromkeys("gold read_answer style".split(), pa.string()),
    **dict.fromkeys("sample tokens".split(), pa.int64()),
    **dict.fromkeys("choice_forced correct reasoned".split(), pa.bool_()),
    "repetition": pa.float64(),
}
"""Types of the columns that every evaluation has; what a rule reads (`by_RULE`) is text."""


class Note(BaseModel):
    """What a chunk's file says about itself.

    Attributes:
        run: hash of what the run's texts depend on.
        readings: hash of what read them.
        chunk: its number.
        check: checksum of the rows and of these three.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    run: str
    readings: str
    chunk: Annotated[int, Field(ge=0)]
    check: str = ""

    @classmethod
    def of(cls, file: Path) -> Note:
        """The note in a file; the rows are not read.

        Raises:
            ValueError: the file is damaged or foreign.
        """
        try:
            return cls._in(pq.ParquetFile(file).schema_arrow)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(first_line(error)) from error

    @classmethod
    def _in(cls, schema: pa.Schema) -> Note:
        text = (schema.metadata or {}).get(_KEY)
        if text is None:
            raise ValueError("kvsteer_lab didn't write it")
        try:
            read_json(text, what="its note")
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError("its note has other fields than expected") from error


def write_rows(path: Path, rows: pd.DataFrame, note: Note) -> None:
    """Write rows with their note.

    Raises:
        ValueError: a column holds values of another type than it must.
    """
    columns = {name: _column(name, rows[name]) for name in rows.columns}
    table = pa.table(columns)
    marked = note.model_copy(update={"check": _check(table, note)})
    table = table.replace_schema_metadata({_KEY: marked.model_dump_json().encode()})
    pq.write_table(table, path, write_page_checksum=True)


def read_table(path: Path) -> tuple[pa.Table, Note]:
    """The rows in a file and its note.

    Raises:
        ValueError: it is truncated, damaged or foreign; says why in a few words.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        table, note = file.read(), Note._in(file.schema_arrow)
        if note.check != _check(table, note):
            raise ValueError("its rows are not those that were written")
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(first_line(error)) from error
    return table, note


def read_rows(tables: Sequence[pa.Table]) -> pd.DataFrame:
    """The rows of several chunks in one table."""
    if not tables:
        return pd.DataFrame({"question": []})
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def _column(name: str, values: pd.Series) -> pa.Array:
    kind = pa.string() if name.startswith("by_") else _TYPES.get(name)
    try:
        found = pa.array(values, type=kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The column {name!r} of a run holds values of several types: {first_line(error)}.") from error
    texts = pa.types.is_null(found.type) or pa.types.is_large_string(found.type)
    return found.cast(pa.string()) if texts else found


def checksum(table: pa.Table, head: Sequence[Any]) -> str:
    """SHA-256 of `head`, names, types and values: whatever changes what is read changes it."""
    columns = [[field.name, str(field.type)] for field in table.schema]
    digest = hashlib.sha256(json.dumps([*head, columns], sort_keys=True, default=str).encode())
    for column in table.columns:
        digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def _check(table: pa.Table, note: Note) -> str:
    return checksum(table, [note.run, note.readings, note.chunk])


def first_line(error: BaseException) -> str:
    """What an error says first, or its name."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
