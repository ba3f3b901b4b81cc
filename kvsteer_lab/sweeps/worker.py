"""A worker process on this machine: `python -m kvsteer_lab.sweeps.worker` reads a unit a line and answers each.

It keeps its model between units, and ends when its parent closes the pipe, however the parent ended.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from .units import run_unit


def serve(work: Callable[[str], str | None]) -> None:
    """Answer each line of the standard input with one line of JSON.

    Args:
        work: what is done with a line.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is printed on the way goes to the log
    for line in sys.stdin:
        answer: dict[str, str | None]
        try:
            answer = {"refused": work(line)}
        except Exception as error:  # whatever it is, the unit is named and the worker lives on
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(run_unit)
