"""Damaged copies of a file, drawn by chance: bits, pieces and JSON values; and what reading one may do."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

VALUES = (
    *(b"NaN", b"-Infinity", b"1e999", b"1e300", b"-1", b"0", b"1.5", b"9" * 400, b"null", b"true", b'""', b"[]", b"{}"),
    *(
        b'"\\ud83d"',
        b'"\x1b[31m"',
        b'"\\u0000"',
        b'"$x$ <b>"',
        b'"../../etc/passwd"',
        b"[[[[[[1]]]]]]",
        b'{"a": {"a": 1}}',
    ),
    *(b"[" * 3000, b'{"a":' * 3000, b"[" * 200 + b"]" * 200, "\u202e".encode(), b"\xff\xfe", b"\x00" * 64, b"\r\n\r\n"),
)
"""What stands in a mutant where something else stood."""


def mutants(content: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """Copies with a few flipped bits, changed, lost, doubled or moved pieces, a cut end, or other JSON values."""
    rng = random.Random(seed)
    for _ in range(n):
        found = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
            _mutate(found, rng)
        yield bytes(found)


def _mutate(found: bytearray, rng: random.Random) -> None:
    size = len(found) or 1
    start = rng.randrange(size) if rng.random() < 0.5 else rng.randrange(min(size, 2000))  # headers stand at the front
    length = min(rng.choice((1, 2, 8, 64, 512)), size - start)
    piece, kind = bytes(found[start : start + length]), rng.randrange(8)
    if kind == 0 and found:
        found[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        found[start : start + length] = rng.randbytes(length)
    elif kind == 2:
        del found[start : start + length]
    elif kind == 3:
        found[start:start] = piece
    elif kind == 4:
        del found[start + length :]
    elif kind == 5:
        place = rng.randrange(size)
        found[place : place + length] = piece
    else:
        first = max(found.rfind(b":", 0, start), found.rfind(b",", 0, start), found.rfind(b"[", 0, start)) + 1
        ends = [place for mark in b",}]\n" if (place := found.find(mark, max(first, start))) >= 0]
        found[first : min(ends, default=start)] = rng.choice(VALUES)


FORBIDDEN = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
)
_WATCHED = threading.local()


def _watch(event: str, arguments: Any) -> None:
    if event in FORBIDDEN and getattr(_WATCHED, "found", None) is not None:
        _WATCHED.found.append(event)


@contextmanager
def nothing_is_run() -> Iterator[None]:
    """Fails if this thread unpickles, starts a process, or connects to anything meanwhile."""
    if not getattr(_watch, "installed", False):
        sys.addaudithook(_watch)
        _watch.installed = True  # type: ignore[attr-defined]
    _WATCHED.found = []
    try:
        yield
        assert not _WATCHED.found, _WATCHED.found
    finally:
        _WATCHED.found = None


def read_or_refused(read: Callable[[], Any], seconds: float = 20) -> tuple[Any, str]:
    """What reading gives, or the one sentence with which it is refused; anything else fails."""
    begun = time.monotonic()
    try:
        with nothing_is_run():
            return read(), ""
    except (ValueError, OSError) as error:
        said = str(error)
        assert said and "\n" not in said and "\x1b" not in said and len(said) < 2000, repr(said[:3000])
        return None, said
    finally:
        assert time.monotonic() - begun < seconds
