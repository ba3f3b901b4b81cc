"""What a folder of `replicate` holds: replies, cells and latencies of every finished block, and the table, page and
release that are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .._util.files import write_atomically
from .._util.json import read_json
from ..tasks.base import Task
from .blocks import Block
from .page import write_page
from .release import write_release
from .styles import GROUP
from .tables import comparison_table, read_texts

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Replication:
    """What a folder of `replicate` holds so far.

    Attributes:
        path: the folder.
        settings: model, sizes, seed, version.
        rows: one row a reply on test questions, texts included, with the task and the divergences.
        cells: every cell that was tried on development questions.
        table: the comparison: see `kv.replication.comparison_table`.
        complete: whether every block that was asked for is there.

    Example:
        >>> import pandas as pd
        >>> Replication(Path("runs"), {"model": "tiny"}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), False)
        Replication(path=...Path('runs'), settings={'model': 'tiny'}, complete=False)
    """

    path: Path
    settings: dict[str, Any]
    rows: pd.DataFrame = field(repr=False)
    cells: pd.DataFrame = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    complete: bool


def summarise_folder(path: Path, names: Sequence[str], sources: dict[str, Task]) -> None:
    """Write rows, cells, the table, the page and the release tree from the blocks that are there.

    Args:
        path: the replication's folder.
        names: of tasks, in the order of the table.
        sources: the tasks by name; only those that are given get a release tree.
    """
    others = [place.parent.name for place in sorted(path.glob("*/chosen.json")) if place.parent.name not in names]
    names = [*names, *others]
    rows, cells = gather_rows(path, names), gather_cells(path, names)
    if rows.empty:
        return
    table = comparison_table(rows, gather_latency(path, names))
    write_atomically(path / "rows.parquet", lambda file: rows.to_parquet(file, index=False))
    write_atomically(path / "cells.parquet", lambda file: cells.to_parquet(file, index=False))
    write_atomically(path / "table.csv", lambda file: table.to_csv(file, index=False))
    write_page(path, table, cells)
    for name in names:
        if name in sources and (rows.task == name).any():
            write_release(path, name, sources[name], rows[rows.task == name])


def gather_rows(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """All replies on test questions that are there, finished blocks only, their texts read as they are read now.

    Args:
        path: the replication's folder.
        names: of tasks.
    """
    parts = []
    for name in names:
        for folder in sorted((path / name / "test").glob("*-[0-9][0-9][0-9]"), key=_place):
            block = Block(folder.parent, folder.name, (), ())
            if block.done:
                parts.append(block.rows().assign(task=name, group=folder.name.rpartition("-")[0]))
    return read_texts(pd.concat(parts, ignore_index=True)) if parts else pd.DataFrame()


def _place(folder: Path) -> tuple[int, str]:
    """Where the rows of a block stand: the methods first."""
    return ("arms", "anew", "random", "tuned", GROUP).index(folder.name.rpartition("-")[0]), folder.name


def gather_cells(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Every cell that was tried on development questions.

    Args:
        path: the replication's folder.
        names: of tasks.
    """
    return _gather(path, names, "cells.csv", pd.DataFrame())


def gather_latency(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Time a token under each method, where it was measured.

    Args:
        path: the replication's folder.
        names: of tasks.
    """
    return _gather(path, names, "latency.csv", pd.DataFrame(columns=["task", "intervention", "ratio"]))


def _gather(path: Path, names: Sequence[str], file: str, nothing: pd.DataFrame) -> pd.DataFrame:
    """One table of all tasks that have this file; `nothing` where none has."""
    there = [name for name in names if (path / name / file).is_file()]
    parts = [pd.read_csv(path / name / file).assign(task=name) for name in there]
    return pd.concat(parts, ignore_index=True) if parts else nothing


def load(path: str | Path, complete: bool = False) -> Replication:
    """What a folder of `replicate` holds so far: every finished block, whether its run goes on or not.

    Args:
        path: the folder.
        complete: what `Replication.complete` shall say.

    Raises:
        ValueError: no replication there.

    Example:
        >>> import tempfile
        >>> import kvsteer_lab as kv
        >>> kv.replication.load(tempfile.gettempdir() + "/none")
        Traceback (most recent call last):
        ValueError: There is no replication in ...
    """
    path = Path(path)
    if not (path / SETTINGS).is_file():
        raise ValueError(f"There is no replication in {path}; make one with kvsteer replicate --out {path}.")
    settings = read_json(path / SETTINGS, what=str(path / SETTINGS))
    names = sorted((place.parent.name for place in path.glob("*/chosen.json")), key=_begun(path))
    rows = gather_rows(path, names)
    table = pd.DataFrame() if rows.empty else comparison_table(rows, gather_latency(path, names))
    return Replication(path, settings, rows, gather_cells(path, names), table, complete)


def _begun(path: Path) -> Callable[[str], float]:
    """Orders tasks as they were done."""
    return lambda name: (path / name / "chosen.json").stat().st_mtime
