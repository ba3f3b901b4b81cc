"""Tasks by name: the bundled models' two, the benchmarks, and your own from a table."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import Chat, Extractor, Message, Question, Task

if TYPE_CHECKING:
    from .frame import from_frame

_BENCHMARKS = {"gsm8k": "GSM8K", "arc_challenge": "ARCChallenge", "commonsense_qa": "CommonsenseQA", "piqa": "PIQA"}
NAMES = ("tiny-arithmetic", "tiny-tracking", *_BENCHMARKS)
"""The tasks that `get` knows."""

__all__ = ["NAMES", "Chat", "Extractor", "Message", "Question", "Task", "from_frame", "get"]


def get(name: str, data_dir: str | Path | None = None) -> Task:
    """A task by its name.

    Args:
        name: one of `NAMES`.
        data_dir: where a benchmark's files lie, as JSONL or parquet in the dataset's own schema; by default the environment's
            `KVSTEER_DATA_DIR`, and without that the rows come from the Hugging Face hub.

    Raises:
        ValueError: an unknown name, or a folder without the benchmark's files.
    """
    if name in _BENCHMARKS:
        return getattr(importlib.import_module(f".{name}", __name__), _BENCHMARKS[name])(data_dir)
    from .tiny import TinyArithmetic, TinyTracking

    for task in (TinyArithmetic, TinyTracking):
        if task.name == name:
            return task()
    raise ValueError(f"There is no task {name!r}; choose one of: {', '.join(NAMES)}.")


def __getattr__(name: str) -> Any:
    if name == "from_frame":  # loaded on first use: it needs pandas
        from .frame import from_frame

        return from_frame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
