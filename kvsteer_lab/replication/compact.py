"""A replication without its texts: what can be committed, counted again, and checked by generating replies anew."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from .._util.files import write_atomically
from .._util.json import read_json
from ..evaluation.runs import Run
from .sizes import Sizes
from .stored import SETTINGS, Replication, gather_latency
from .tables import comparison_table, read_texts

SAME = ("model", "fingerprint", "dtype", "seed")
"""What all tasks of a folder have in common."""
KEPT = (
    *("task", "group", "question", "intervention", "control_of", "control_kind", "finish_reason", "tokens"),
    *("read_answer", "correct", "style", "reasoned", "repetition", "loop", "cut", "words", "connectives", "enumerates"),
    *("kl_1", "kl_8", "kl_32", "hash"),
)


@dataclass(frozen=True)
class CompactReplication:
    """What `write_compact` wrote.

    Attributes:
        path: the folder.
        settings: model and seed; `asked`, the sizes, and `costs` and `dates` by task.
        rows: one row a reply on test questions: `KEPT`; `hash` is of the whole reply.
        cells: every cell that was tried on development questions.
        chosen: by task, what was chosen.
        latency: time a token.

    Example:
        >>> nothing = pd.DataFrame()
        >>> CompactReplication(Path("results"), {"seed": 0}, nothing, nothing, {}, nothing).settings
        {'seed': 0}
    """

    path: Path
    settings: dict[str, Any]
    rows: pd.DataFrame = field(repr=False)
    cells: pd.DataFrame = field(repr=False)
    chosen: dict[str, dict[str, Any]] = field(repr=False)
    latency: pd.DataFrame = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """The comparison, computed from the rows: see `comparison_table`."""
        return comparison_table(self.rows, self.latency)

    def sizes(self, task: str) -> Sizes:
        """How large the replication was on a task."""
        return Sizes(**self.settings["asked"][task])


def hash_reply(text: str) -> str:
    """The first 16 hex digits of a reply's SHA-256.

    Args:
        text: the response prefill and what was generated.

    >>> hash_reply("4")
    '4b227777d4dd1fc6'
    """
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]


def write_compact(replication: Replication, out: str | Path) -> Path:
    """Write a replication's numbers, readings and hashes, without any text of a benchmark or a reply.

    Tasks can be done on several machines, one after another: those that the folder holds already stay, and those of the
    replication come after them, or in their place. Each task keeps the sizes that it was asked with.

    Args:
        replication: from `kv.replicate` or `kv.replication.load`.
        out: the folder: `rows.parquet`, `cells.parquet`, `latency.csv`, `settings.json`, and of each task
            `TASK.chosen.json` and `TASK.vectors.safetensors`, `TASK.activations.safetensors`.

    Returns:
        The folder.

    Raises:
        ValueError: no replies yet, or the folder holds results of another model or seed.
        OSError: the folder can't be written.

    Example:
        >>> nothing = pd.DataFrame()
        >>> write_compact(Replication(Path("runs"), {}, nothing, nothing, nothing, False), "results")
        Traceback (most recent call last):
        ValueError: There are no replies in runs yet; go on with the replication first.
    """
    if replication.rows.empty:
        raise ValueError(f"There are no replies in {replication.path} yet; go on with the replication first.")
    out = Path(out)
    tasks = list(dict.fromkeys(replication.rows.task))
    rows = read_texts(replication.rows)
    whole = rows.forced + rows.text
    rows = rows.assign(words=whole.str.split().str.len(), hash=whole.map(hash_reply))[list(KEPT)]
    settings = {
        **{name: replication.settings[name] for name in (*SAME, "version")},
        "asked": {task: replication.settings["asked"] for task in tasks},
        "costs": {task: _cost(replication.path / task) for task in tasks},
        "dates": {task: _dates(replication.path / task) for task in tasks},
    }
    cells, latency = replication.cells, gather_latency(replication.path, tasks)
    if (out / SETTINGS).is_file():
        before = read_compact(out)
        _check_same(before, replication.settings)
        rows, cells, latency = (
            pd.concat([old[~old.task.isin(tasks)], new], ignore_index=True) if len(old) else new
            for old, new in ((before.rows, rows), (before.cells, cells), (before.latency, latency))
        )
        for name in ("asked", "costs", "dates"):
            settings[name] = {**before.settings[name], **settings[name]}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "rows.parquet", lambda file: rows.to_parquet(file, index=False, compression="zstd"))
    write_atomically(out / "cells.parquet", lambda file: cells.to_parquet(file, index=False))
    write_atomically(out / "latency.csv", lambda file: latency.to_csv(file, index=False))
    write_atomically(out / SETTINGS, lambda file: file.write_text(json.dumps(settings, indent=1), encoding="utf-8"))
    for task in tasks:
        for name in ("chosen.json", "vectors.safetensors", "activations.safetensors"):
            write_atomically(out / f"{task}.{name}", partial(shutil.copyfile, replication.path / task / name))
    return out


def read_compact(path: str | Path) -> CompactReplication:
    """Read what `write_compact` wrote.

    Args:
        path: the folder.

    Raises:
        ValueError: nothing of that kind there.

    Example:
        >>> read_compact("nowhere")
        Traceback (most recent call last):
        ValueError: There are no compact results of a replication in nowhere; write them with ...
    """
    path = Path(path)
    if not (path / SETTINGS).is_file() or not (path / "rows.parquet").is_file():
        raise ValueError(
            f"There are no compact results of a replication in {path}; write them with kv.replication.write_compact."
        )
    rows = pd.read_parquet(path / "rows.parquet")
    chosen = {task: read_json(path / f"{task}.chosen.json", what=f"{task}.chosen.json") for task in rows.task.unique()}
    return CompactReplication(
        path,
        read_json(path / SETTINGS, what=SETTINGS),
        rows,
        pd.read_parquet(path / "cells.parquet"),
        chosen,
        pd.read_csv(path / "latency.csv"),
    )


def _check_same(there: CompactReplication, settings: dict[str, Any]) -> None:
    """Refuse to mix the results of two experiments."""
    for name in SAME:
        if there.settings[name] != settings[name]:
            raise ValueError(
                f"{there.path} holds results with {name} {there.settings[name]!r}, not {settings[name]!r}; choose"
                " another folder."
            )


def _cost(folder: Path) -> dict[str, float]:
    found = [read_json(file, what=str(file)) for file in sorted((folder / "test").glob("*.cost.json"))]
    return {name: round(sum(cost[name] for cost in found), 1) for name in ("replies", "tokens", "cpu_s", "wall_s")}


def _dates(folder: Path) -> list[str]:
    """The first and the last day on which test questions were begun."""
    runs = [Run.load(place.parent) for place in (folder / "test").glob("*/config.json")]
    days = sorted(str(run.provenance.get("date", ""))[:10] for run in runs)
    return [days[0], days[-1]] if days else []
