"""The file that traces are written to, line by line, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..._util.files import write_atomically

FORMAT = "kvsteer_lab.traces.1"
KEPT = "kept"


def is_header(row: Mapping[str, Any]) -> bool:
    """Whether a line is the header of a file that `kv.traces.write_traces` wrote."""
    return row.get("format") == FORMAT


def holds_traces(path: str | Path) -> bool:
    """Whether `kv.traces.write_traces` wrote this file."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return is_header(json.loads(file.readline()))
    except (OSError, ValueError, AttributeError):
        return False


def lines_of(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; empty lines are passed over.

    A last line that the writing of a trace left half finished is dropped.

    Raises:
        ValueError: no such file, or a line that holds no JSON object.
    """
    try:
        # Not splitlines: texts may hold characters that it takes for the end of a line.
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"There are no traces at {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number == len(lines) and found and is_header(found[0][1]):
            break  # without the end of its line: cut off while it was written
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a {type(row).__name__} instead")
        except ValueError as error:
            raise ValueError(f"Line {number} of {path} is no JSON object ({error}); write one trace a line.") from error
        found.append((number, row))
    return found


class Journal:
    """Appends rows to a file under a header that says what they are of.

    Args:
        path: the file; it is written by `append`, not before.
        header: what all of the file's rows have in common.

    Raises:
        ValueError: the file is another one's: no header, or one that differs.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.header = {"format": FORMAT, **header}
        self.rows: list[dict[str, Any]] = []
        if self.path.exists() and self.path.stat().st_size > 0:
            found = lines_of(self.path)
            if not found or not is_header(found[0][1]):
                raise ValueError(
                    f"{path} holds something else than traces of kv.traces.write_traces; choose another file."
                )
            was = found[0][1]
            if other := [key for key in self.header if was.get(key) != self.header[key]]:
                told = ", ".join(f"{key} {was.get(key)!r}, not {self.header[key]!r}" for key in other)
                raise ValueError(f"{path} was begun with {told}; choose another file, or ask as before.")
            self.rows = [row for _, row in found[1:]]

    def __enter__(self) -> Journal:
        if not self.path.exists() or self.path.stat().st_size == 0:
            write_atomically(self.path, lambda temporary: temporary.write_bytes(_line(self.header)))
        self._file = self.path.open("r+b", buffering=0)
        if not _lock(self._file):
            self._file.close()
            raise ValueError(f"Another process is writing to {self.path}; wait for it, or choose another file.")
        whole = self._file.read()
        self._file.truncate(whole.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)
        return self

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
        self._file.close()


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _lock(file: io.FileIO) -> bool:
    """Whether this process alone may write; where files can't be locked (on Windows) that is taken for granted."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
