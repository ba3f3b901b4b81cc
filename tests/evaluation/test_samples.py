"""Several sampled replies a question, gaps in the verdicts, and interrupted runs, in every table of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.evaluation.bands import band
from kvsteer_lab.evaluation.measures import measure
from kvsteer_lab.evaluation.side_effects import letter_shift


def sampled(correct: Mapping[str, np.ndarray], complete: bool = True, n: int | None = None) -> kv.Results:
    """Results from verdicts [questions, samples] by intervention; a label that begins with "random" controls
    "steered".
    """
    rows = []
    for label, verdicts in correct.items():
        control = label.startswith("random")
        for (question, sample), right in np.ndenumerate(verdicts):
            rows.append(
                {
                    **dict(question=f"q{question}", intervention=label, sample=sample, forced="", closing=""),
                    **dict(control_of="steered" if control else None, control_kind="random" if control else None),
                    **dict(text="A b c" if right else "B", finish_reason="eos", tokens=3 if right else 1, gold="A"),
                    **dict(read_answer="A" if right else "B", by_answer="A" if right else "B", choice_forced=False),
                    **dict(correct=bool(right), style="stepwise" if sample else "direct", reasoned=bool(sample)),
                    "repetition": 0.0,
                }
            )
    settings = dict(model="m", task="t", n=n or len(next(iter(correct.values()))))
    return kv.Results(pd.DataFrame(rows), settings, complete)


@pytest.fixture
def verdicts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    chance = rng.random(40)
    return {
        "baseline": rng.random((40, 8)) < (0.8 * chance)[:, None],
        "steered": rng.random((40, 8)) < (0.3 + 0.7 * chance)[:, None],
        "random 0": rng.random((40, 8)) < chance[:, None],
        "random 1": rng.random((40, 8)) < chance[:, None],
    }


def test_the_summary_counts_every_sample_and_clusters_by_question(verdicts: dict[str, np.ndarray]) -> None:
    table = sampled(verdicts).summary()
    row, questions = table.loc["steered"], np.arange(40).repeat(8)
    assert (row.n, row.samples) == (40, 8) and "planned" not in table
    assert row.accuracy == pytest.approx(verdicts["steered"].mean())
    share = kv.stats.clustered_share(verdicts["steered"].reshape(-1), questions)
    assert (row.low, row.high) == pytest.approx((share.low, share.high))
    flat = verdicts["steered"].reshape(-1), verdicts["baseline"].reshape(-1)
    assert row.p == pytest.approx(kv.stats.paired_permutation(*flat, questions)) == pytest.approx(row.p_holm)
    assert row.reasoned == pytest.approx(7 / 8), "the first sample alone never reasons here"
    assert row.tokens == pytest.approx(1 + 2 * row.accuracy)
    assert table.loc["2 random vectors"].accuracy == pytest.approx(
        np.mean([verdicts["random 0"], verdicts["random 1"]])
    )
    assert row.p_random == kv.stats.control_p(row.accuracy, [verdicts["random 0"].mean(), verdicts["random 1"].mean()])


def test_error_bars_shrink_where_samples_tell_more(verdicts: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    even = {"baseline": rng.random((40, 8)) < 0.5}
    all_of_them = sampled(even).summary().loc["baseline"]
    first = sampled({"baseline": even["baseline"][:, :1]}).summary().loc["baseline"]
    assert all_of_them.high - all_of_them.low < 0.5 * (first.high - first.low)


def test_compare_uses_every_sample(verdicts: dict[str, np.ndarray]) -> None:
    row = kv.compare(sampled(verdicts)).iloc[0]
    questions = np.arange(40).repeat(8)
    ours, theirs = (verdicts[label].reshape(-1) for label in ("steered", "baseline"))
    gain = kv.stats.paired_difference(ours, theirs, clusters=questions)
    assert (row.n, row.samples) == (40, 8)
    assert (row.gain, row.low, row.high) == pytest.approx((gain.value, gain.low, gain.high))
    assert row.gained == (verdicts["steered"].sum(1) > verdicts["baseline"].sum(1)).sum()
    assert row.lost == (verdicts["steered"].sum(1) < verdicts["baseline"].sum(1)).sum()
    assert row.p == pytest.approx(kv.stats.paired_permutation(ours, theirs, questions))


def test_the_order_of_the_rows_means_nothing(verdicts: dict[str, np.ndarray]) -> None:
    results = sampled(verdicts)
    mixed = kv.Results(results.rows.sample(frac=1, random_state=0), results.settings)
    assert mixed.summary().loc["steered"].to_dict() == pytest.approx(results.summary().loc["steered"].to_dict())
    columns = ["gain", "low", "high", "p", "gained", "lost"]
    assert kv.compare(mixed)[columns].iloc[0].tolist() == pytest.approx(kv.compare(results)[columns].iloc[0].tolist())
    assert kv.side_effects(mixed).longer["steered"] == pytest.approx(kv.side_effects(results).longer["steered"])


def test_side_effects_rules_and_styles_use_every_sample(verdicts: dict[str, np.ndarray]) -> None:
    results = sampled(verdicts)
    table = kv.side_effects(results)
    gain = verdicts["steered"].mean() - verdicts["baseline"].mean()
    assert table.longer["steered"] == pytest.approx(2 * gain)
    assert table.letter_shift["steered"] == pytest.approx(gain) and table.letter_p["steered"] < 0.001
    assert table["style"]["steered"] == "stepwise" and table.style_share["steered"] == pytest.approx(7 / 8)
    assert results.by_rule().answer["steered"] == pytest.approx(verdicts["steered"].mean())
    assert results.style_shares().stepwise["steered"] == pytest.approx(7 / 8)


def test_a_measure_of_a_cell_uses_every_sample(verdicts: dict[str, np.ndarray]) -> None:
    row = measure(sampled(verdicts).of("steered"), "stepwise")
    share = kv.stats.clustered_share(verdicts["steered"].reshape(-1), np.arange(40).repeat(8))
    assert (row["n"], row["low"], row["high"]) == (40, pytest.approx(share.low), pytest.approx(share.high))
    assert row["adopted"] == pytest.approx(7 / 8)


@pytest.mark.parametrize("gap", ["correct", "tokens", "repetition", "reasoned"])
def test_a_missing_verdict_or_length_is_not_left_out_silently(verdicts: dict[str, np.ndarray], gap: str) -> None:
    results = sampled(verdicts)
    rows = results.rows.astype({gap: object})
    rows.loc[5, gap] = None
    holed = kv.Results(rows, results.settings)
    calls: list[Any] = [holed.summary, lambda: kv.side_effects(holed), lambda: measure(holed.of("baseline"), None)]
    for call in calls + ([lambda: kv.compare(holed)] if gap == "correct" else []):
        with pytest.raises(
            ValueError, match=rf"1 of \d+ replies have no value of '{gap}' \(for one, 'baseline' on question"
        ):
            call()


def test_a_missing_number_is_not_an_effect_of_zero() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        band(float("nan"), [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN or infinity"):
        band(0.5, [0.1, float("nan")])


def test_tables_of_an_interrupted_run_say_so(verdicts: dict[str, np.ndarray]) -> None:
    part = sampled(verdicts, complete=False, n=200)
    message = "interrupted: this table counts 40 of 200 questions"
    with pytest.warns(UserWarning, match=message):
        assert part.summary()[["n", "planned"]].iloc[0].tolist() == [40, 200]
    with pytest.warns(UserWarning, match=message):
        assert kv.compare(part)[["n", "planned"]].iloc[0].tolist() == [40, 200]
    with pytest.warns(UserWarning, match=message):
        assert kv.side_effects(part)[["n", "planned"]].iloc[0].tolist() == [40, 200]
    for table in (part.by_rule, part.style_shares):
        with pytest.warns(UserWarning, match=message):
            table()
    assert "Interrupted" in part._repr_html_() and "planned" in part._repr_html_()


def test_interventions_on_different_questions_are_not_compared(verdicts: dict[str, np.ndarray]) -> None:
    results = sampled(verdicts)
    gone = (results.rows.intervention == "steered") & (results.rows.question == "q3")
    holed = kv.Results(results.rows[~gone], results.settings)
    with pytest.raises(ValueError, match="'steered' answered other questions"):
        kv.compare(holed)
    with pytest.raises(ValueError, match="answered different questions"):
        kv.side_effects(holed)
    with pytest.raises(ValueError, match="answer different questions"):
        holed.summary()


def test_letters_that_move_in_separate_groups_are_tested() -> None:
    """A and B change places, and so do C and D: the usual matrix has no inverse, which is not the same as no effect."""
    ours, theirs = list("AAAAAAAAAAB") + list("CCCCCCCCCCD"), list("BBBBBBBBBBA") + list("DDDDDDDDDDC")
    shift, p = letter_shift(ours, theirs)
    assert shift == pytest.approx(18 / 22) and p < 0.001


def test_letters_of_several_samples_are_clustered_by_question() -> None:
    ours, theirs = list("AAAAAB"), list("BBABAA")
    once = letter_shift(ours, theirs)
    again = letter_shift(ours * 5, theirs * 5, list(range(6)) * 5)
    assert again == pytest.approx(once)
