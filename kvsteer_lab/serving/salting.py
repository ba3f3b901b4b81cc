"""Which cached blocks a steered request may share: those before the edited slot, which hold what any request would put
there. The edited block and all behind it get hashes of their own.

The salt is a nonce a request, not a digest of what it asks: a block is entered into the prefix cache when it is
scheduled, and edited after the step that fills it. Of several equal requests in one step, all but the first would find
the block by its digest and read it before it is edited.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

Hasher = Callable[[Any], Sequence[bytes]]
"""Gives a request's new block hashes, those after `request.block_hashes`, each chained to the one before."""


def first_own_block(position: int, block_size: int) -> int:
    """The first block that is the request's own: the one that holds the edited slot.

    >>> first_own_block(31, 32), first_own_block(32, 32)
    (0, 1)
    """
    return position // block_size


def salted(hasher: Hasher, first: int, nonce: bytes | None = None) -> Hasher:
    """A hasher whose hashes, from a block on, no other request has.

    Args:
        hasher: the engine's own.
        first: the first block whose hash is salted; those before stay shared.
        nonce: the salt; by default 16 random bytes.

    >>> from types import SimpleNamespace
    >>> own = salted(lambda request: [b"block 0", b"block 1"], first=1)
    >>> hashes = own(SimpleNamespace(block_hashes=[]))
    >>> hashes[0], hashes[1] == b"block 1"
    (b'block 0', False)
    """
    salt = os.urandom(16) if nonce is None else nonce

    def hash_blocks(request: Any) -> list[bytes]:
        start = len(request.block_hashes)
        return [
            found if start + i < first else type(found)(hashlib.sha256(found + salt).digest())
            for i, found in enumerate(hasher(request))
        ]

    return hash_blocks
