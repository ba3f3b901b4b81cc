"""Every file that the library reads, damaged by chance: it is refused in one sentence, or read; nothing is run, nothing
hangs, and where a checksum promises it, what is read is what was written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from explorer.test_explorer_state import EVERY
from mutating import mutants, read_or_refused
from random_models import activations_for, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.evaluation.identity import RunIdentity
from kvsteer_lab.evaluation.runs import Run
from kvsteer_lab.figures.stamp import read_stamp
from kvsteer_lab.models.gguf_header import read_header
from kvsteer_lab.published.auditing import audit
from kvsteer_lab.published.reporting import report

FIXTURES = Path(__file__).parent / "fixtures"


@dataclass(frozen=True)
class Target:
    """A file to damage.

    Attributes:
        path: of the file.
        read: reads it, or the folder that it is in.
        same: of what two readings gave, whether it is the same; `None`: nothing is promised.
    """

    path: Path
    read: Callable[[], Any]
    same: Callable[[Any, Any], bool] | None = None


def same_tensors(a: Any, b: Any) -> bool:
    named = ("keys", "values") if hasattr(a, "keys") else ("residuals",)
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in named) and a.card == b.card


def same_rows(a: Any, b: Any) -> bool:
    return a.rows.astype(str).equals(b.rows.astype(str)) and a.settings == b.settings


def make_targets(folder: Path, model: kv.Model) -> dict[str, Callable[[], Target]]:
    """By name, what writes a whole file and tells how it is read."""

    def vectors() -> Target:
        path = vectors_for(model).save(folder / "v.safetensors")
        return Target(path, lambda: kv.KVVectors.load(path), same_tensors)

    def activations() -> Target:
        path = activations_for(model).save(folder / "a.safetensors")
        return Target(path, lambda: kv.ActivationVectors.load(path), same_tensors)

    def foreign(name: str) -> Target:
        path = folder / name
        path.write_bytes((FIXTURES / name).read_bytes())
        return Target(path, lambda: kv.ActivationVectors.from_repeng(path, model))

    def pairs() -> Target:
        made = kv.ContrastiveSet.from_texts(["Step 1: add", "a dog", "fox"], ["What?", "The lazy fox", "12 + 7"])
        path = made.save(folder / "pairs.jsonl")
        return Target(path, lambda: kv.ContrastiveSet.load(path))

    def traces(header: bool) -> Target:
        path = folder / "traces.jsonl"
        rows: list[dict[str, Any]] = [
            {"id": f"q{i}", "question": f"{i} + 1?", "answer": str(i + 1), "style": "stepwise", "text": f"Step 1: {i}."}
            for i in range(12)
        ]
        if header:
            keys = ("task", "style", "model", "prompt", "seed", "max_tokens", "temperature")
            rows = [r | {"verdict": "kept", "read": "1", "detected": "stepwise", "finish_reason": "stop"} for r in rows]
            rows.insert(0, {"format": "kvsteer_lab.traces.1"} | dict.fromkeys(keys, "x"))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Target(path, lambda: kv.Traces.load(path))

    def results() -> Target:
        path = kv.Results(_rows(["a", "b"]), {"task": "t", "seed": 3}).save(folder / "r.parquet")
        return Target(path, lambda: kv.Results.load(path), same_rows)

    def run(file: str) -> Target:
        begun = Run(folder / f"run {file}", RunIdentity({"a": 1}), (("a", "b"), ("c",)), ("m", "s")).begin()
        for chunk in begun.missing():
            begun.write(chunk, _rows(begun.chunks[chunk]))
        path = begun.path / "config.json" if file == "config" else begun.file(0)
        return Target(path, lambda: kv.Results.load(begun.path), same_rows)

    def state() -> Target:
        path = folder / "state.json"
        path.write_text(EVERY.to_json())
        return Target(path, lambda: kv.ExplorerState.load(path))

    def benchmark(name: str, file: str, row: dict[str, Any]) -> Target:
        (folder / name).mkdir(exist_ok=True)
        path = folder / name / f"{file}.jsonl"
        path.write_text("".join(json.dumps({k: _numbered(v, i) for k, v in row.items()}) + "\n" for i in range(20)))
        return Target(path, lambda: [kv.tasks.get(name, path.parent).questions(s) for s in ("extraction", "test")])

    def figure(suffix: str) -> Target:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = kv.figures.plot_norms(vectors_for(model))
            kv.figures.save_figure(drawn, folder / "figure", seed=0)
        path = folder / f"figure.{suffix}"
        return Target(path, lambda: read_stamp(path))

    def release() -> Target:
        root = folder / "release"
        path = root / "baseline_results" / "a.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = next((FIXTURES / "published" / "baseline_results").rglob("*.json"))
        told = json.loads(whole.read_text())
        path.write_text(json.dumps(told | {"samples": told["samples"][:3]}))
        return Target(path, lambda: report(audit(root)))

    def model_header() -> Target:
        path = folder / "model.gguf"
        path.write_bytes((FIXTURES / "repeng.gguf").read_bytes())
        return Target(path, lambda: read_header(path))

    arc: dict[str, Any] = {"id": "q@", "question": "@?", "answerKey": "B"}
    arc["choices"] = {"text": ["one", "two", "three", "four"], "label": list("ABCD")}
    return {
        "vectors": vectors,
        "activation vectors": activations,
        "vectors of repeng": partial(foreign, "repeng.gguf"),
        "a contrastive set": pairs,
        "traces of ours": partial(traces, True),
        "traces of others": partial(traces, False),
        "saved results": results,
        "a run's rows": partial(run, "rows"),
        "a run's config": partial(run, "config"),
        "an explorer's state": state,
        "gsm8k": partial(benchmark, "gsm8k", "gsm8k_test", {"question": "@ and 1?", "answer": "so\n#### @"}),
        "arc": partial(benchmark, "arc_challenge", "arc_challenge_test", arc),
        "piqa": partial(
            benchmark, "piqa", "piqa_validation", {"goal": "Reach @", "sol1": "go @", "sol2": "stay @", "label": 1}
        ),
        "a PNG": partial(figure, "png"),
        "an SVG": partial(figure, "svg"),
        "a PDF": partial(figure, "pdf"),
        "a release": release,
        "a GGUF header": model_header,
    }


def _rows(questions: Any) -> pd.DataFrame:
    rows = [
        {"question": q, "intervention": m, "sample": 0, "text": f"{q} {m}", "tokens": 3, "correct": True}
        for q in questions
        for m in ("m", "s")
    ]
    return pd.DataFrame(rows)


def _numbered(value: Any, i: int) -> Any:
    return value.replace("@", str(i)) if isinstance(value, str) else value


NAMES = tuple(make_targets(Path(), None))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [16, pytest.param(450, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_refused_in_one_sentence_or_read(name: str, n: int, tmp_path: Path, model: kv.Model) -> None:
    target = make_targets(tmp_path, model)[name]()
    whole = target.read()
    beside = sorted(tmp_path.rglob("*"))
    content, refused = target.path.read_bytes(), 0
    for number, mutant in enumerate(mutants(content, n, seed=len(name))):
        target.path.write_bytes(mutant)
        try:
            found, said = read_or_refused(target.read)
            refused += bool(said)
            if not said and target.same is not None:
                assert target.same(found, whole), "something else was read, and nobody said so"
        except BaseException:
            (tmp_path / "mutant").write_bytes(mutant)
            print(f"mutant {number} of {name}: {mutant[:3000]!r}")
            raise
    assert refused > n / 10 or name in ("a release", "a PDF", "a PNG"), "the mutants do harm"
    assert sorted(tmp_path.rglob("*")) == beside, "nothing is left beside the file"
