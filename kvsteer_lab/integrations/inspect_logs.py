"""Inspect's logs in JSON, as results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.results import Results
from .imported import as_results, as_verdict, read_log


def read_inspect(paths: str | Path | Sequence[str | Path], *, scorer: str | None = None) -> Results:
    """Inspect's logs of one task (`--log-format json`), one run an intervention; epochs are samples.

    `kv.compare` and `Results.measure([...]).outcomes_table()` test them, random controls included.

    Args:
        paths: files, or folders, in which every `*.json` is read.
        scorer: whose verdicts are counted; may be left out where there is one.

    Returns:
        One row a question, run and epoch, with its length in tokens. Of other models the label is Inspect's name.

    Raises:
        ValueError: no such file, another format, an unfinished run, several tasks or scorers, a verdict that is neither
            right nor wrong, two runs of one label, or runs with other questions.

    >>> read_inspect("run.eval")
    Traceback (most recent call last):
    ValueError: run.eval isn't JSON; write it with --log-format json, or convert it: inspect log convert --to json.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [file for path in map(Path, given) for file in (sorted(path.rglob("*.json")) or [path])]
    runs, tasks, models = [], [], []
    for file in files:
        if file.suffix == ".eval":
            raise ValueError(
                f"{file} isn't JSON; write it with --log-format json, or convert it: inspect log convert --to json."
            )
        log = read_log(file, "The log")
        if not isinstance(log, dict) or not isinstance(log.get("eval"), dict):
            raise ValueError(f"{file} is no log of Inspect.")
        if log.get("status") != "success" or not log.get("samples"):
            raise ValueError(f"The run in {file} isn't finished (its status is {log.get('status')}); run it again.")
        runs.append([_row(sample, log["eval"], scorer) for sample in log["samples"]])
        tasks.append(log["eval"]["task"])
        models.append(_about(log["samples"][0], log["eval"])["model"])
    if len(set(tasks)) > 1:
        raise ValueError(f"These logs are of several tasks ({', '.join(sorted(set(tasks)))}); read one at a time.")
    model = ", ".join(dict.fromkeys(models))
    return as_results(runs, dict(task=tasks[0] if tasks else "", model=model, scorer=scorer))


def _about(sample: Mapping[str, Any], about_run: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reply says of the model that gave it."""
    other = dict(model=about_run["model"], intervention=about_run["model"])
    return ((sample.get("output") or {}).get("metadata") or {}).get("kvsteer", other)


def _row(sample: Mapping[str, Any], about_run: Mapping[str, Any], scorer: str | None) -> dict[str, Any]:
    about, scores, output = _about(sample, about_run), sample.get("scores") or {}, sample["output"]
    where = f"question {sample['id']!r}"
    if scorer not in scores and not (scorer is None and len(scores) == 1):
        raise ValueError(f"{where} has no verdict of {scorer!r}; choose scorer= from: {', '.join(scores) or 'none'}.")
    score = scores[scorer or next(iter(scores))]
    said = sample["input"]
    asked = said if isinstance(said, str) else [[m["role"], m["content"]] for m in said]
    usage, choices = output.get("usage") or {}, output.get("choices") or [{}]
    return dict(
        question=str(sample["id"]),
        data=json.dumps([asked, sample["target"]]),
        intervention=about["intervention"],
        sample=sample["epoch"] - 1,
        control_of=about.get("control_of"),
        control_kind=about.get("control_kind"),
        text=output.get("completion") or "",
        finish_reason="length" if choices[0].get("stop_reason") == "max_tokens" else "eos",
        tokens=usage.get("output_tokens"),
        gold=json.dumps(sample["target"]) if isinstance(sample["target"], list) else sample["target"],
        read_answer=score.get("answer"),
        correct=as_verdict(score["value"], where),
    )
