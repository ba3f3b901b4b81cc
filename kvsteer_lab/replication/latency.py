"""What a token costs under each method, one reply at a time, side by side."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pandas as pd

from .._util.files import write_atomically
from ..generation.generate import generate_all
from ..models.model import Model
from ..tasks.base import Task
from .choosing import Chosen

_SHORT, _LONG = 4, 20
_REPEATS = 3


def measure_latency(model: Model, task: Task, chosen: Chosen, place: Path) -> None:
    """Write processor seconds a new token under each method, and their ratio to the baseline's, unless they are there.

    Replies of 4 and of 20 tokens to one development question; the difference leaves out the prompt. Methods take turns,
    and the median of three turns counts. Processor time is measured, for a busy machine stretches the other.

    Args:
        model, task: who is asked what.
        chosen: the methods.
        place: a CSV file: `intervention`, `cpu_s_a_token`, `ratio`.
    """
    if place.is_file():
        return
    chat = task.chat(task.questions("dev", 1, 0)[0])
    methods = [*chosen.arms, chosen.last]
    spent: dict[str, list[float]] = {method.label: [] for method in methods}
    for _ in range(_REPEATS):
        for method in methods:
            took = []
            for new in (_SHORT, _LONG):
                start = time.process_time()
                generate_all(model, chat, method, generation={"max_new_tokens": new, "min_new_tokens": new})
                took.append(time.process_time() - start)
            spent[method.label].append((took[1] - took[0]) / (_LONG - _SHORT))
    table = pd.DataFrame(
        [(label, statistics.median(each)) for label, each in spent.items()], columns=["intervention", "cpu_s_a_token"]
    )
    plain = float(table.cpu_s_a_token[table.intervention == "baseline"].iloc[0])
    table["ratio"] = table.cpu_s_a_token / plain
    write_atomically(place, lambda file: table.to_csv(file, index=False))
