"""Writing files so that a crash, a full disk, Ctrl-C or a second writer leaves the old file as it was.

A file is written beside its place, under a hidden name with the writer's process id in it, and then put in place in
one step. What a killed process has left behind is removed by the next one that writes there; what belongs to a process
that still runs is never touched.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[
    :8
]  # process ids mean nothing on another machine that shares the folder
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}(\..+)?", re.DOTALL)


def write_atomically(path: str | Path, write: Callable[[Path], object], folder: Path | None = None) -> Path:
    """Let `write` fill a temporary file, then put it in place in one step.

    A file that is there keeps its permissions; a symbolic link keeps pointing where it does, and the file that it
    points to is replaced. Into something that isn't a regular file (a pipe, `/dev/stdout`, `/dev/null`) the content
    is copied when it is finished.

    Args:
        path: where the file shall be; missing folders are made.
        write: is given the temporary file's path (with `path`'s suffix) and writes it.
        folder: where the temporary file is, on the same disk; `None`: beside `path`.

    Returns:
        `path`.

    Raises:
        OSError: the folder can't be written or the disk is full; an old file survives unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "note.txt"), lambda file: file.write_text("done")).read_text()
    'done'
    """
    path = Path(path)
    try:
        target = _target(path)
        if target is None:
            _write_into(path, write)
            return path
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder or target.parent)
        temporary, mode = _new_file(folder or target.parent, target)
    except IsADirectoryError as error:
        raise _failed(path, error) from error
    except OSError as error:
        raise OSError(
            f"Cannot write {path}: {error.strerror or error}. Choose a folder that you can write to."
        ) from error
    try:
        write(temporary)
        _put_in_place(temporary, mode, target)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
        raise _failed(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_writable(path: str | Path) -> None:
    """Refuse a place where no file can be written, before what shall stand there is computed. Missing folders are made.

    Args:
        path: where the file shall be.

    Raises:
        OSError: it is a folder, or its own folder can't be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_writable(Path(folder, "new", "note.txt"))
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(
            f"Cannot write {path}: {error.strerror or error}. Choose a folder that you can write to."
        ) from error


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of one folder: all of them are complete beside their places before the first is put there.

    Args:
        contents: what each file shall hold, by its path.

    Raises:
        OSError: the folder can't be written or the disk is full; old files survive unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_together({Path(folder, "a.csv"): b"1", Path(folder, "a.txt"): b"2"})
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['a.csv', 'a.txt']
    """
    first = next(iter(contents))
    written: dict[Path, tuple[Path, int]] = {}
    try:
        for folder in {path.parent for path in contents}:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        for path, content in contents.items():
            target = _target(path)
            if target is None:
                raise OSError(f"{path} isn't a regular file")
            written[target] = _new_file(target.parent, target)
            written[target][0].write_bytes(content)
        for target, (temporary, mode) in written.items():
            _put_in_place(temporary, mode, target)
    except OSError as error:
        remedy = "Free some space, or choose a folder that you can write to."
        raise OSError(f"Cannot write {first}: {error.strerror or error}. {remedy}") from error
    finally:
        for temporary, _ in written.values():
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers have died.

    Those of living processes and of other machines stay.
    """
    for name, pid in list(_temporaries(folder)):
        if not _is_alive(pid):
            with suppress(OSError):  # somebody else was quicker
                Path(folder, name).unlink()


def is_temporary(path: Path) -> bool:
    """Whether a file is a temporary one of this module, finished or not."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _temporaries(folder: Path) -> Iterator[tuple[str, int]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and (found := _TEMPORARY.fullmatch(entry.name)) and found[1] == _HOST:
                yield entry.name, int(found[2])


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs under another account
        return True
    return True


def _target(path: Path) -> Path | None:
    """The regular file to replace, links followed; `None` for a pipe, a device and the like."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            return None
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _new_file(folder: Path, target: Path) -> tuple[Path, int]:
    """A new hidden file with the suffix of `target`, and the permissions that the user's umask gives it."""
    stem = os.fsencode(target.stem)[:100].decode(errors="ignore")  # names have at most 255 bytes
    path = folder / f".{stem}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return path, stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def _put_in_place(temporary: Path, mode: int, target: Path) -> None:
    with suppress(FileNotFoundError):
        old = target.stat()
        mode = stat.S_IMODE(old.st_mode)
        if (old.st_uid, old.st_gid) != (temporary.stat().st_uid, temporary.stat().st_gid):
            with suppress(OSError):  # only root can give files away
                os.chown(temporary, old.st_uid, old.st_gid)
    os.chmod(temporary, mode)
    os.replace(temporary, target)


def _write_into(path: Path, write: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, path.name)
        write(temporary)
        with temporary.open("rb") as content, path.open("wb", buffering=0) as place:
            shutil.copyfileobj(content, place)


def _failed(path: Path, error: Exception) -> OSError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return OSError(
        f"Cannot write {path}: {reason}. Nothing was changed there; free some space or choose another place."
    )
