"""The file that traces are written to, line by line, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from ..._util.files import write_atomically
from ..._util.json import read_json
from ..._util.locks import lock_file

FORMAT = "kvsteer_lab.traces.1"
KEPT = "kept"
_LONGEST_HEADER = 100_000


def is_header(row: Mapping[str, Any]) -> bool:
    """Whether a line is the header of a file that `kv.traces.write_traces` wrote."""
    return row.get("format") == FORMAT


def holds_traces(path: str | Path) -> bool:
    """Whether `kv.traces.write_traces` wrote this file.

    >>> holds_traces("/a/file/that/is/not/there")
    False
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            return is_header(read_json(file.readline(_LONGEST_HEADER), what="The header"))
    except (OSError, ValueError, AttributeError):
        return False


def lines_of(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; a byte-order mark and empty lines are passed over.

    A last line that the writing of a trace left half finished is dropped. A file that holds one JSON array instead is
    read, too; its objects are numbered from 1.

    Args:
        path: the file.

    Raises:
        ValueError: no such file, or a line that isn't a JSON object.
    """
    try:
        text = Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except IsADirectoryError as error:
        names = ", ".join(sorted(file.name for file in Path(path).expanduser().glob("*.json*"))[:5])
        raise ValueError(f"{path} is a folder; name the file of traces in it{names and ': '}{names}.") from error
    except OSError as error:
        raise ValueError(f"There are no traces at {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    if text.lstrip().startswith("["):
        rows = read_json(text, what=str(path))
        return [(number, _object(row, f"Object {number} of {path}")) for number, row in enumerate(rows, 1)]
    # Not splitlines: texts may hold characters that it takes for the end of a line.
    lines = text.split("\n")
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number == len(lines) and found and is_header(found[0][1]):
            break  # without the end of its line: cut off while it was written
        where = f"Line {number} of {path}"
        try:
            row = read_json(line, what=where)
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; write one trace a line.") from error
        found.append((number, _object(row, where)))
    return found


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is a {type(row).__name__} and not a JSON object; write one trace a line.")
    return row


class Journal:
    """Appends rows to a file under a header that says what they are of.

    Args:
        path: the file; it is written by `append`, not before.
        header: what all of the file's rows have in common.

    Raises:
        ValueError: the file is another one's: no header, or one that differs.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path).expanduser()
        self.header = {"format": FORMAT, **header}
        self.rows = self._read()
        """The rows in the file, as of now; once the journal is entered, nobody else adds any."""

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return []
        found = lines_of(self.path)
        if not found or not is_header(found[0][1]):
            raise ValueError(
                f"{self.path} holds something else than traces of kv.traces.write_traces; choose another file."
            )
        was = found[0][1]
        if other := [key for key in self.header if was.get(key) != self.header[key]]:
            told = ", ".join(f"{key} {was.get(key)!r}, not {self.header[key]!r}" for key in other)
            raise ValueError(f"{self.path} was begun with {told}; choose another file, or ask as before.")
        return [row for _, row in found[1:]]

    def __enter__(self) -> Journal:
        with ExitStack() as held:
            self._take_lock(held)
            self.rows = self._read()
            if not self.path.exists() or self.path.stat().st_size == 0:
                write_atomically(self.path, lambda temporary: temporary.write_bytes(_line(self.header)))
            self._file = held.enter_context(self.path.open("r+b", buffering=0))
            whole = self._file.read()
            self._file.truncate(whole.rfind(b"\n") + 1)
            self._file.seek(0, os.SEEK_END)
            self._held = held.pop_all()
        return self

    def _take_lock(self, held: ExitStack) -> None:
        """Lock a hidden file beside the journal, which itself is replaced when it is begun."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_mine = held.enter_context(lock_file(lock))
        except OSError as error:
            raise OSError(
                f"Cannot write {self.path}: {error.strerror or error}. Choose a folder that you can write to."
            ) from error
        if not is_mine:
            raise ValueError(f"Another process is writing to {self.path}; wait for it, or choose another file.")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row and see it onto the disk.

        Raises:
            OSError: the disk is full; the rows before are kept.
        """
        line, start = _line(row), self._file.tell()
        try:
            written = self._file.write(line)  # one call of the system: Ctrl-C can't cut it in two
            os.fsync(self._file.fileno())
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(start)
            self._file.seek(start)
            raise OSError(
                f"Cannot write to {self.path}: {error.strerror}. Free some space; the same call goes on from there."
            ) from error

    def ids(self) -> set[str]:
        """The ids of the questions that are answered in the file by now."""
        return {str(row.get("id")) for _, row in lines_of(self.path) if not is_header(row)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()
