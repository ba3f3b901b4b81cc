"""One chapter on one model: run by papermill, or taken from before; written as notebook and HTML."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter

from .._util.files import write_atomically
from .adapting import adapt
from .chapters import Chapter

KERNEL = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""The environment that chapters run in: no chatter in their outputs."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300  # letters of an error that are told


@dataclass(frozen=True)
class Record:
    """What came of a chapter; it lies in the metadata of the executed notebook.

    Attributes:
        source: hash of the chapter's cells.
        parameters: those that were set; all else is as it stands in the chapter.
        fingerprint: of the model.
        version: of kvsteer_lab.
        seconds: how long it ran.
        cpu_seconds: of one core that its kernel used.
        figures: names of those that it saved.
        error: what stopped it, in one line; empty if nothing did.
    """

    source: str
    parameters: dict[str, Any]
    fingerprint: str
    version: str
    seconds: float = 0.0
    figures: tuple[str, ...] = ()
    error: str = ""
    cpu_seconds: float = 0.0

    def same_work(self, other: Record) -> bool:
        """Whether the same cells ran with the same parameters on the same weights."""
        return all(
            getattr(self, part) == getattr(other, part) for part in ("source", "parameters", "fingerprint", "version")
        )


def read_record(out: Path, chapter: Chapter) -> Record | None:
    """What came of a chapter before, if its notebook, its page and its figures are all there."""
    try:
        told = nbformat.read(out / "notebooks" / chapter.path.name, 4).metadata["kvsteer_lab"]
        record = TypeAdapter(Record).validate_json(json.dumps(told), strict=True)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    there = [
        (out / "html" / f"{chapter.name}.html").is_file(),
        *((out / "figures" / f"{name}.png").is_file() for name in record.figures),
    ]
    return record if all(there) else None


def run_chapter(chapter: Chapter, out: Path, work: Record, progress: bool = True, name: str = "") -> Record:
    """Run a chapter from the top and write what it shows, errors included.

    Args:
        chapter: which one.
        out: folder of the reproduction; `notebooks/`, `html/` and `figures/` in it are written.
        work: what shall be done, as a record without results.
        progress: show a bar of its cells.
        name: what the model is called in the chapter; by default what it is loaded by.
    """
    figures, runs = out / "figures", out / "runs" / chapter.name
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.glob(f"{chapter.number}_*"):
        old.unlink()
    began, used = time.perf_counter(), _used_by_kernels()
    adapted = adapt(chapter, work.parameters, name or str(work.parameters.get("MODEL", "")))
    notebook, error = _execute(chapter, adapted, figures, runs, progress)
    made = tuple(sorted(path.stem for path in figures.glob(f"{chapter.number}_*.png")))
    record = replace(
        work,
        seconds=round(time.perf_counter() - began, 1),
        cpu_seconds=round(_used_by_kernels() - used, 1),
        figures=made,
        error=error,
    )
    page, _ = HTMLExporter().from_notebook_node(notebook)
    write_atomically(out / "html" / f"{chapter.name}.html", lambda file: file.write_text(page, encoding="utf-8"))
    notebook.metadata["kvsteer_lab"] = asdict(record)
    # last: its being there says that all is
    write_atomically(out / "notebooks" / chapter.path.name, lambda file: nbformat.write(notebook, file))
    if not error:
        shutil.rmtree(runs, ignore_errors=True)  # kept only for a chapter that has to be run again
    return record


def _execute(
    chapter: Chapter, adapted: NotebookNode, figures: Path, runs: Path, progress: bool
) -> tuple[NotebookNode, str]:
    places = {"KVSTEER_FIGURES": str(figures.resolve()), "KVSTEER_RUNS": str(runs.resolve())}
    with tempfile.TemporaryDirectory() as folder, environment({**KERNEL, **places}):
        source, target = Path(folder, "adapted.ipynb"), Path(folder, chapter.path.name)
        nbformat.write(adapted, source)
        error = ""
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                kernel_name="python3",
                language="python",
                cwd=str(chapter.path.parent),
                progress_bar=progress,
                extra_arguments=["--log-level=ERROR"],  # the kernel's own chatter
            )
        except PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
        except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        notebook = nbformat.read(target if target.is_file() else source, 4)
    error = " ".join(_ANSI.sub("", error).split())
    return notebook, error if len(error) <= _LONGEST else error[: _LONGEST - 1] + "…"


def _used_by_kernels() -> float:
    """Seconds of one core that the processes begun here have used, of those that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for as long as the block runs."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
