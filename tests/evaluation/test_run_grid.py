"""A grid of interventions as one run: its replies by key, its controls, what an interruption does, and the shares that
are measured.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.evaluation import grids
from kvsteer_lab.evaluation.grids import run_grid
from kvsteer_lab.evaluation.measures import measure_briefly, measure_samples, share
from kvsteer_lab.stats import clustered_share, control_p, mcnemar, wilson

NEW = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def task() -> kv.tasks.Task:
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def steering(tiny: kv.Model, task: Any) -> kv.CacheSteering:
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=32, shots=3)
    return kv.CacheSteering(kv.extract(tiny, pairs, progress=False), 0, 2)


def test_a_grid_is_one_run_of_its_cells(tiny: kv.Model, task: Any, steering: kv.CacheSteering) -> None:
    cells = {
        (c, layer): kv.CacheSteering(steering.vectors, 0, c, layers=[layer]) for c in (0.0, 4.0) for layer in (1, 2)
    }
    grid = run_grid(tiny, task, cells, controls=3, n=4, seed=1, generation=NEW, progress=False)
    assert grid.questions == [q.id for q in task.questions("dev", 4, 1)] == grid.baseline.question.tolist()
    methods = [*cells.values(), *(c for cell in cells.values() for c in cell.controls(3, 1))]
    alone = kv.evaluate(tiny, task, methods, n=4, split="dev", seed=1, generation=NEW, progress=False)
    for key, cell in cells.items():
        assert grid.of(key).text.tolist() == alone.of(cell.label).text.tolist()
        drawn = [alone.of(c.label) for c in cell.controls(3, 1)]
        assert [part.text.tolist() for part in grid.drawn(key)] == [part.text.tolist() for part in drawn]
        own = grid.of(key).tokens.mean()
        assert grid.beside_controls(key, "tokens", "tokens")["p_random_tokens"] == control_p(
            own, [p.tokens.mean() for p in drawn]
        )
        assert grid.p_against(key) == mcnemar(grid.of(key).correct.tolist(), grid.baseline.correct.tolist())
    assert grid.of((0.0, 1)).text.tolist() == grid.baseline.text.tolist() != grid.of((4.0, 1)).text.tolist()
    table = grid.table(("c", "layer"), measure_briefly)
    assert list(zip(table.c, table.layer, strict=True)) == list(cells) and table.attrs["questions"] == grid.questions
    assert table.accuracy.tolist() == [grid.of(key).correct.mean() for key in cells] and {"p_random"} <= set(
        table.columns
    )
    with pytest.raises(ValueError, match="There is no intervention 'elsewhere' here"):
        grid.of_label("elsewhere")


def test_an_interrupted_grid_is_no_table(
    tiny: kv.Model, task: Any, steering: kv.CacheSteering, monkeypatch: Any, tmp_path: Path
) -> None:
    """Ctrl-C is one sentence: no warning beside it, and with a folder it says what is kept there."""
    original, calls = tiny.hf.generate, [0]

    def interrupted(*given: Any, **settings: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return original(*given, **settings)

    monkeypatch.setattr(tiny.hf, "generate", interrupted)
    few: dict[str, Any] = dict(n=4, generation={"max_new_tokens": 4}, batch_size=4, progress=False)
    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt) as caught:
        warnings.simplefilter("error")
        run_grid(tiny, task, {"own": steering}, **few)
    assert str(caught.value) == "The grid was interrupted before all cells were finished."
    calls[0] = 0
    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt) as caught:
        warnings.simplefilter("error")
        run_grid(tiny, task, {"own": steering}, out=tmp_path / "run", **few)
    assert str(caught.value) == (
        f"The grid was interrupted before all cells were finished: 0 of 1 chunks are in {tmp_path / 'run'}; do the same"
        " again to go on from there."
    )
    assert len(run_grid(tiny, task, {"own": steering}, out=tmp_path / "run", **few).questions) == 4


def test_a_grid_that_another_process_is_at_work_on_is_no_interruption(
    tiny: kv.Model, task: Any, steering: kv.CacheSteering, monkeypatch: Any
) -> None:
    def part(*given: Any, **settings: Any) -> kv.Results:
        return kv.Results(pd.DataFrame(columns=["question", "intervention"]), {}, complete=False)

    monkeypatch.setattr(grids, "evaluate_all", part)
    with pytest.raises(OSError, match=r"Another process has not finished its part of the grid in run; do the same"):
        run_grid(tiny, task, {"own": steering}, n=2, out="run", progress=False)


def test_controls_of_what_is_no_steering_must_be_given(tiny: kv.Model, task: Any, steering: kv.CacheSteering) -> None:
    prompt = kv.CoTPrompt()
    with pytest.raises(
        ValueError, match=r"'CoT prompt' isn't a steering, so no random vectors match it; pass its controls"
    ):
        run_grid(tiny, task, {"prompt": prompt}, controls=2, n=2, progress=False)
    both = kv.Together(steering, prompt)
    drawn = {"both": [kv.Together(c, prompt) for c in steering.controls(2)]}
    grid = run_grid(tiny, task, {"both": both}, controls=drawn, n=2, generation=NEW, progress=False)
    assert len(grid.drawn("both")) == 2 and grid.drawn("both")[0].control_of.unique().tolist() == [both.label]


def test_a_share_comes_with_its_interval() -> None:
    hits = pd.Series([True, False, True, True, False, True])
    assert share(hits, "accuracy") == {"accuracy": 4 / 6, "low": wilson(4, 6)[0], "high": wilson(4, 6)[1]}
    questions = pd.Series(list("aabbcc"))
    found, expected = share(hits, "x", "x_", questions), clustered_share(hits.tolist(), list("aabbcc"))
    assert (found["x_low"], found["x_high"]) == (expected.low, expected.high)
    for unknown in (None, pd.Series([math.nan, 1.0])):
        assert all(math.isnan(value) for value in share(unknown, "adopted", "adopted_").values())


def test_samples_are_counted_by_question() -> None:
    rows = dict(question=list("aabb"), sample=[0, 1] * 2, correct=[True, False, True, True], reasoned=False)
    rows |= dict(style="direct", tokens=[1, 2, 3, 4], finish_reason=["eos", "length", "eos", "eos"])
    found = measure_samples(pd.DataFrame(rows), "direct")
    assert (found["n"], found["samples"], found["accuracy"], found["tokens"], found["truncated"]) == (
        2,
        2,
        0.75,
        2.5,
        0.25,
    )
    alike = clustered_share([True] * 4, list("aabb"))
    assert found["adopted"] == 1 and (found["adopted_low"], found["adopted_high"]) == (alike.low, alike.high)
