"""One lock for all use of a model in this process."""

from __future__ import annotations

import threading

LOCK = threading.RLock()


"""Held around all use of a model: nnsight is not thread-safe, and neither is a cache."""
