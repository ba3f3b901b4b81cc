"""What lm-evaluation-harness writes with `--log_samples`, as results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.results import Results
from .imported import as_results, as_verdict, read_log


def read_lm_eval(
    paths: str | Path | Sequence[str | Path], task: str, *, metric: str | None = None, filter: str | None = None
) -> Results:
    """The runs of one task that were written with `--log_samples --output_path`, one run an intervention.

    `kv.compare` and `Results.measure([...]).outcomes_table()` test them, random controls (`control=SEED`) included.

    Args:
        paths: files `results_*.json`, or folders, in which all of them are read.
        task: the harness's name of it.
        metric: whose verdicts are counted, `"acc"` or `"exact_match"`, say; may be left out where there is one.
        filter: of the replies, `"strict-match"`, say; may be left out where there is one.

    Returns:
        One row a question and run. Of models other than `kvsteer` the label is the harness's name. The harness doesn't
        log lengths in tokens, so measure `"words"`; of multiple choice there is no text.

    Raises:
        ValueError: no such file, no samples of the task, several metrics or filters to choose from, a verdict that is
            neither 0 nor 1, two runs of one label, or runs with other questions.

    Warns:
        UserWarning: the prompts of two runs differ.

    >>> read_lm_eval([], "arc_easy")
    Traceback (most recent call last):
    ValueError: There is no answered question to read; give the logs of at least one run.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [file for path in map(Path, given) for file in _files(path, task)]
    runs, models, prompts = [], [], set()
    for file in files:
        about, samples = _read_run(file, task)
        chosen = _choose(samples, task, metric, filter)
        runs.append([_row(sample, about, task, chosen[0]) for sample in samples if sample.get("filter") == chosen[1]])
        models.append(about["model"])
        prompts.add(tuple(sorted((s["doc_id"], s["prompt_hash"]) for s in samples if s.get("filter") == chosen[1])))
    found = as_results(runs, dict(task=task, model=", ".join(dict.fromkeys(models)), metric=metric, filter=filter))
    if len(prompts) > 1:
        warnings.warn(f"The prompts of {task} differ between these runs, not only the intervention.", stacklevel=2)
    return found


def _samples(file: Path, task: str) -> Path:
    """The task's samples that lie beside a results file, with the same date."""
    return file.with_name(f"samples_{task}_{file.stem.removeprefix('results_')}.jsonl")


def _files(path: Path, task: str) -> list[Path]:
    """A folder's results files, those that have samples of the task if any has; a file itself."""
    found = sorted(path.rglob("results_*.json"))
    return [file for file in found if _samples(file, task).is_file()] or found[:1] or [path]


def _read_run(file: Path, task: str) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """What a run says of itself, and its samples."""
    summary = read_log(file, "The results file")
    if not isinstance(summary, dict) or not isinstance(summary.get("config"), dict):
        raise ValueError(f"{file} is no results file of lm-evaluation-harness; give its results_*.json.")
    beside = _samples(file, task)
    if not beside.is_file():
        raise ValueError(f"There are no samples of {task} beside {file}; run it with --log_samples.")
    config = summary["config"]
    other = dict(model=str(config.get("model")), intervention=str(config.get("model")))
    return config.get("kvsteer", other), read_log(beside, "The file of samples")


def _choose(samples: Sequence[Mapping[str, Any]], task: str, metric: str | None, filter: str | None) -> tuple[str, str]:
    """The metric and the filter that are counted."""
    metrics = dict.fromkeys(str(name) for sample in samples for name in sample.get("metrics", ()))
    filters = dict.fromkeys(str(sample.get("filter")) for sample in samples)

    def choose(what: str, asked: str | None, there: list[str]) -> str:
        if asked not in there and not (asked is None and len(there) == 1):
            raise ValueError(f"{task} has no {what} {asked!r}; choose {what}= from: {', '.join(there)}.")
        return there[0] if asked is None else asked

    return choose("metric", metric, list(metrics)), choose("filter", filter, list(filters))


def _row(sample: Mapping[str, Any], about: Mapping[str, Any], task: str, metric: str) -> dict[str, Any]:
    said = sample["resps"][0]
    while isinstance(said, list) and len(said) and not isinstance(said[0], int | float):
        said = said[0]
    generated = isinstance(said, str) and len(sample["resps"]) == 1
    read = sample["filtered_resps"][0]
    return dict(
        question=f"{task}/{sample['doc_id']}",
        data=sample["doc_hash"],
        intervention=about["intervention"],
        control_of=about.get("control_of"),
        control_kind=about.get("control_kind"),
        text=said if generated else "",
        gold=str(sample["target"]),
        read_answer=str(read) if generated else None,
        correct=as_verdict(sample[metric], f"{metric} of {task}/{sample['doc_id']}"),
    )
