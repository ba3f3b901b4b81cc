"""The one file of saved results: parquet rows, with settings and a checksum in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from .._util.files import write_atomically
from .._util.json import first_fault, read_json
from .chunk_files import checksum, first_line

_KEY = b"kvsteer_lab"


class _Note(BaseModel):
    """What a file of results says about itself; `check` is missing in files of earlier releases."""

    model_config = ConfigDict(strict=True, frozen=True)
    settings: dict[str, Any]
    complete: bool
    check: str = ""


def write_results(path: str | Path, rows: pd.DataFrame, settings: Mapping[str, Any], complete: bool) -> Path:
    """Write one file; an existing one is replaced in one step.

    Args:
        path: of the file.
        rows: one a reply.
        settings: of the evaluation.
        complete: whether every question was asked.

    Returns:
        The path.
    """
    table = pa.Table.from_pandas(rows, preserve_index=False)
    about: dict[str, Any] = {"settings": dict(settings), "complete": complete}
    note = _Note(**about, check=checksum(table, [about]))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: note.model_dump_json().encode()})
    return write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def read_results(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any], bool]:
    """Read a file that `write_results` wrote.

    Args:
        path: of the file.

    Returns:
        Rows, settings, and whether every question was asked.

    Raises:
        ValueError: no such file, a truncated, changed or foreign one.
    """
    try:
        table = pq.read_table(path)
        text = (table.schema.metadata or {})[_KEY]
        read_json(text, what="its note")
        note = _Note.model_validate_json(text)
        if note.check and note.check != checksum(table, [{"settings": note.settings, "complete": note.complete}]):
            raise ValueError("its rows are not those that were saved")
        return table.replace_schema_metadata(None).to_pandas(), note.settings, note.complete
    except FileNotFoundError as error:
        raise ValueError(f"There are no results at {path}.") from error
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else first_line(error)
        raise ValueError(
            f"{path} is not a complete results file of kvsteer_lab ({reason}); run the evaluation again."
        ) from error
