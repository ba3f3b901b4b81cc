"""With `KVSTEER_RUNS` set, evaluations without a folder of their own are kept by what they are, and go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kvsteer_lab as kv
from kvsteer_lab.evaluation.plan import EvaluationPlan

ASKED: dict[str, Any] = dict(n=4, split="dev", generation={"max_new_tokens": 4}, progress=False)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVSTEER_RUNS", str(tmp_path))
    return tmp_path


def ask(model: kv.Model, *methods: kv.Intervention, **settings: Any) -> kv.Results:
    return kv.evaluate(model, kv.tasks.get("tiny-arithmetic"), methods, **{**ASKED, **settings})


def rows_of(results: kv.Results) -> list[dict[str, Any]]:
    return results.rows.astype(object).where(results.rows.notna(), None).to_dict("records")  # type: ignore[return-value]


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_nothing(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("replies were generated again")

    monkeypatch.setattr(EvaluationPlan, "ask", ask_nothing)


def test_what_is_kept_is_not_generated_again_and_is_the_same(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kv.load("tiny")
    first = ask(model)
    monkeypatch.delenv("KVSTEER_RUNS")
    assert rows_of(first) == rows_of(ask(model))
    monkeypatch.setenv("KVSTEER_RUNS", str(kept))
    assert len(list(kept.iterdir())) == 1
    refuse(monkeypatch)
    assert rows_of(first) == rows_of(ask(model))
    with pytest.raises(AssertionError, match="generated again"):
        ask(model, seed=1)


def test_a_stopped_evaluation_goes_on(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = kv.load("tiny"), EvaluationPlan.ask
    monkeypatch.setattr("kvsteer_lab.evaluation.chunks.REPLIES", 4)  # two questions a chunk
    asked: list[int] = []

    def stop_at_second(plan: EvaluationPlan, questions: Any, progress: bool) -> Any:
        asked.append(len(questions))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(plan, questions, progress)

    monkeypatch.setattr(EvaluationPlan, "ask", stop_at_second)
    with pytest.warns(UserWarning, match="do the same again to go on from there"):
        assert not ask(model).complete
    assert ask(model).complete and asked == [2, 2, 2]


def test_what_can_t_be_told_apart_is_not_kept(kept: Path) -> None:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")

    class Twice(type(task)):  # type: ignore[misc]
        def questions(self, *arguments: Any, **named: Any) -> list[kv.Question]:
            found = super().questions(*arguments, **named)
            return [replace(question, id="same") for question in found]

    kv.evaluate(model, Twice(), [], **ASKED)
    assert not list(kept.iterdir())
