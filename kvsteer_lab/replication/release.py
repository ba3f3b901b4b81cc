"""All replies of a replication in the form of the authors' release, so that `kvsteer audit` scores them again."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from .._util.files import write_atomically
from .._util.json import read_json
from ..published.rescoring import PAPER
from ..tasks import paper
from ..tasks.base import Question, Task
from .methods import ARTICLES, RELEASED
from .sizes import Sizes
from .styles import GROUP


def write_release(out: Path, name: str, task: Task, rows: pd.DataFrame) -> list[Path]:
    """Write one file a method into `out/release/TASK/`.

    The files hold questions and replies, so they stay where the benchmark's licence lets them. Metrics are computed by
    the paper's own rules. Random vectors are released as an ablation; what the release knows no kind for, no offset
    token and the response prefill of one token, has a `subtask` of its own, so that it is compared with nothing.

    Args:
        out: folder of the replication.
        name: of the task.
        task: whose questions were asked.
        rows: its test replies.

    Returns:
        The files.
    """
    settings = read_json(out / "settings.json", what="settings.json")
    chosen = read_json(out / name / "chosen.json", what="chosen.json")
    limit = Sizes(**settings["asked"]).limit(name)
    asked = {question.id: question for question in task.questions("test")}
    written = []
    for label, part in rows[rows.group != GROUP].groupby("intervention", sort=False):
        kind = part.control_kind.iloc[0]
        arguments = _arguments(str(label), None if pd.isna(kind) else str(kind), settings, chosen, name, limit)
        content = _content(arguments, part, asked, bool(task.closing))
        path = out / "release" / name / f"{re.sub(r'[^A-Za-z0-9]+', '-', str(label)).strip('-')}.json"
        text = json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
        written.append(write_atomically(path, partial(_write, text)))
    return written


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _arguments(
    label: str, kind: str | None, settings: dict[str, Any], chosen: dict[str, Any], name: str, limit: int
) -> dict[str, Any]:
    sizes = settings["sizes"]
    found: dict[str, Any] = dict(
        model=settings["model"],
        task=name,
        experiment_name=f"replication/{label}" if kind is None else f"ablation/{kind}/{label}",
        generation_kwargs=dict(max_new_tokens=limit, do_sample=False),
    )
    methods = {**chosen["methods"], ARTICLES: dict(ck=0.3, cv=6.0), RELEASED: dict(ck=0.0, cv=4.0)}
    steering = next((key for key in sorted(methods, key=len, reverse=True) if key in label), None)
    if label.startswith("CoT"):
        found["append_prefix_to_prompt"] = "Let's think step by step."
    if steering is not None and "cv" in methods[steering]:
        found |= dict(c_keys=methods[steering]["ck"], c_values=methods[steering]["cv"])
        if kind is not None:
            factor = 1.0 if kind == "random" else chosen["factors"].get(label.removesuffix(", equal KL"), 1.0)
            found["c_values"] *= factor
    elif label.startswith("activation"):
        own = methods.get(label, methods["activation, onward"])
        found |= dict(multiplier=own["coefficient"], layers=own["layer"])
    elif label not in ("baseline", "CoT prompt", "CoT prefix"):
        found["subtask"] = label
    if "c_values" in found or "multiplier" in found:
        found |= dict(n_contrastive_samples=sizes["pairs"], num_fewshot_examples=sizes["shots"])
    return found


def _content(
    arguments: dict[str, Any], part: pd.DataFrame, asked: dict[str, Question], closing: bool
) -> dict[str, Any]:
    rules = ("augmented_extract", "last_letter") if closing else ("last_digit", "strict_match")
    two = all(len(asked[row.question].choices) == 2 for row in part.itertuples())
    letters = "AB" if two else paper.LETTERS
    samples = []
    for row in part.itertuples():
        text = f"{row.forced}{row.text}{row.closing}"
        read = {rule: PAPER[rule](text, letters) for rule in rules}
        samples.append(
            dict(
                id=row.question,
                target=row.gold,
                response=text,
                input=asked[str(row.question)].text,
                filtered_response={rule: "[invalid]" if value is None else value for rule, value in read.items()},
            )
        )
    metrics = {rule: sum(s["filtered_response"][rule] == s["target"] for s in samples) / len(samples) for rule in rules}
    return dict(arguments=arguments, metrics=metrics, samples=samples)
