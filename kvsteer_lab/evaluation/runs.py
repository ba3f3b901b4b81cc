"""A run on disk: one folder, finished chunks of questions in it, whatever stops the process that fills it.

    config.json           what the run is (its identity), its chunks, and where it comes from
    rows/00000.parquet    the rows of chunk 0, written in one step; and so on
    unfinished/           locks, and what a killed process left half written; nobody reads it

`pd.read_parquet("run/rows")` and DuckDB's `read_parquet('run/rows/*.parquet')` read it, too. Several processes may
write to one folder: a lock a chunk keeps them from doing the same work.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from .._util.files import write_atomically
from .._util.locks import lock_file
from .chunk_files import Note, read_rows, read_table, write_rows
from .identity import RunIdentity, differences
from .run_config import CONFIG, RunConfig

_REMEDY = "delete this file and run the same command again"
_WAIT = 60.0  # seconds for the folder's lock, which is held for a moment


class OtherRunError(ValueError):
    """A folder holds a run whose texts depend on something else than those that were asked for."""


@dataclass(frozen=True)
class Run:
    """One evaluation in one folder, finished or not.

    Attributes:
        path: the folder.
        identity: everything that the texts and their readings depend on.
        chunks: ids of the questions of each chunk, in order.
        labels: of the interventions.
        samples: replies to each question under each intervention.
        settings: what a table's heading tells of the run; recorded, never compared.
        provenance: date, commit and versions; recorded, never compared.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = Run(Path(folder), RunIdentity({"seed": 0}), (("q1",), ("q2",)), ("baseline",)).begin()
    ...     run.missing()
    [0, 1]
    """

    path: Path
    identity: RunIdentity = field(repr=False)
    chunks: tuple[tuple[str, ...], ...] = field(repr=False)
    labels: tuple[str, ...]
    samples: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def begin(self) -> Run:
        """Begin this run in its folder, new or empty, or go on with the one that is there.

        A run that is there keeps its own chunks, settings and provenance. If only its readings differ, its folder is
        marked with the new ones, and its chunks are `stale` until their texts have been read again.

        Returns:
            The run as it is in the folder.

        Raises:
            ValueError: the folder holds another run, something else, or a damaged file of this run.
            OSError: the folder can't be written.
        """
        self._check_folder()
        try:
            for folder in (self.path / "rows", self.path / "unfinished"):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"Cannot write {self.path}: {reason}. Choose a folder that you can write to.") from error
        with self.lock():
            if not (self.path / CONFIG).is_file():
                self._write_config()
                return self
            there = Run.load(self.path)
            there.check_same(self.identity.texts)
            if there.identity.readings_hash == self.identity.readings_hash:
                return there
            now = replace(there, identity=self.identity)
            now._write_config()
            return now

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """A run that was begun before; each of its files is read and checked.

        Args:
            path: the folder.

        Raises:
            ValueError: no run there, or a damaged or foreign file in it.
        """
        path = Path(path)
        config = RunConfig.read(path)
        run = cls(path, config.run_identity, **{name: getattr(config, name) for name in RunConfig.OF_RUN})
        for chunk in run.written:
            run.table(chunk)
        return run

    @property
    def hash(self) -> str:
        """SHA-256 of what the texts depend on; runs that share it generate the same texts."""
        return self.identity.texts_hash

    @property
    def written(self) -> list[int]:
        """The chunks whose rows are there, read with whatever rules."""
        return [chunk for chunk in range(len(self.chunks)) if self.file(chunk).is_file()]

    @property
    def stale(self) -> list[int]:
        """The chunks whose texts were read with other rules than this run's."""
        return [chunk for chunk in self.written if self._note(chunk).readings != self._readings]

    @property
    def finished(self) -> list[int]:
        """The chunks whose rows are there, read with this run's rules."""
        return [chunk for chunk in self.written if self._note(chunk).readings == self._readings]

    @property
    def complete(self) -> bool:
        """Whether every chunk is finished."""
        return len(self.finished) == len(self.chunks)

    def missing(self, shard: tuple[int, int] = (1, 1)) -> list[int]:
        """The chunks of a shard whose texts are still to be generated.

        Shard i of N has every N-th chunk, beginning with the i-th; shards count from 1.
        """
        i, n = shard
        return [chunk for chunk in range(i - 1, len(self.chunks), n) if not self.file(chunk).is_file()]

    def file(self, chunk: int) -> Path:
        """Where the rows of a chunk are, or will be."""
        return self.path / "rows" / f"{chunk:05d}.parquet"

    @contextmanager
    def claim(self, chunk: int) -> Iterator[bool]:
        """Whether this process alone works on a chunk while the block runs; a dead process's claim is void."""
        with lock_file(self.path / "unfinished" / f"chunk-{chunk:05d}.lock") as mine:
            yield mine

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that changes what the folder is while the block runs.

        Raises:
            OSError: another process has held the lock for a minute.
        """
        with lock_file(self.path / "unfinished" / "folder.lock", wait=_WAIT) as mine:
            if not mine:
                raise OSError(f"Another process is writing to {self.path}; wait for it, or choose another folder.")
            yield

    def write(self, chunk: int, rows: pd.DataFrame) -> Path:
        """Add the rows of one chunk, all at once.

        Raises:
            ValueError: rows of other questions, interventions or samples than the chunk's.
            OSError: the folder can't be written or the disk is full; what was there is unchanged.
        """
        self._check_keys(chunk, rows, "the rows to be written")
        note = Note(run=self.hash, readings=self._readings, chunk=chunk)
        return self._put(chunk, lambda temporary: write_rows(temporary, rows, note))

    def adopt(self, chunk: int, file: Path) -> Path:
        """Copy the rows of a chunk from another folder of the same run."""
        return self._put(chunk, lambda temporary: shutil.copyfile(file, temporary))

    def table(self, chunk: int) -> pa.Table:
        """The rows of one chunk.

        Raises:
            ValueError: the file is truncated, damaged, or belongs to another run or chunk.
        """
        file = self.file(chunk)
        try:
            table, note = read_table(file)
        except ValueError as error:
            raise ValueError(f"{file} is truncated or damaged ({error}); {_REMEDY}.") from error
        if (note.run, note.chunk) != (self.hash, chunk):
            raise ValueError(f"{file} belongs to another run or chunk; {_REMEDY}.")
        self._check_keys(chunk, table.to_pandas(), f"{file}")
        return table

    def rows(self, chunk: int) -> pd.DataFrame:
        """The rows of one chunk, whatever rules read them."""
        return read_rows([self.table(chunk)])

    def read(self) -> pd.DataFrame:
        """All rows that are finished, in the order of the run's questions, whoever computed which."""
        return read_rows([self.table(chunk) for chunk in self.finished])

    def check_same(self, texts: Mapping[str, Any]) -> None:
        """Raise an `OtherRunError` that names what differs unless the texts of this run depend on the same."""
        if RunIdentity(texts).texts_hash != self.hash:
            found = differences(self.identity.texts, texts)
            raise OtherRunError(f"{self.path} holds another run: {found}. Choose another folder, or ask for the same.")

    @cached_property
    def _readings(self) -> str:
        return self.identity.readings_hash

    def _note(self, chunk: int) -> Note:
        try:
            return Note.of(self.file(chunk))
        except ValueError as error:
            raise ValueError(f"{self.file(chunk)} is truncated or damaged ({error}); {_REMEDY}.") from error

    def _check_folder(self) -> None:
        """Refuse a folder that holds something else than a run, or what a run leaves that was killed as it began."""
        if (self.path / CONFIG).is_file() or not self.path.exists():
            return
        unfinished = self.path / "unfinished"
        if not self.path.is_dir() or any(p.is_file() and p.parent != unfinished for p in self.path.rglob("*")):
            raise ValueError(
                f"{self.path} holds something else than a run of kvsteer_lab; choose a new or empty folder."
            )

    def _write_config(self) -> None:
        config = RunConfig.of(self.identity, {name: getattr(self, name) for name in RunConfig.OF_RUN})
        write_atomically(self.path / CONFIG, config.write, self.path / "unfinished")

    def _put(self, chunk: int, write: Any) -> Path:
        return write_atomically(self.file(chunk), write, self.path / "unfinished")

    def _check_keys(self, chunk: int, rows: pd.DataFrame, where: str) -> None:
        """Each question of the chunk under each intervention with each sample, once."""
        expected = {
            (q, label, sample) for q in self.chunks[chunk] for label in self.labels for sample in range(self.samples)
        }
        found = list(zip(rows["question"], rows["intervention"], map(int, rows["sample"]), strict=True))
        if len(found) == len(expected) and set(found) == expected:
            return
        other = sorted(set(found) ^ expected, key=str) or sorted(
            {key for key in found if found.count(key) > 1}, key=str
        )
        question, label, sample = other[0]
        raise ValueError(
            f"Chunk {chunk} and {where} differ in {len(other)} replies, {label!r} to question {question!r} (sample"
            f" {sample}) among them; delete what was written and run again."
        )


def parse_shard(shard: str | tuple[int, int] | None) -> tuple[int, int]:
    """`"2/4"` or `(2, 4)` as numbers: the second of four parts; `None` is the whole.

    Raises:
        ValueError: something else, or a shard that isn't between 1 and N.

    >>> parse_shard("2/4")
    (2, 4)
    """
    try:
        i, n = map(int, shard.split("/") if isinstance(shard, str) else shard or (1, 1))
    except (TypeError, ValueError):
        i, n = 0, 0
    if not 1 <= i <= n:
        raise ValueError(f"The shard {shard!r} isn't one: give i/N with i from 1 to N, 1/4 to 4/4 for four parts.")
    return i, n
