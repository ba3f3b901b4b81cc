"""Tasks by name: the bundled models' two, the benchmarks, and your own from a table."""

from __future__ import annotations

import importlib
from pathlib import Path

from .base import Task
from .bundled.tiny import TinyArithmetic, TinyTracking

_BENCHMARKS = {"gsm8k": "GSM8K", "arc_challenge": "ARCChallenge", "commonsense_qa": "CommonsenseQA", "piqa": "PIQA"}
NAMES = ("tiny-arithmetic", "tiny-tracking", *_BENCHMARKS)
"""The tasks that `get` knows."""


def get(name: str, data_dir: str | Path | None = None) -> Task:
    """A task by its name.

    Args:
        name: one of `NAMES`.
        data_dir: where a benchmark's files lie, as JSONL or parquet in the dataset's own schema; by default the
            environment's `KVSTEER_DATA_DIR`, and without that the rows come from the Hugging Face hub.

    Raises:
        ValueError: an unknown name, or a folder without the benchmark's files.

    >>> get("tiny-arithmetic").questions("test", 1)[0].replies["direct"]
    'The answer is 9.'
    """
    if name in _BENCHMARKS:
        return getattr(importlib.import_module(f".{name}", __package__), _BENCHMARKS[name])(data_dir)
    for task in (TinyArithmetic, TinyTracking):
        if task.name == name:
            return task()
    raise ValueError(f"There is no task {name!r}; choose one of: {', '.join(NAMES)}.")
