"""All chapters on another model, in a folder that a stopped run can go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from .._util.batching import free_memory
from .._util.files import write_atomically
from .._util.json import read_json
from .._util.locks import one_writer
from .._util.provenance import provenance
from .._version import __version__
from ..models.fingerprint import compare_fingerprints
from ..models.loading import BUNDLED, load
from ..tasks import get
from .chapters import Chapter, find_chapters
from .costs import Speed, measure, workload
from .page import write_page
from .parameters import check_parameters
from .profile import Profile, Size, read_profile
from .running import Record, read_record
from .scheduling import Job, run_jobs
from .sizing import Units, parameters_for

ABOUT = "reproduction.json"
MEASURED = "measured.json"
BUNDLED_TASK = "tiny-arithmetic"
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
    task: str | None = None,
    profile: Size | Literal["own"] | None = None,
    notebooks: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    workers: int = 1,
    say: Callable[[str], object] = print,
    progress: bool = True,
) -> Reproduction:
    """Run the numbered notebooks on a model, and write them as notebooks, HTML, figures and a page that shows them all.

    A chapter that was run to its end before, with the same cells, parameters, weights and package version, isn't run
    again; one that failed is. After each, the page is written anew.

    What a chapter says was found on the bundled model is left out wherever it runs on another one, or with other
    settings than its own.

    Args:
        model: anything that `kv.load` takes by name.
        out: the folder.
        task: anything that `kv.tasks.get` takes; by default that of the model's profile.
        profile: `"quick"` or `"full"`: the sizes of the model's profile, with strengths in relative units, which are
            measured first; `"own"`: the chapters' own settings, which suit the bundled models. By default `"own"` for a
            bundled model and `"quick"` for any other.
        notebooks: numbers or names of those to run; all of them by default.
        parameters: values for variables of the chapters' cells of parameters, such as `{"CK": 0.3, "CV": 6}`; each goes
            to every chapter that has it. They are kept with what was run: a chapter that ran with other ones runs
            again.
        workers: chapters that run at a time, each with a model of its own in memory.
        say: is told of each chapter when it begins and ends.
        progress: show bars.

    Raises:
        ValueError: no such model, task, notebook or parameter, no worker, or the folder holds something else. Nothing
            was written.
        UnsteerableModelError: the model's cache can't be steered.
        OSError: the folder can't be written, or another process is writing there.

    >>> reproduce("tiny", "runs/reproduction", parameters={"CV": 6, "WHATEVER": 1})
    ... # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ValueError: No notebook that is to run has a parameter 'WHATEVER'
    """
    out, chapters = Path(out), find_chapters(notebooks)
    size = profile or ("own" if model in BUNDLED else "quick")
    if size not in ("own", "quick", "full"):
        raise ValueError(f"There is no profile {size!r}; there are quick, full and own.")
    read = read_profile(model)
    asked_task = task or (BUNDLED_TASK if size == "own" else read.task)
    if size != "own":
        read = _with_task(read, asked_task)
    else:
        get(asked_task)
    asked = dict(parameters or {})
    check_parameters(asked, chapters)
    if workers < 1:
        raise ValueError(f"There must be at least one worker, not {workers}.")
    source = model if model in BUNDLED or not Path(model).is_dir() else str(Path(model).resolve())
    about = _describe(source, asked_task, size)
    _refuse_other(out, about)
    with one_writer(out, wait=_WAIT):
        _refuse_other(out, about)  # again: another process may have begun meanwhile
        write_atomically(out / ABOUT, lambda file: file.write_text(json.dumps(about, indent=2) + "\n"))
        settings: dict[str, dict[str, Any]] = {"": {}}
        speed = None
        if size in ("quick", "full"):
            say(f"Profile {size} of {about['model']}: {asked_task}, strengths are measured.")
            units, speed = _measure(out, source, read, size)
            settings = parameters_for(read, size, units)
        plan = _Plan({"MODEL": source, "TASK": asked_task}, settings, asked, speed, read, size)
        return _run_all(chapters, out, about, plan, workers, say, progress)


@dataclass(frozen=True)
class _Plan:
    """What each chapter runs with, and how fast the machine is, if that was measured."""

    fixed: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    asked: Mapping[str, Any]
    speed: Speed | None
    profile: Profile
    size: str

    def parameters(self, chapter: Chapter) -> dict[str, Any]:
        """The values of the chapter's parameters that are set."""
        given = {**self.settings[""], **self.settings.get(chapter.number, {}), **self.fixed, **self.asked}
        return {name: value for name, value in given.items() if name in chapter.parameters}

    def foretell(self, chapter: Chapter, shape: tuple[int, int, int]) -> str:
        """How long the chapter will take, in words; nothing where that was not measured."""
        if self.speed is None:
            return ""
        values = self.parameters(chapter)
        todo = workload(chapter.number, values, *shape)
        if not (todo.prompts or todo.replies):
            return ", less than a minute"
        new = values.get("REPLY", {}).get("max_new_tokens") or values.get("NEW", 24)
        minutes = todo.minutes(self.speed, new)
        return (
            f", about {max(1, round(minutes))} min ({todo.prompts} prompts with examples, {todo.replies} replies of up"
            f" to {new} tokens)"
        )


def _run_all(
    chapters: Sequence[Chapter],
    out: Path,
    about: Mapping[str, str],
    plan: _Plan,
    workers: int,
    say: Callable[[str], object],
    progress: bool,
) -> Reproduction:
    every = find_chapters()
    records = {chapter.name: record for chapter in every if (record := read_record(out, chapter))}
    jobs = []
    for number, chapter in enumerate(chapters, 1):
        given = plan.parameters(chapter)
        work = Record(chapter.source, given, about["fingerprint"], __version__)
        place, before = f"[{number}/{len(chapters)}] {chapter.name}", records.get(chapter.name)
        if before is not None and before.same_work(work) and not before.error:
            say(f"{place}: done before, {before.seconds:.0f} s")
            continue
        again = "" if before is None or before.parameters == given else " again, with other parameters"
        jobs.append(Job(place, chapter, work, f"{place}: running{again}{plan.foretell(chapter, _shape(about))}"))
    for job, record in run_jobs(jobs, out, about["model"], workers, say, progress):
        records[job.chapter.name] = record
        took = f"{record.seconds:.0f} s ({record.cpu_seconds:.0f} s of a core)"
        say(f"{job.place}: {f'failed after {took}: {record.error}' if record.error else f'done, {took}'}")
        write_page(out, about, every, records)
    index = write_page(out, about, every, records)
    return Reproduction(index, {chapter.name: records[chapter.name] for chapter in chapters})


def _with_task(profile: Profile, task: str) -> Profile:
    """The profile on another task, with styles that the task has replies in."""
    has = [style for style in get(task).styles if style != "direct"]
    if not has:
        raise ValueError(f"Task {task!r} has no replies in a reasoning style; give it traces, or choose another task.")
    kept = [style for style in profile.styles if style in has]
    styles = (kept + [style for style in has if style not in kept])[:2]
    return profile.model_copy(update={"task": task, "styles": styles if len(styles) == 2 else styles * 2})


def _measure(out: Path, source: str, profile: Profile, size: Size) -> tuple[Units, Speed]:
    """Units and speed, measured once for a folder: what was run must run with the same coefficients again."""
    asked = {
        "task": profile.task,
        "style": profile.styles[0],
        **profile.sizes(size).model_dump(include={"pairs", "shots"}),
    }
    try:
        kept = read_json(out / MEASURED, what=str(out / MEASURED))
        if kept["asked"] == asked:
            return Units(**kept["units"]), Speed(**kept["speed"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    units, speed = measure(load(source), get(profile.task), profile, size)
    text = json.dumps({"asked": asked, "units": asdict(units), "speed": asdict(speed)}, indent=2) + "\n"
    write_atomically(out / MEASURED, lambda file: file.write_text(text))
    free_memory()
    return units, speed


def _shape(about: Mapping[str, str]) -> tuple[int, int, int]:
    layers, heads = (int(found) for found in re.findall(r"(\d+) (?:layers|KV heads)", about["architecture"]))
    return layers, 3 * heads, heads  # query heads are only for the estimate


def _describe(source: str, task: str, size: str) -> dict[str, str]:
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
        **({} if size == "own" else {"profile": size}),
        "kvsteer_lab": __version__,
    }
    del model
    free_memory()
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
