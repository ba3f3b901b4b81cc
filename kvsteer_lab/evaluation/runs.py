"""A run on disk: one folder, finished chunks of questions in it, whatever stops the process that fills it.

    config.json           what the run is (identity and its hash), its chunks, and where it comes from
    rows/00000.parquet    the rows of chunk 0, written in one step; and so on
    unfinished/           what a killed process left half written; nobody reads it

`pd.read_parquet("run/rows")` and DuckDB's `read_parquet('run/rows/*.parquet')` read it, too.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._util.files import write_atomically
from .identity import differences, hash_of

CONFIG = "config.json"
_FORMAT = "kvsteer_lab.run.1"
_KEY = b"kvsteer_lab"


@dataclass(frozen=True)
class Run:
    """One evaluation in one folder, finished or not.

    Attributes:
        path: the folder.
        identity: everything that the rows depend on, as `kvsteer_lab.evaluation.identity.describe` gives it.
        chunks: ids of the questions of each chunk, in order.
        settings: what a table's heading tells of the run; recorded, never compared.
        provenance: date, commit and versions; recorded, never compared.
    """

    path: Path
    identity: Mapping[str, Any] = field(repr=False)
    chunks: tuple[tuple[str, ...], ...] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        identity: Mapping[str, Any],
        chunks: Sequence[Sequence[str]],
        *,
        settings: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Run:
        """Begin a run in a new or empty folder, or go on with the one that is there.

        A run that is there keeps its own chunks.

        Args:
            path: the folder.
            identity, chunks, settings, provenance: as the attributes.

        Raises:
            ValueError: the folder holds another run, something else, or a damaged file of this run.
            OSError: the folder can't be written.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            if path.exists() and (not path.is_dir() or _holds_files(path)):
                raise ValueError(
                    f"{path} holds something that is no run of kvsteer_lab; choose a new or an empty folder."
                )
            run = cls(path, dict(identity), tuple(map(tuple, chunks)), dict(settings or {}), dict(provenance or {}))
            run._begin()
            return run
        run = cls.load(path)
        run.check_same(identity)
        run._begin()
        return run

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """A run that was begun before; each of its files is read and checked.

        Raises:
            ValueError: no run there, or a damaged or foreign file in it.
        """
        path = Path(path)
        try:
            note = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            if note["format"] != _FORMAT or note["hash"] != hash_of(note["identity"]):
                raise ValueError("format or hash are not its own")
            run = cls(path, note["identity"], tuple(map(tuple, note["chunks"])), note["settings"], note["provenance"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(
                f"There is no run in {path}: it has no {CONFIG}; give the folder that --out named."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path / CONFIG} is damaged ({error}); choose another folder and run again.") from error
        for chunk in run.finished:
            run.table(chunk)
        return run

    @property
    def hash(self) -> str:
        """SHA-256 of the identity; runs with one hash have the same rows."""
        return hash_of(self.identity)

    @property
    def finished(self) -> list[int]:
        """The chunks whose rows are there."""
        return [chunk for chunk in range(len(self.chunks)) if self.file(chunk).is_file()]

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return len(self.finished) == len(self.chunks)

    def missing(self, shard: tuple[int, int] = (1, 1)) -> list[int]:
        """The chunks of a shard that are still to do. Shard i of N has every N-th chunk, beginning with the i-th;
        shards count from 1.
        """
        i, n = shard
        return [chunk for chunk in range(i - 1, len(self.chunks), n) if not self.file(chunk).is_file()]

    def file(self, chunk: int) -> Path:
        """Where the rows of a chunk are, or will be."""
        return self.path / "rows" / f"{chunk:05d}.parquet"

    def write(self, chunk: int, rows: pd.DataFrame) -> Path:
        """Add the rows of one chunk, all at once.

        Raises:
            ValueError: rows of other questions than the chunk's.
            OSError: the folder can't be written or the disk is full; what was there is unchanged.
        """
        self._check_questions(chunk, set(rows["question"]), "the rows to be written")
        table = pa.Table.from_pandas(rows, preserve_index=False)
        table = table.cast(pa.schema([_settled(column) for column in table.schema], metadata=table.schema.metadata))
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), _KEY: json.dumps({"run": self.hash, "chunk": chunk}).encode()}
        )
        return self._put(chunk, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True))

    def adopt(self, chunk: int, file: Path) -> Path:
        """Copy the rows of a chunk from another folder of the same run."""
        return self._put(chunk, lambda temporary: shutil.copyfile(file, temporary))

    def table(self, chunk: int) -> pa.Table:
        """The rows of one chunk.

        Raises:
            ValueError: the file is truncated, damaged, or belongs to another run or chunk.
        """
        file = self.file(chunk)
        remedy = "delete this file and run the same command again"
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()
            note = json.loads((table.schema.metadata or {})[_KEY])
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise ValueError(f"{file} is truncated or damaged ({str(error).splitlines()[0]}); {remedy}.") from error
        if note != {"run": self.hash, "chunk": chunk}:
            raise ValueError(f"{file} belongs to another run or chunk; {remedy}.")
        self._check_questions(chunk, set(table["question"].to_pylist()), f"{file}")
        return table

    def read(self) -> pd.DataFrame:
        """All rows that are there, in the order of the run's questions, whoever computed which."""
        tables = [self.table(chunk) for chunk in self.finished]
        return (
            pa.concat_tables(tables, promote_options="permissive").to_pandas()
            if tables
            else pd.DataFrame({"question": []})
        )

    def check_same(self, identity: Mapping[str, Any]) -> None:
        """Raise a `ValueError` that names what differs unless this run has that identity."""
        if hash_of(identity) != self.hash:
            raise ValueError(
                f"{self.path} holds another run: {differences(self.identity, identity)}. Choose another folder, or ask"
                " for the same."
            )

    def _begin(self) -> None:
        """Make the folders and see that they can be written; a new run gets its config."""
        config = self.path / CONFIG
        try:
            for folder in (self.path / "rows", self.path / "unfinished"):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise OSError(
                f"Cannot write {self.path}: {error.strerror or error}. Choose a folder that you can write to."
            ) from error
        if not config.is_file():
            note = dict(
                format=_FORMAT,
                hash=self.hash,
                settings=self.settings,
                provenance=self.provenance,
                chunks=self.chunks,
                identity=self.identity,
            )
            write_atomically(
                config,
                lambda temporary: temporary.write_text(json.dumps(note, indent=1), encoding="utf-8"),
                self.path / "unfinished",
            )

    def _put(self, chunk: int, write: Any) -> Path:
        folder = self.path / "unfinished"
        for leftover in folder.glob(f".{chunk:05d}-*"):
            leftover.unlink(missing_ok=True)
        return write_atomically(self.file(chunk), write, folder)

    def _check_questions(self, chunk: int, found: set[str], where: str) -> None:
        if found != set(self.chunks[chunk]):
            wrong = sorted(found ^ set(self.chunks[chunk]))
            raise ValueError(
                f"Chunk {chunk} and {where} differ in {len(wrong)} questions, {wrong[0]!r} among them; delete what was"
                " written and run again."
            )


def parse_shard(shard: str | tuple[int, int] | None) -> tuple[int, int]:
    """`"2/4"` or `(2, 4)` as numbers: the second of four parts; `None` is the whole.

    Raises:
        ValueError: something else, or a shard that isn't between 1 and N.
    """
    try:
        i, n = map(int, shard.split("/") if isinstance(shard, str) else shard or (1, 1))
    except (TypeError, ValueError):
        i, n = 0, 0
    if not 1 <= i <= n:
        raise ValueError(f"Shard {shard!r} is none: give i/N with i from 1 to N, 1/4 to 4/4 for four parts.")
    return i, n


def _holds_files(path: Path) -> bool:
    """Whether there is more than what a run leaves that was killed before it had begun."""
    return any(p.is_file() and p.parent != path / "unfinished" for p in path.rglob("*"))


def _settled(column: pa.Field) -> pa.Field:
    """One type for a column in every chunk, though all its texts may be missing in one of them."""
    texts = pa.types.is_null(column.type) or pa.types.is_large_string(column.type)
    return column.with_type(pa.string()) if texts else column
