"""Activation steering on SmolLM2 is, scope by scope, what repeng and steering-vectors do: token for token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kvsteer_lab as kv

pytestmark = pytest.mark.real

FOLDER = Path(__file__).parent.parent / "fixtures" / "steering_smollm2"
WRITTEN = json.loads((FOLDER / "runs.json").read_text(encoding="utf-8"))
QUESTIONS = ["Name a fruit.", "What is 17 + 5?", "Why is the sky blue?"]
SCOPES = ("one-shot", "onward", "all tokens", "last position")


@pytest.mark.parametrize("questions", [QUESTIONS[1:2], pytest.param(QUESTIONS, marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize("scope", [None, *SCOPES])
def test_a_scope_is_what_the_packages_do(scope: str | None, questions: list[str], smollm2: kv.Model) -> None:
    vectors = kv.ActivationVectors.from_steering_vectors(FOLDER / "vectors.safetensors", smollm2)
    asked = {tuple(smollm2.encode(question)): question for question in questions}
    runs = [run for run in WRITTEN["runs"] if run["scope"] == scope and tuple(run["ids"]) in asked]
    assert {tuple(run["ids"]) for run in runs} == set(asked)
    for run in runs:
        method: kv.Intervention = kv.Nothing()
        if scope is not None:
            strength = WRITTEN["coefficient"]
            method = kv.ActivationSteering(vectors, run["layers"], strength, scope=scope, cache=run["cache"])
        new = {"max_new_tokens": WRITTEN["new"]}
        (found,) = kv.generate(smollm2, asked[tuple(run["ids"])], method, offset=None, generation=new)
        assert list(found.token_ids) == run["new"], f"{run['package']}, {run['call']}, layers {run['layers']}"


def test_the_runs_tell_the_scopes_apart() -> None:
    texts: dict[str | None, set[tuple[int, ...]]] = {}
    for run in WRITTEN["runs"]:
        texts.setdefault(run["scope"], set()).add(tuple(run["new"]))
    assert all(one != other for one in texts.values() for other in texts.values() if one is not other)
