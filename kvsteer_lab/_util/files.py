"""Writing files so that a crash, a full disk or Ctrl-C leaves the old file as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError


def write_atomically(path: str | Path, write: Callable[[Path], object], folder: Path | None = None) -> Path:
    """Let `write` fill a temporary file, then put it in place in one step.

    Args:
        path: where the file shall be; missing folders are made.
        write: is given the temporary file's path (with `path`'s suffix) and writes it.
        folder: where the temporary file is, on the same disk; `None`: beside `path`.

    Raises:
        OSError: the folder can't be written or the disk is full; an old file survives unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder or path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise OSError(
            f"Cannot write {path}: {error.strerror or error}. Choose a folder that you can write to."
        ) from error
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise OSError(
            f"Cannot write {path}: {reason}. Nothing was changed there; free some space or choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of one folder: all of them are complete beside their places before the first is put there.

    Raises:
        OSError: the folder can't be written or the disk is full; old files survive unchanged.
    """
    first = next(iter(contents))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=first.parent, prefix=f".{first.stem}-") as folder:
            for path, content in contents.items():
                Path(folder, path.name).write_bytes(content)
            for path in contents:
                os.replace(Path(folder, path.name), path)
    except OSError as error:
        raise OSError(
            f"Cannot write {first}: {error.strerror or error}. Free some space, or choose a folder that you can"
            " write to."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
