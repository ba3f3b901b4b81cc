"""Side effects and comparisons, against numbers worked out by hand on results made up for the purpose."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

import kvsteer_lab as kv
from kvsteer_lab.evaluation.side_effects import letter_shift
from kvsteer_lab.stats.texts import is_loop, is_refusal


def made_up(correct, task="t", letters=None, texts=None):
    """Results of which only the verdicts, and perhaps letters and texts, matter."""
    rows = []
    for label, verdicts in correct.items():
        for q, right in enumerate(verdicts):
            text = texts[label][q] if texts else "The answer is A."
            read = letters[label][q] if letters else ("A" if right else "B")
            rows.append(
                dict(
                    question=f"q{q}",
                    intervention=label,
                    sample=0,
                    control_of=None,
                    control_kind=None,
                    text=text,
                    forced="",
                    closing="",
                    finish_reason="eos",
                )
                | dict(
                    tokens=len(text.split()),
                    gold="A",
                    read_answer=read,
                    choice_forced=False,
                    correct=right,
                    style="direct",
                    reasoned=False,
                )
                | dict(repetition=0.0, by_answer=read)
            )
    return kv.Results(pd.DataFrame(rows), dict(model="m", task=task))


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("so the answer is four " * 3, True),
        ("First. " + "and then we add two more " * 4 + "and then", True),  # cut in the middle of a turn
        ("no " * 12, True),
        ("no " * 11, False),
        ("Step 1: 3 + 4 = 7. Step 2: 7 - 2 = 5. The answer is 5.", False),
        ("a b c d e f a b c d e f", False),  # twice is no loop
        # it got out
        ("and then we add two more " * 4 + "so the answer is 12, because that is what remains of it now.", False),
        ("Step" * 60, True),  # one word that breaks down
        ("The answer is " + "23" * 24, True),
        ("The answer is " + "23" * 23, False),  # too short to tell
        ("https://example.org/a/rather/long/path/that/never/repeats/itself.html", False),
        ("", False),
    ],
)
def test_a_loop_is_three_turns_at_the_end(text, loops):
    assert is_loop(text) is loops


def test_refusals_open_by_declining():
    assert (
        is_refusal("I’m sorry, but I can't help with that.")
        and is_refusal("As an AI language model, I")
        and is_refusal("I cannot answer this.")
    )
    assert not is_refusal("The answer is 4. I can't see another way.") and not is_refusal("I can help: 4.")


def test_letter_shift_is_the_total_variation_and_the_stuart_maxwell_test():
    same = list("ABCDABCD")
    assert letter_shift(same, same) == (0.0, 1.0)
    assert letter_shift(["A"] * 8, same)[0] == pytest.approx(0.75)
    # Two letters: Stuart-Maxwell is McNemar's chi-square, (b - c)^2 / (b + c).
    ours, theirs = ["A"] * 10 + ["B"] * 2 + ["A"] * 5, ["B"] * 10 + ["A"] * 2 + ["A"] * 5
    shift, p = letter_shift(ours, theirs)
    assert shift == pytest.approx(8 / 17) and p == pytest.approx(chi2.sf(8**2 / 12, 1))
    # A letter that nobody moved from or to changes nothing.
    assert letter_shift([*ours, "C"], [*theirs, "C"])[1] == pytest.approx(p)
    assert letter_shift(["A", None], ["A", "A"])[0] == pytest.approx(0.5)


def test_side_effects_of_made_up_replies():
    texts = {
        "baseline": ["The answer is A."] * 4,
        "long": ["I'm sorry, no.", "", "so it goes on and on and " * 5, "The answer is A."],
    }
    results = made_up(
        {"baseline": [True] * 4, "long": [True, False, True, True]},
        letters={"baseline": list("AAAA"), "long": list("ABAA")},
        texts=texts,
    )
    table = kv.side_effects(results)
    assert table.refused["long"] == table.blank["long"] == table.loops["long"] == 0.25
    assert table.tokens["long"] == pytest.approx((3 + 0 + 35 + 4) / 4) and table.longer["long"] == pytest.approx(
        table.tokens["long"] - 4
    )
    assert table.longer_low["long"] < table.longer["long"] < table.longer_high["long"]
    assert table.letter_shift["long"] == 0.25 and pd.isna(table.letter_shift["baseline"])
    assert table.style_share.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="no intervention 'base'"):
        kv.side_effects(results, "base")


def test_compare_pairs_questions_and_corrects_over_all_tasks():
    base = [False] * 10 + [True] * 10
    better = [True] * 8 + [False] * 2 + [True] * 9 + [False]
    first = made_up({"baseline": base, "steered": better, "idle": base}, "one")
    second = made_up({"baseline": base, "steered": base[::-1], "idle": base}, "two")
    table = kv.compare([first, second]).set_index(["task", "intervention"])
    one = table.loc["one", "steered"]
    assert (one.gained, one.lost, one.gain) == (8, 1, pytest.approx(7 / 20))
    assert one.p == pytest.approx(kv.stats.mcnemar(better, base)) and one.low < one.gain < one.high
    assert table.p_holm.tolist() == pytest.approx(kv.stats.holm(table.p.tolist())) and len(table) == 4
    assert table.loc["two", "idle"].p == 1.0 and table.loc["two", "idle"].gain == 0
    assert kv.compare(first, against="idle", interventions=["steered"]).p_holm.tolist() == pytest.approx([one.p])


def test_comparisons_that_can_t_be_made_are_refused():
    results = made_up({"baseline": [True, False], "steered": [True, True]})
    with pytest.raises(ValueError, match="nothing to compare; pass the results"):
        kv.compare([])
    with pytest.raises(ValueError, match="no intervention 'CoT prompt'; choose one of: baseline, steered"):
        kv.compare(results, against="CoT prompt")
    with pytest.raises(ValueError, match="same model, task and interventions"):
        kv.compare([results, results])
    with pytest.raises(ValueError, match="nothing but 'baseline'"):
        kv.compare(made_up({"baseline": [True, False]}))


def test_readable_tables_hide_no_p_value_and_invent_none():
    nothing = float("nan")
    shown = kv.readable(
        pd.DataFrame({"p": [0.0004, 0.04, nothing], "p_holm": [1.0, 0.5, 0.0], "style": ["a", "b", None]})
    )
    assert shown.p.tolist() == ["<0.001", "0.040", ""] and shown.p_holm.tolist() == ["1.000", "0.500", "<0.001"]
    assert shown["style"].tolist() == ["a", "b", ""]


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ([0.5, 0.125, 1e-6], ["0.500", "0.125", "0.000"]),
        ([1.0, 0.0667], ["1.00", "0.07"]),
        ([6.0, 31.12], ["6.0", "31.1"]),
        ([0.12345, 12345.6, -1.0], ["0.12", "12345.60", "-1.00"]),
        ([0.25, 0.5], ["0.25", "0.50"]),
        ([3.0, float("nan"), -0.0], ["3", "", "0"]),
        ([0, 1.5, np.float32(2)], ["0.0", "1.5", "2.0"]),
        ([-0.001, 0.5], ["-0.001", "0.500"]),
        ([-0.001, 1.0], ["0", "1"]),
        ([0.0023, 0.0], ["0.0023", "0.0000"]),
        ([3e-6, 0.0], ["3.00e-06", "0.00e+00"]),
        ([10**8, 1], ["100000000", "1"]),
        ([2**53 + 1, 1], ["9007199254740993", "1"]),
        ([True, False], ["True", "False"]),
        (["baseline", 1.5, 2], ["baseline", "1.5", "2.0"]),
        ([float("inf"), 0.5], ["inf", "0.5"]),
    ],
    ids=str,
)
def test_a_column_has_one_format(numbers: list[object], written: list[str]) -> None:
    assert kv.readable(pd.DataFrame({"x": numbers})).x.tolist() == written


def test_whole_numbers_stay_whole_beside_words_and_gaps() -> None:
    table = pd.DataFrame(
        {"layer": pd.Series([0, None, 3], dtype=object), "inject": [1, 2, "all"], "x": [1.0, 2.0, 3.0]}
    )
    shown = kv.readable(table, decimals=2)
    assert shown.layer.tolist() == ["0", "", "3"] and shown.inject.tolist() == ["1", "2", "all"]
    assert shown.x.tolist() == ["1.00", "2.00", "3.00"]
    assert kv.readable(pd.DataFrame({"x": [0.25, -1e-9]}), decimals=7).x.tolist() == ["0.2500000", "0.0000000"]


def test_an_interval_is_written_as_its_estimate() -> None:
    table = pd.DataFrame(
        {
            "n": [24.0],
            "accuracy": [1.0],
            "low": [0.8622],
            "high": [1.0],
            "gain_low": [-0.0976],
            "p": [0.04],
            "gain": [2],
        }
    ).assign(random_low=0.1234, random_high=0.5)
    shown = kv.readable(table).iloc[0]
    assert shown.tolist() == ["24", "1.00", "0.86", "1.00", "-0.1", "0.040", "2", "0.123", "0.500"]
    beneath = pd.DataFrame(
        {("", "gain"): [0.5], ("random", "low"): [0.1234], ("random", "high"): [1.0], ("random", "p"): [1e-4]}
    )
    assert kv.readable(beneath).iloc[0].tolist() == ["0.5", "0.12", "1.00", "<0.001"]
    assert kv.readable(table, decimals=1).iloc[0].tolist()[:5] == ["24.0", "1.0", "0.9", "1.0", "-0.1"]


def test_control_cosines_find_the_true_direction(tiny):
    task = kv.tasks.get("tiny-arithmetic")
    steering = kv.CacheSteering(
        kv.extract(
            tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=4, shots=1), progress=False
        ),
        0,
        2,
    )
    table = kv.analysis.control_cosines(steering, [kv.sign_flip(steering), *kv.random_controls(steering, 3)])
    flipped = table[table.control.str.startswith("sign flip")]
    assert flipped.layer.tolist() == [1, 2, 3] and flipped["values"].tolist() == pytest.approx([-1.0] * 3)
    assert table[~table.control.str.startswith("sign flip")][["keys", "values"]].abs().max().max() < 0.6
    with pytest.raises(ValueError, match="no controls to compare"):
        kv.analysis.control_cosines(steering, [])
