"""One writer at a time: locks between processes, released by the system when their holder dies."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def lock_file(path: Path, *, wait: float = 0.0) -> Iterator[bool]:
    """Hold a lock while the block runs, if it is free or becomes free in time.

    Args:
        path: the lock's own file; it stays there, empty.
        wait: seconds to wait for another holder.

    Yields:
        Whether the lock is held. Where files can't be locked at all (some network drives), that is taken for granted.

    >>> with tempfile.TemporaryDirectory() as folder, lock_file(Path(folder, "lock")) as mine:
    ...     mine
    True
    """
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except NotImplementedError:  # the file system has no locks: go on without one
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def one_writer(folder: Path, *, wait: float = 30.0) -> Iterator[None]:
    """Let one process of this machine at a time write to a folder, without a lock file in it.

    Args:
        folder: which one; it needn't exist yet.
        wait: seconds to wait for another writer.

    Raises:
        OSError: another process is still writing there.
    """
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    place = Path(tempfile.gettempdir(), f"kvsteer-locks-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
    place.mkdir(mode=0o700, exist_ok=True)
    with lock_file(place / key, wait=wait) as mine:
        if not mine:
            raise OSError(f"Another process is writing to {folder}; wait for it, or choose another folder.")
        yield
