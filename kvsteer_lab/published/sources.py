"""The JSON files below a folder or in a tar archive, as bytes. What can't or mustn't be read is named, and the rest
goes on.

Nothing is written, no link is followed, and a name counts only as a label: no path from inside a tree or an archive is
ever opened as such.
"""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DEEPEST = 16
"""Folders within folders that are looked into."""

LARGEST = 1 << 30
"""The most bytes that one file may have."""


@dataclass(frozen=True)
class Problem:
    """A file that was skipped, or something in it that could not be checked.

    Attributes:
        file: its path below the root, control characters spelt out.
        reason: a sentence without its subject, "is empty".
        matters: whether it could have been a result; a README is named, too, but doesn't.
        opened: whether it is a JSON file that was read and should have been a run.

    Examples:
        >>> import kvsteer_lab as kv
        >>> print(kv.published.Problem("a.json", "is empty"))
        a.json is empty
    """

    file: str
    reason: str
    matters: bool = True
    opened: bool = False

    def __str__(self) -> str:
        return f"{self.file} {self.reason}"


@dataclass(frozen=True)
class Source:
    """One JSON file: its name below the root, and its bytes."""

    file: str
    data: bytes


def count_sources(path: str | Path) -> int | None:
    """How many JSON files there are, for a progress bar; `None` for an archive, where counting would mean unpacking.

    Raises:
        ValueError: neither a folder nor a tar archive.
    """
    root = check_root(path)
    return None if root.is_file() else sum(isinstance(found, Path) for found in _walk(root))


def check_root(path: str | Path) -> Path:
    """The folder or archive that `path` names.

    Raises:
        ValueError: there is nothing, or something else.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"There is nothing at {shown(str(path))}; give the folder of the release, or its .tar.xz.")
    if not root.is_dir() and not (root.is_file() and tarfile.is_tarfile(root)):
        raise ValueError(
            f"{shown(str(path))} is neither a folder nor a tar archive; give the folder of the release, or its .tar.xz."
        )
    return root


def iterate_sources(path: str | Path) -> Iterator[Source | Problem]:
    """The JSON files of a folder or an archive in the order of their names, and the problems among them.

    Raises:
        ValueError: neither a folder nor a tar archive.
    """
    root = check_root(path)
    if root.is_file():
        yield from _members(root)
        return
    for found in _walk(root):
        yield found if isinstance(found, Problem) else _read(found, shown(found.relative_to(root).as_posix()))


def shown(name: str) -> str:
    """A name that is safe to print: what isn't printable is spelt out as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def _walk(root: Path) -> Iterator[Path | Problem]:
    """Regular files that end in .json, depth first in the order of names; everything else as a problem."""
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        name = shown(folder.relative_to(root).as_posix())
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Problem(name, f"can't be looked into ({error.strerror})")
            continue
        folders = []
        for entry in found:
            inside = Path(entry.path)
            label = shown(inside.relative_to(root).as_posix())
            refused = _refusal(entry.name)
            if entry.is_symlink():
                yield Problem(label, "is a link; links are not followed")
            elif refused:
                yield Problem(label, refused)
            elif entry.is_dir(follow_symlinks=False):
                if depth + 1 > DEEPEST:
                    yield Problem(label, f"lies more than {DEEPEST} folders deep; nothing deeper is read")
                else:
                    folders.append((inside, depth + 1))
            elif not entry.is_file(follow_symlinks=False):
                yield Problem(label, "is not a regular file")
            elif inside.suffix.lower() != ".json":
                yield Problem(label, "is not a .json file", matters=False)
            else:
                yield inside
        waiting += reversed(folders)


def _read(path: Path, label: str) -> Source | Problem:
    try:
        handle = os.open(
            path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Problem(label, "is not a regular file")
            if status.st_size > LARGEST:
                return Problem(label, f"is larger than {LARGEST >> 20} MiB")
            return Source(label, file.read())
    except OSError as error:
        return Problem(label, f"can't be read ({error.strerror})")


def _members(archive: Path) -> Iterator[Source | Problem]:
    """The members of an archive, read one after the other and never unpacked to disk."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                label, path = shown(member.name), PurePosixPath(member.name)
                refused = next((reason for part in path.parts if (reason := _refusal(part))), None)
                if member.isdir() and not refused:
                    continue
                if path.is_absolute() or ".." in path.parts:
                    yield Problem(label, "has a path that leads out of the archive")
                elif member.issym() or member.islnk():
                    yield Problem(label, "is a link; links are not followed")
                elif refused:
                    yield Problem(label, refused)
                elif len(path.parts) > DEEPEST + 1:
                    yield Problem(label, f"lies more than {DEEPEST} folders deep; nothing deeper is read")
                elif not member.isfile():
                    yield Problem(label, "is not a regular file")
                elif path.suffix.lower() != ".json":
                    yield Problem(label, "is not a .json file", matters=False)
                elif member.size > LARGEST:
                    yield Problem(label, f"is larger than {LARGEST >> 20} MiB")
                else:
                    content = tar.extractfile(member)
                    yield Source(label, content.read() if content else b"")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        yield Problem(shown(archive.name), f"is damaged; what comes before the damage was read ({error})")


def _refusal(name: str) -> str | None:
    return None if name.isprintable() else "has control characters in its name"
