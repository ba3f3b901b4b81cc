"""A task whose own demonstrations the detectors don't know warns before anything is generated."""

import warnings

import pytest

import kvsteer_lab as kv
from kvsteer_lab.tasks.recognition import warn_unrecognised

SHORT = {"max_new_tokens": 2}


def task_with(stepwise: list[str], style: str = "stepwise") -> kv.tasks.Task:
    rows = [
        {"question": f"What is {i} + {i}?", "answer": str(2 * i), "steps": stepwise[i % len(stepwise)]}
        for i in range(40)
    ]
    return kv.tasks.from_frame(rows, name="doubling", replies={style: "steps"})


def test_recognised_demonstrations_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for task in (kv.tasks.get("tiny-arithmetic"), kv.tasks.get("tiny-tracking"), task_with(["Step 1: add."])):
            warn_unrecognised(task)


def test_demonstrations_that_are_mostly_unknown_are_named() -> None:
    task = task_with(["It is easy to see what comes out here. One only has to look at it for a while and think."])
    recognised, n = kv.tasks.recognised_share(task, "stepwise")
    assert recognised == 0 and n > 20
    with pytest.warns(UserWarning, match=rf"Only 0 of {n} of doubling's own demonstrations in style 'stepwise'"):
        warn_unrecognised(task)


def test_half_is_enough_and_less_is_not() -> None:
    known, unknown = "Step 1: add.\nStep 2: done.", "It is easy to see what comes out here, and so it is."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unrecognised(task_with([known, known, unknown]))
    with pytest.warns(UserWarning, match="recognised"):
        warn_unrecognised(task_with([known, unknown, unknown, unknown]))


def test_a_style_of_ones_own_and_missing_demonstrations_are_passed_over() -> None:
    class Bare(kv.tasks.Task):
        name, styles, splits = "bare", ("direct", "stepwise"), ("dev",)

        def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[kv.tasks.Question]:
            raise AssertionError("a task without an extraction split was asked for it")

        def read_answer(self, text: str) -> str | None:
            return None

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_unrecognised(task_with(["Roses are red."], style="poetic"))
        warn_unrecognised(Bare())
    assert kv.tasks.recognised_share(task_with(["Step 1: add."]), "analogical") == (0, 0)


def test_an_evaluation_warns_before_anything_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_with(["It is easy to see what comes out here. One only has to look at it for a while and think."])

    def generated(*args: object) -> None:
        raise AssertionError("the warning came too late")

    monkeypatch.setattr("kvsteer_lab.evaluation.plan.EvaluationPlan.ask", generated)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="own demonstrations in style 'stepwise'"):
            kv.evaluate(kv.load("tiny"), task, kv.Nothing(), n=1, split="dev", generation=SHORT, progress=False)
