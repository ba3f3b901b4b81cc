"""Tasks by name: the bundled models' two, and benchmarks read from files."""

from __future__ import annotations

from pathlib import Path

from .base import Chat, Message, Question, Task

NAMES = ("tiny-arithmetic", "tiny-tracking", "gsm8k")

__all__ = ["NAMES", "Chat", "Message", "Question", "Task", "get"]


def get(name: str, data_dir: str | Path | None = None) -> Task:
    """A task by its name.

    Args:
        name: one of `NAMES`.
        data_dir: where a benchmark's files lie; by default the environment's `KVSTEER_DATA_DIR`.

    Raises:
        ValueError: an unknown name, or no data for a benchmark.
    """
    if name == "gsm8k":
        from .gsm8k import GSM8K

        return GSM8K(data_dir)
    from .tiny import TinyArithmetic, TinyTracking

    for task in (TinyArithmetic, TinyTracking):
        if task.name == name:
            return task()
    raise ValueError(f"There is no task {name!r}; choose one of: {', '.join(NAMES)}.")
