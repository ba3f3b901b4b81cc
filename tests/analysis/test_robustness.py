"""The robustness number on planted curves, where it is known exactly, and the run that it is made from."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.analysis.dose.objectives import robustness_outcomes
from kvsteer_lab.analysis.dose.robustness import robustness, robustness_curve

POINTS, QUESTIONS = 9, 20
RATIOS = [4 ** (i / 4 - 1) for i in range(POINTS)]
NEW = {"max_new_tokens": 48}


def planted(
    gain: Any, random: Any = None, base: int = 0, method: str = "planted", ratios: Any = RATIOS
) -> pd.DataFrame:
    """Outcomes in which `gain(ratio)` more of the 20 questions than the baseline's first `base` are answered, the next
    ones in order.
    """

    def rows(vector: str, ratio: float, right: int) -> list[dict[str, Any]]:
        place = dict(method=method, ratio=ratio, coefficient=2 * ratio, dose=3 * ratio, vector=vector)
        return [dict(place, question=f"q{i}", correct=i < right, reasoned=False) for i in range(QUESTIONS)]

    found = rows("baseline", float("nan"), base)
    for ratio in ratios:
        found += rows("steering", ratio, base + round(gain(ratio) * QUESTIONS))
        for name, other in enumerate(random or []):
            found += rows(f"random {name}", ratio, base + round(other(ratio) * QUESTIONS))
    return pd.DataFrame(found)


def number(*given: Any, **settings: Any) -> pd.Series:
    return robustness(planted(*given, **settings), resamples=400).iloc[0]


@pytest.mark.parametrize("base", [0, 5])
def test_a_flat_curve_has_1_and_a_step_the_share_above_it(base):
    assert number(lambda r: 0.75, base=base).robustness == 1.0
    for first, share in ((0, 9), (2, 7), (4, 5)):
        assert number(lambda r, at=RATIOS[first]: 0.75 * (r >= at * 0.999), base=base).robustness == pytest.approx(
            share / 9
        )
    window = number(lambda r: 0.5 * (0.5 <= r <= 2.001), base=base)
    assert window.robustness == pytest.approx(5 / 9) and (window.low, window.high) == pytest.approx((5 / 9, 5 / 9))
    assert number(lambda r: 0.5 * (r == 1)).robustness == pytest.approx(1 / 9), (
        "c* itself is on the grid and always counts"
    )


def test_a_gain_on_every_question_keeps_an_interval():
    """The bootstrap over questions said [1, 1]."""
    sure = kv.stats.paired_difference([True] * QUESTIONS, [False] * QUESTIONS)
    row, curve = number(lambda r: 1.0), robustness_curve(planted(lambda r: 1.0))
    assert (row.gain, row.gain_low, row.gain_high) == (1.0, sure.low, sure.high) and sure.low < 0.8
    assert curve.low.tolist() == [sure.low] * POINTS


def test_exactly_what_must_be_kept_is_kept():
    """0.4 is 80% of 0.5 and 0.35 is less; a larger gain than at c* counts, too."""
    curve = dict(zip(RATIOS, (0.0, 0.35, 0.4, 0.45, 0.5, 0.75, 0.5, 0.39, 0.1), strict=True))
    # 0.39 is rounded to 8 of 20, and 8 of 20 are 0.4
    assert number(curve.__getitem__).robustness == pytest.approx(6 / 9)
    assert robustness(planted(curve.__getitem__), keep=0.9).robustness[0] == pytest.approx(4 / 9)
    assert robustness(planted(curve.__getitem__), keep=1.0).robustness[0] == pytest.approx(3 / 9)
    found = robustness_curve(planted(curve.__getitem__))
    assert found.kept.tolist() == [False, False, True, True, True, True, True, True, False]
    assert found.needed.unique() == pytest.approx([0.4]) and found.kept.mean() == pytest.approx(6 / 9)
    assert found.dose.tolist() == pytest.approx([3 * r for r in RATIOS])


def test_random_vectors_are_held_against_the_steerings_gain():
    """One random vector does all that the steering does from twice c* on, the other half of it: they hold 3/9 and
    0/9.
    """
    own = planted(lambda r: 0.8, [lambda r: 0.8 * (r >= 1.99), lambda r: 0.4])
    found = robustness(own).iloc[0]
    assert (found.robustness, found["random"], found.random_most) == pytest.approx((1.0, 1.5 / 9, 3 / 9))
    assert found.p_random == pytest.approx(1 / 3)
    assert 0 == found.random_low < found["random"] < found.random_high == pytest.approx(3 / 9), (
        "both questions and vectors are resampled"
    )
    curve = robustness_curve(own)
    assert curve.random_kept.tolist() == [0] * 6 + [0.5] * 3 and curve["random"].tolist() == pytest.approx(
        [0.2] * 6 + [0.6] * 3
    )
    better = robustness(planted(lambda r: 0.5 * (r >= 0.99), [lambda r: 0.5])).iloc[0]
    assert (better["random"], better.p_random) == (1.0, 1.0)


def test_the_interval_covers_questions_and_is_the_bootstrap_s():
    """Where the gain next to c* is just what is needed, a resample keeps it or doesn't."""
    own = planted(lambda r: {True: 0.4, False: 0.5}[r < 0.99])
    found = robustness(own, resamples=2000).iloc[0]
    assert found.robustness == 1.0 and found.low == pytest.approx(5 / 9) and found.high == 1.0
    assert found.gain == 0.5 and found.gain_low < 0.5 < found.gain_high
    assert robustness(own, seed=0).equals(robustness(own, seed=0))


@pytest.mark.parametrize("gain", [lambda r: 0.0, lambda r: -0.25, lambda r: 0.5 * (r > 1.1), lambda r: 0.05])
def test_without_a_gain_at_c_star_the_number_is_undefined_and_says_so(gain):
    outcomes = planted(gain, [lambda r: 0.5], base=8)
    found = robustness(outcomes).iloc[0]
    assert (
        found[["robustness", "low", "high", "random", "random_low", "random_high", "random_most", "p_random"]]
        .isna()
        .all()
    )
    assert found.reason.startswith("The gain at c* is ") and found.reason.endswith(
        "not distinguishable from zero, so there is nothing to keep a share of."
    )
    curve = robustness_curve(outcomes)
    assert curve.kept.isna().all() and curve.random_kept.isna().all()
    figure = kv.figures.plot_robustness(curve)
    assert "undefined: no gain" in figure.axes[0].get_title()


def test_a_handful_of_questions_is_no_gain():
    """Five of five gained give a bootstrap without width, and p = 0.06; six give 0.03."""
    for questions, told in ((5, False), (6, True)):
        outcomes = planted(lambda r: 1.0)
        few = outcomes[outcomes.question.isin([f"q{i}" for i in range(questions)])]
        assert robustness(few).robustness.notna()[0] == told and robustness_curve(few).kept.notna().all() == told


def test_methods_are_kept_apart():
    both = pd.concat([planted(lambda r: 0.5), planted(lambda r: 0.5 * (r >= 0.99), [lambda r: 0.0], method="other")])
    found = robustness(both).set_index("method")
    assert (
        found.robustness.tolist() == pytest.approx([1.0, 5 / 9])
        and np.isnan(found["random"]["planted"])
        and found["random"]["other"] == 0
    )
    figure = kv.figures.plot_robustness(robustness_curve(both))
    assert [a.get_title().split("\n")[-1] for a in figure.axes] == ["robustness 1.00", "robustness 0.56, random 0.00"]


def test_what_has_no_number_is_refused():
    good = planted(lambda r: 0.5, [lambda r: 0.1])
    for wrong, message in (
        (good[good.ratio != 1], "doesn't hold c\\* \\(a ratio of 1\\)"),
        (good[:0], "There are no outcomes"),
        (good.drop(columns="vector"), "There are no outcomes"),
        (good[good.vector != "baseline"], "need rows of the baseline and of the steering"),
        (good[good.vector != "steering"], "need rows of the baseline and of the steering"),
        (good[good.question == "q0"], "at least two questions"),
        (
            good.drop(index=good[good.vector == "steering"].index[3]),
            "the same questions at every coefficient and vector",
        ),
        (
            good.drop(index=good[good.vector == "random 0"].index[:QUESTIONS]),
            "the same questions at every coefficient and vector",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            robustness(wrong)
    for settings, message in (
        (dict(keep=0), "must lie between 0 and 1, not be 0"),
        (dict(keep=1.2), "not be 1.2"),
        (dict(objective="style"), "choose 'correct' or 'reasoned'"),
        (dict(resamples=0), "An interval needs resamples, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            robustness(good, **settings)


@pytest.fixture(scope="module")
def task() -> kv.tasks.Task:
    return kv.tasks.get("tiny-arithmetic")


@pytest.fixture(scope="module")
def pairs(tiny, task) -> kv.ContrastiveSet:
    return kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=32, shots=3)


@pytest.fixture(scope="module")
def own(tiny, pairs) -> kv.KVVectors:
    return kv.extract(tiny, pairs, progress=False)


def run(tiny: kv.Model, task: Any, steering: Any, tuned_on: Any = (), **settings: Any) -> pd.DataFrame:
    return robustness_outcomes(
        tiny,
        task,
        steering,
        tuned_on,
        **{"n": 6, "points": 5, "controls": 2, "generation": NEW, "progress": False, **settings},
    )


@pytest.mark.parametrize("kind", ["cache", "activation"])
def test_outcomes_are_those_of_separate_runs(tiny, task, pairs, own, kind):
    """Cache steering keeps its ratio of ck to cv; random vectors are the same directions at every coefficient."""
    if kind == "cache":
        star: Any = kv.CacheSteering(own, 0.5, 1.5, name="mine")
        at = [kv.CacheSteering(own, 0.5 * r, 1.5 * r, name=f"{r:g}") for r in (0.25, 0.5, 1, 2, 4)]
        drawn = kv.random_controls(at[-1], 2, 0)
    else:
        star = kv.ActivationSteering(kv.extract_activations(tiny, pairs, progress=False), 1, 1.5, name="mine")
        at = [kv.ActivationSteering(star.vectors, 1, 1.5 * r, name=f"{r:g}") for r in (0.25, 0.5, 1, 2, 4)]
        drawn = kv.random_activation_controls(at[-1], 2, 0)
    found = run(tiny, task, star)
    assert found.groupby("vector").ratio.nunique().to_dict() == {
        "baseline": 0,
        "random 0": 5,
        "random 1": 5,
        "steering": 5,
    }
    separate = kv.evaluate(tiny, task, [*at, *drawn], n=6, generation=NEW, progress=False)
    for r, method in zip((0.25, 0.5, 1, 2, 4), at, strict=True):
        part = found[(found.vector == "steering") & np.isclose(found.ratio, r)]
        assert (
            part.correct.tolist() == separate.of(method.label).correct.tolist()
            and part.question.tolist() == separate.of(method.label).question.tolist()
        )
        assert part.adopted.tolist() == (separate.of(method.label)["style"] == "stepwise").tolist()
        assert part.coefficient.unique() == pytest.approx([1.5 * r])
        assert part.dose.iloc[0] == pytest.approx(
            1.5 * r * kv.unit_dose(tiny, star, [task.chat(q) for q in task.questions("test", 6, 0)])
        )
    for i, control in enumerate(drawn):
        part = found[(found.vector == f"random {i}") & np.isclose(found.ratio, 4)]
        assert part.reasoned.tolist() == separate.rows[separate.rows.intervention == control.label].reasoned.tolist()
    assert found[found.vector == "steering"].reasoned.nunique() == 2, "some coefficient acts and some doesn't"


def test_c_star_is_chosen_on_other_questions(tiny, task, own):
    steering = kv.CacheSteering(own, 0, 1.0)
    table = kv.dose_response(tiny, task, steering, [0.5, 2.0, 3.0], n=6, controls=1, max_new_tokens=48, progress=False)
    assert table.attrs["questions"] == [q.id for q in task.questions("dev", 6, 0)]
    planted_table = table.assign(accuracy=[0.1, 1, 0.7, 0, 0.7, 0], reasoned=[0.2, 0, 0.3, 0, 0.9, 0])
    assert (kv.analysis.best_coefficient(planted_table), kv.analysis.best_coefficient(planted_table, "reasoned")) == (
        2.0,
        3.0,
    )
    with pytest.raises(ValueError, match="6 questions were used in tuning and are among the test questions"):
        run(tiny, task, steering, table.attrs["questions"], split="dev")
    with pytest.raises(ValueError, match="no rows of the steering itself"):
        kv.analysis.best_coefficient(table[table.vector != "steering"])
    with pytest.raises(ValueError, match="choose 'correct' or 'reasoned'"):
        kv.analysis.best_coefficient(table, "style")
    with pytest.raises(ValueError, match="no coefficients and doses of a steering"):
        kv.analysis.best_coefficient(pd.DataFrame())
    table.attrs["split"] = "test"
    with pytest.raises(ValueError, match="A coefficient is never chosen on test questions"):
        kv.analysis.best_coefficient(table)


def test_a_run_that_can_give_no_number_is_refused(tiny, task, own):
    steering = kv.CacheSteering(own, 0, 2)
    for wrong, settings, message in (
        (steering, dict(points=4), "points=4 leaves c\\* off the grid"),
        (steering, dict(points=3.5), "points=3.5 leaves"),
        (steering, dict(points=1), "choose an odd number of at least 3"),
        (steering, dict(span=1.0), "The span must be a number above 1, not 1.0"),
        (steering, dict(span=float("nan")), "not nan"),
        (kv.CacheSteering(own, 0, 0), {}, "is 0, so there is nothing to scale"),
        (
            kv.CacheSteering(own * 0.0, 0, 2),
            {},
            "are zero in all of its layers and heads, so no coefficient does anything",
        ),
        (kv.CacheSteering(own, 1, 0), {}, "is 0, so there is nothing to scale"),
        (kv.CacheSteering(own, 1, 2, layers=[0]), {}, "adds is zero at every coefficient"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny, task, wrong, **settings)
    for steering, message in (
        (kv.CacheSteering(own, 0, 2, layers=[0]), "adds is zero at every coefficient"),
        (kv.CacheSteering(own * 0.0, 0, 2), "are zero in all of its layers and heads, so no coefficient does anything"),
    ):
        with pytest.raises(ValueError, match=message):
            kv.dose_response(tiny, task, steering, [1.0], n=2)
    with pytest.raises(ValueError, match="no coefficients to try"):
        kv.dose_response(tiny, task, kv.CacheSteering(own, 0, 2), [])
    with pytest.raises(
        ValueError, match="There is a coefficient nan in coefficients; coefficients must be finite numbers"
    ):
        kv.dose_response(tiny, task, kv.CacheSteering(own, 0, 2), [float("nan")])


def test_a_control_model_s_number_is_undefined(task):
    """On the model that no cache steering moves there is no gain to keep."""
    control = kv.load("tiny-control")
    vectors = kv.extract(
        control, kv.ContrastiveSet.few_shot(task, control.tokenizer, style="stepwise", n=16, shots=2), progress=False
    )
    found = robustness(run(control, task, kv.CacheSteering(vectors, 0, 1.0), points=3))
    assert np.isnan(found.robustness[0]) and found.gain[0] == 0 and "not distinguishable from zero" in found.reason[0]


def test_intervals_keep_a_width_where_all_questions_agree():
    """A bootstrap of questions that all change alike has none."""
    outcomes = planted(lambda ratio: float(ratio > 0.9), [], base=0)
    curve = robustness_curve(outcomes)
    n = int(curve.n[0])
    gained, alike = (kv.stats.paired_difference([value] * n, [False] * n) for value in (True, False))
    at_star, before = curve[curve.ratio == 1].iloc[0], curve.iloc[0]
    assert (at_star.gain, at_star.low, at_star.high) == pytest.approx((gained.value, gained.low, gained.high))
    assert (before.gain, before.low, before.high) == pytest.approx((alike.value, alike.low, alike.high))
    assert gained.low < 1 and alike.low < 0 < alike.high
    number = robustness(outcomes).iloc[0]
    assert (number.gain_low, number.gain_high) == pytest.approx((gained.low, gained.high))
