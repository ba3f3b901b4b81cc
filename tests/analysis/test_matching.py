"""Steerings at equal divergence: what is reached, that it is what separate runs give, and what can't be reached."""

import math
from typing import Any

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.analysis.dose.matching import match_divergence

N = 4
QUICK: dict[str, Any] = dict(n=N, max_new_tokens=48, progress=False)
NATS = [0.3, 1.2]


@pytest.fixture(scope="module")
def task() -> kv.tasks.Task:
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def methods(tiny, task) -> dict[str, Any]:
    pairs = kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=32, shots=2)
    steering = kv.CacheSteering(kv.extract(tiny, pairs, progress=False), 0, 1.0)
    return {
        "cache": steering,
        "activation": kv.ActivationSteering(kv.extract_activations(tiny, pairs, progress=False), 1, 1.0),
    }


@pytest.fixture(scope="module")
def table(tiny, task, methods) -> pd.DataFrame:
    return match_divergence(tiny, task, methods, NATS, controls=6, seed=2, **QUICK)


def test_each_is_scaled_to_the_divergence_that_was_asked_for(tiny, task, methods, table):
    assert table[["method", "nats"]].to_numpy().tolist() == [[m, x] for x in NATS for m in methods]
    chats = [task.chat(q) for q in task.questions("dev", N, 2)]
    texts = kv.generate(tiny, chats, generation={"max_new_tokens": 48}).token_ids
    for row in table[table.method == "cache"].itertuples():
        own = kv.CacheSteering(methods["cache"].vectors, 0, row.coefficient)
        assert sum(kv.divergence(tiny, chats, texts, own).totals) / N == pytest.approx(
            row.kl, rel=1e-4
        ) and row.kl == pytest.approx(row.nats, rel=0.1)
        assert row.dose == pytest.approx(row.coefficient * kv.unit_dose(tiny, own, chats))
        part = kv.evaluate(
            tiny, task, own, n=N, split="dev", seed=2, generation={"max_new_tokens": 48}, progress=False
        ).of(own.label)
        assert (row.accuracy, row.tokens, row.adopted) == (
            part.correct.mean(),
            part.tokens.mean(),
            (part["style"] == "stepwise").mean(),
        )
    assert table.coefficient[0] < table.coefficient[2] and table.tokens[0] != table.tokens[2], (
        "a larger divergence takes more, and does more"
    )


def test_random_vectors_are_made_as_large_as_it_takes(tiny, task, methods, table):
    """Of equal norm they hardly move the model; scaled to equal divergence, they are another control."""
    row = table[(table.method == "cache") & (table.nats == 1.2)].iloc[0]
    assert row.matched == 6 and row.p_random >= 1 / 7
    equal = kv.CacheSteering(methods["cache"].vectors, 0, row.coefficient)
    chats = [task.chat(q) for q in task.questions("dev", N, 2)]
    texts = kv.generate(tiny, chats, generation={"max_new_tokens": 48}).token_ids
    moved = [sum(kv.divergence(tiny, chats, texts, c).totals) / N for c in kv.random_controls(equal, 6, 2)]
    assert max(moved) < 1.2
    other = match_divergence(tiny, task, methods, [1.2], controls=1, seed=4, **QUICK)
    assert other.random_low[0] == other.random_high[0] and other.matched.tolist()[0] == 1
    assert other.p_random[0] == kv.stats.control_p(other.accuracy[0], [other.random_low[0]])


def test_a_tolerance_bounds_the_search(tiny, task, methods):
    """Halving within a factor of two from 1 stops where it is within the tolerance of what a finer search finds."""
    few = dict(span=2.0, controls=0) | QUICK
    fine, coarse = (
        match_divergence(tiny, task, {"cache": methods["cache"]}, [1.2], tolerance=t, **few) for t in (0.01, 0.4)
    )
    assert 0 < abs(math.log(fine.coefficient[0] / coarse.coefficient[0])) < 0.4


def test_methods_are_tested_against_the_first_on_the_same_questions(tiny, task, methods):
    both = {"cache": methods["cache"], "the same": methods["cache"]}
    table = match_divergence(tiny, task, both, [1.2], controls=0, **QUICK)
    assert math.isnan(table.p_first[0]) and table.p_first[1] == 1.0 and table.accuracy[0] == table.accuracy[1]
    assert "matched" not in table and "p_random" not in table


def test_what_isn_t_reached_has_no_numbers(tiny, task, methods):
    table = match_divergence(tiny, task, {"cache": methods["cache"]}, [1.2, 1e5], controls=2, **QUICK)
    assert (
        table.accuracy.notna().tolist() == [True, False]
        and table.matched.tolist() == [2, 0]
        and math.isnan(table.kl[1])
    )
    nothing = match_divergence(tiny, task, {"cache": methods["cache"]}, [1e5], controls=0, **QUICK)
    assert nothing.nats.tolist() == [1e5] and math.isnan(nothing.coefficient[0])


def test_what_can_t_be_matched_is_refused(tiny, task, methods):
    steering = methods["cache"]
    for given, nats, settings, message in (
        ({}, [1], {}, "There are no steerings to compare"),
        ({"a": steering}, [], {}, r"one or more positive numbers of nats, not \[\]"),
        ({"a": steering}, [0.0], {}, "positive numbers of nats"),
        ({"a": steering}, [float("nan")], {}, "positive numbers of nats"),
        ({"a": steering}, [1], dict(span=1), "span must be a number above 1, not 1"),
        ({"a": steering}, [1], dict(tolerance=0), "tolerance must be a positive number, not 0"),
        (
            {"a": kv.CacheSteering(steering.vectors, 0, 0)},
            [1],
            {},
            "The coefficient of 'a' is 0, so there is nothing to scale",
        ),
        ({"a": kv.CacheSteering(steering.vectors * 0.0, 0, 1)}, [1], {}, "so no coefficient does anything"),
        ({"a": kv.CoTPrompt()}, [1], {}, "A steering is asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            match_divergence(tiny, task, given, nats, **settings)
