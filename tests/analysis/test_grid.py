"""A coefficient grid: each cell against its separate run, doses, pictures."""

import math
from typing import Any

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.analysis.dose.coefficient_grid import coefficient_grid
from kvsteer_lab.evaluation.measures import measure

N, NEW = 6, {"max_new_tokens": 48}


@pytest.fixture(scope="module")
def task() -> kv.tasks.Task:
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def own(tiny, task) -> kv.KVVectors:
    return kv.extract(
        tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=32, shots=3), progress=False
    )


@pytest.fixture(scope="module")
def table(tiny, task, own) -> pd.DataFrame:
    return grid(tiny, task, kv.CacheSteering(own, 9, 9), [0, 1, 4], [0, 1.41, 3])


def grid(tiny: kv.Model, task: Any, steering: Any, *given: Any, **settings: Any) -> pd.DataFrame:
    return coefficient_grid(tiny, task, steering, *given, **{"n": N, "generation": NEW, "progress": False, **settings})


def test_each_cell_is_its_separate_run(tiny, task, own, table):
    cells = table[table.cell == "cell"]
    assert list(zip(cells.ck, cells.cv, strict=True)) == [(k, v) for k in (0, 1, 4) for v in (0, 1.41, 3)]
    for row in cells.itertuples():
        method = kv.CacheSteering(own, row.ck, row.cv, name="alone")
        results = kv.evaluate(tiny, task, method, n=N, split="dev", generation=NEW, progress=False)
        alone = results.of("alone")
        assert (row.n, row.accuracy, row.reasoned, row.tokens) == (
            N,
            alone.correct.mean(),
            alone.reasoned.mean(),
            alone.tokens.mean(),
        )
        assert row.adopted == (alone["style"] == "stepwise").mean() and row.repetition == alone.repetition.mean()
        assert (row.low, row.high) == pytest.approx(kv.stats.wilson(int(alone.correct.sum()), N))
        assert row.truncated == (alone.finish_reason == "length").mean()
        assert row.loops == kv.side_effects(results).loops["alone"]
    assert table.tokens.nunique() > 3 and table.adopted.nunique() > 2, "the cells must not all do the same"


def test_without_an_edit_a_cell_is_the_baseline(tiny, task, own, table):
    baseline, nothing = (
        table[table.cell == "baseline"].iloc[0],
        table[(table.cell == "cell") & (table.ck == 0) & (table.cv == 0)].iloc[0],
    )
    assert baseline.drop("cell").equals(nothing.drop("cell"))
    unit = own.relative_to(tiny, [task.chat(q) for q in task.questions("dev", N, 0)]).loc[1:].mean()
    assert table.dose_keys.tolist() == pytest.approx(
        (table.ck * unit["keys"]).tolist()
    ) and table.dose_values.max() == pytest.approx(3 * unit["values"])
    assert table.attrs["questions"] == [q.id for q in task.questions("dev", N, 0)] and table.task.unique().tolist() == [
        "tiny-arithmetic"
    ]


def test_loops_and_a_missing_style_are_told():
    rows = pd.DataFrame(
        dict(
            question=["a", "b"],
            forced="",
            intervention="steered",
            text=["one two three four " * 4, "The answer is 2."],
            correct=[False, True],
            reasoned=False,
            style=["other", "direct"],
            tokens=[16, 5],
            finish_reason=["length", "eos"],
            repetition=[0.7, 0.0],
        )
    )
    found = measure(rows, None)
    assert (found["loops"], found["truncated"], found["accuracy"], found["repetition"]) == (
        0.5,
        0.5,
        0.5,
        0.35,
    ) and math.isnan(found["adopted"])
    assert measure(rows, "direct")["adopted"] == 0.5 and measure(rows, "direct")["adopted_low"] == pytest.approx(
        kv.stats.wilson(1, 2)[0]
    )


def test_doses_are_those_of_the_slot_that_is_steered(tiny, task, own):
    """At another slot other keys and values lie, so the same coefficient is another dose."""
    last, before = (
        grid(tiny, task, kv.CacheSteering(own, 0, 1, slot=slot), [1], [1], n=2).iloc[1] for slot in (-1, -2)
    )
    chats = [task.chat(q) for q in task.questions("dev", 2, 0)]
    for row, slot in ((last, -1), (before, -2)):
        table = own.relative_to(tiny, chats, slot=slot).loc[1:].mean()
        assert (row.dose_keys, row.dose_values) == pytest.approx((table["keys"], table["values"]))
        assert kv.unit_dose(tiny, kv.CacheSteering(own, 0, 1, slot=slot), chats) == pytest.approx(row.dose_values)
    assert before.dose_values > 1.5 * last.dose_values


def test_a_grid_that_can_tell_nothing_is_refused(tiny, task, own):
    steering = kv.CacheSteering(own, 0, 2)
    activation = kv.ActivationSteering(
        kv.extract_activations(tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=2, shots=1)),
        1,
        1.0,
    )
    for wrong, message in (
        (kv.CacheSteering(own, 0, 2, layers=()), "edits no layers, so no coefficient does anything; name at least one"),
        (
            kv.CacheSteering(own, 0, 2, heads=()),
            "edits no KV heads, so no coefficient does anything; name at least one",
        ),
        (activation, "Cache steering is asked for, a kv.CacheSteering, not ActivationSteering"),
        (None, "Cache steering is asked for, a kv.CacheSteering, not NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(tiny, task, wrong, [0], [1])
    with pytest.raises(
        ValueError, match=r"A steering is asked for, a kv\.CacheSteering or kv\.ActivationSteering, not CoTPrompt"
    ):
        kv.dose_response(tiny, task, kv.CoTPrompt(), [1.0])
    with pytest.raises(ValueError, match="edits no layers"):
        kv.dose_response(tiny, task, kv.CacheSteering(own, 0, 2, layers=()), [1.0])
    for given, message in (
        (([], [1]), "cks is empty, so there are no coefficients to try"),
        (([0], []), "cvs is empty"),
        (([0, float("nan")], [1]), "There is a coefficient nan in cks; coefficients must be finite numbers"),
        (([0], [float("inf")]), "There is a coefficient inf in cvs"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(tiny, task, steering, *given)
    with pytest.raises(
        ValueError, match="are zero in all of its layers and heads, so no coefficient does anything; extract them anew"
    ):
        grid(tiny, task, kv.CacheSteering(own * 0.0, 0, 2), [0], [1])
    with pytest.raises(ValueError, match="never run on test questions"):
        grid(tiny, task, steering, [0], [1], split="test")


def test_the_picture_shows_the_table(table):
    both = pd.concat([table, table.assign(task="other", accuracy=0.25)])
    figure = kv.figures.plot_coefficient_grid(both, ("accuracy", "tokens"))
    panels = [a for a in figure.axes if a.images and a.get_title()]
    assert [a.get_title().split("\n")[0] for a in panels] == ["accuracy", "mean tokens"] * 2
    shown = panels[0].images[0].get_array()
    for row in table[table.cell == "cell"].itertuples():
        assert shown[[0, 1, 4].index(row.ck), [0, 1.41, 3].index(row.cv)] == row.accuracy
    assert [t.get_text() for t in panels[2].texts] == [".25"] * 9 and panels[2].get_title() == "accuracy\nbaseline .25"
    assert len(panels[0].patches) == 2, "the cell without an edit has a frame"
    fine = pd.concat(
        [table[:1], *(table[1:2].assign(ck=k, cv=v, accuracy=k / 9) for k in range(10) for v in range(10))]
    )
    large = kv.figures.plot_coefficient_grid(fine, ("accuracy",)).axes[0]
    assert not large.texts and large.collections, "too many cells for numbers get a contour"
    for wrong, message in (
        (dict(table=table[:1]), "no cells or no measures"),
        (dict(table=table, measures=("speed",)), "no column 'speed' to draw; choose one of: accuracy"),
    ):
        with pytest.raises(ValueError, match=message):
            kv.figures.plot_coefficient_grid(**wrong)
