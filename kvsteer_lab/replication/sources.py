"""Where a task's demonstrations come from: its own human steps, or the traces of a teacher."""

from __future__ import annotations

import os
from pathlib import Path

from ..tasks.base import Task
from ..tasks.catalogue import get
from ..tasks.traces.reading import Traces
from ..tasks.traces.task import with_traces

STYLE = "stepwise"
"""The style whose vectors are tested: GSM8K's human steps, and what the traces of a teacher are called."""


def with_demonstrations(name: str, data_dir: Path | None, traces: Path | None) -> Task:
    """A task whose extraction questions have replies in `STYLE`.

    GSM8K and the bundled tasks have their own. The others take `NAME.jsonl` from the folder of traces: correct replies
    of a teacher to questions of the extraction split, as `kv.traces.Traces.load` reads them.

    Args:
        name: of the task.
        data_dir: folder with the benchmark's files.
        traces: folder with the traces; `None`: `traces` in the folder of the data.

    Raises:
        ValueError: an unknown task, or one without replies in that style and without traces.
    """
    task = get(name, data_dir)
    folder = traces or (Path(data_dir or os.environ.get("KVSTEER_DATA_DIR") or ".") / "traces")
    file = Path(folder) / f"{name}.jsonl"
    if STYLE in task.styles and not file.is_file():
        return task
    if not file.is_file():
        raise ValueError(
            f"Task {name!r} has no replies in style {STYLE!r}, and there are no traces at {file}; have them written"
            f" (kvsteer traces --task {name} --out {file}) or name their folder."
        )
    return with_traces(task, Traces.load(file))
