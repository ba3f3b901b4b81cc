"""All chapters on another model, in a folder that a stopped run can go on with."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from .._util.files import write_atomically
from .._util.json import read_json
from .._util.locks import one_writer
from .._util.provenance import provenance
from .._version import __version__
from ..models.fingerprint import compare_fingerprints
from ..models.loading import BUNDLED, load
from ..tasks import get
from .chapters import Chapter, find_chapters
from .page import write_page
from .parameters import check_parameters
from .running import Record, read_record, run_chapter

ABOUT = "reproduction.json"
_WAIT = 2.0  # seconds for another process that is about to end


@dataclass(frozen=True)
class Reproduction:
    """What came of the chapters that were asked for.

    Attributes:
        index: the page that shows them.
        records: by the chapter's name.
    """

    index: Path
    records: dict[str, Record]

    @property
    def failures(self) -> dict[str, str]:
        """What stopped the chapters that didn't get to their end."""
        return {name: record.error for name, record in self.records.items() if record.error}


def reproduce(
    model: str,
    out: str | Path,
    *,
    task: str = "tiny-arithmetic",
    notebooks: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    say: Callable[[str], object] = print,
    progress: bool = True,
) -> Reproduction:
    """Run the numbered notebooks on a model, and write them as notebooks, HTML, figures and a page that shows them all.

    A chapter that was run to its end before, with the same cells, parameters, weights and package version, isn't run
    again; one that failed is. After each, the page is written anew.

    Args:
        model: anything that `kv.load` takes by name.
        out: the folder.
        task: anything that `kv.tasks.get` takes.
        notebooks: numbers or names of those to run; all of them by default.
        parameters: values for variables of the chapters' cells of parameters, such as `{"CK": 0.3, "CV": 6}`; each goes
            to every chapter that has it. They are kept with what was run: a chapter that ran with other ones runs
            again.
        say: is told of each chapter when it begins and ends.
        progress: show bars.

    Raises:
        ValueError: no such model, task, notebook or parameter, or the folder holds something else. Nothing was written.
        UnsteerableModelError: the model's cache can't be steered.
        OSError: the folder can't be written, or another process is writing there.

    >>> reproduce("tiny", "runs/reproduction", parameters={"CV": 6, "WHATEVER": 1})
    ... # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ValueError: No notebook that is to run has a parameter 'WHATEVER'
    """
    out, chapters = Path(out), find_chapters(notebooks)
    get(task)
    asked = dict(parameters or {})
    check_parameters(asked, chapters)
    source = model if model in BUNDLED or not Path(model).is_dir() else str(Path(model).resolve())
    about = _describe(source, task)
    _refuse_other(out, about)
    with one_writer(out, wait=_WAIT):
        _refuse_other(out, about)  # again: another process may have begun meanwhile
        write_atomically(out / ABOUT, lambda file: file.write_text(json.dumps(about, indent=2) + "\n"))
        return _run_all(chapters, out, about, {"MODEL": source, "TASK": task, **asked}, say, progress)


def _run_all(
    chapters: Sequence[Chapter],
    out: Path,
    about: Mapping[str, str],
    parameters: Mapping[str, Any],
    say: Callable[[str], object],
    progress: bool,
) -> Reproduction:
    every = find_chapters()
    records = {chapter.name: record for chapter in every if (record := read_record(out, chapter))}
    for number, chapter in enumerate(chapters, 1):
        given = {name: value for name, value in parameters.items() if name in chapter.parameters}
        work = Record(chapter.source, given, about["fingerprint"], __version__)
        place, before = f"[{number}/{len(chapters)}] {chapter.name}", records.get(chapter.name)
        if before is not None and before.same_work(work) and not before.error:
            say(f"{place}: done before, {before.seconds:.0f} s")
            continue
        again = "" if before is None or before.parameters == given else " again, with other parameters"
        say(f"{place}: running{again}")
        records[chapter.name] = record = run_chapter(chapter, out, work, progress)
        took = f"{record.seconds:.0f} s"
        say(f"{place}: {f'failed after {took}: {record.error}' if record.error else f'done, {took}'}")
        write_page(out, about, every, records)
    index = write_page(out, about, every, records)
    return Reproduction(index, {chapter.name: records[chapter.name] for chapter in chapters})


def _describe(source: str, task: str) -> dict[str, str]:
    """The model, loaded once so that a wrong name is told at once, and what the chapters run with; its memory is given
    back.
    """
    model = load(source)
    about = {
        "model": Path(source).name if Path(source).is_absolute() else source,
        "fingerprint": model.read_fingerprint(),
        "architecture": (
            f"{model.model_type}, {model.n_layers} layers, {model.n_kv_heads} KV heads of width {model.head_dim}"
        ),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "task": task,
        "kvsteer_lab": __version__,
    }
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    versions = provenance()
    return about | {name: versions[name] for name in ("torch", "transformers", "nnsight") if name in versions}


def _refuse_other(out: Path, about: dict[str, str]) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder.")
    if not (out / ABOUT).is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} holds other files and no reproduction; name an empty folder or a new one.")
        return
    try:
        text = (out / ABOUT).read_bytes()
        read_json(text, what=str(out / ABOUT))
        there = TypeAdapter(dict[str, str]).validate_json(text, strict=True)
        model, task, marked = there["model"], there["task"], there["fingerprint"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{out / ABOUT} can't be read; name another folder.") from error
    if compare_fingerprints(marked, about["fingerprint"]) == "format":
        raise ValueError(
            f"{out} holds a reproduction by another version of kvsteer_lab, which marked weights in another way; name"
            " another folder."
        )
    if (marked, task) != (about["fingerprint"], about["task"]):
        raise ValueError(
            f"{out} holds the reproduction of {model} on {task}, not of {about['model']} on {about['task']}; name"
            " another folder."
        )
