"""Outcomes: built in, one's own, measured anew from stored replies, each with its interval, test and controls."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import kvsteer_lab as kv
from kvsteer_lab.evaluation.outcomes.built_in import BUILT_IN, connectives, enumerates, words_before_answer
from kvsteer_lab.evaluation.outcomes.outcome import Outcome, Reply, as_outcomes


@pytest.fixture(scope="module")
def results():
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=20, shots=2)
    steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0.0, cv=6.0)
    methods = [kv.CoTPrompt(), steering, *steering.controls(9)]
    asked = {"max_new_tokens": 40}
    return kv.evaluate(model, task, methods, n=12, split="dev", generation=asked, progress=False)


def made(values, **columns):
    """Results of two interventions on the same questions, with given texts."""
    rows = [
        dict(
            question=f"q{i}",
            intervention=label,
            sample=0,
            control_of=None,
            control_kind=None,
            text=text,
            forced="",
            closing="",
            finish_reason="eos",
            tokens=len(text.split()),
            gold="1",
            read_answer="1",
            choice_forced=False,
            correct=True,
            style="other",
            reasoned=False,
            repetition=0.0,
            by_answer="1",
        )
        | columns
        for label, texts in values.items()
        for i, text in enumerate(texts)
    ]
    return kv.Results(pd.DataFrame(rows), {"version": "0"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is B.", 0),
        ("B", 0),
        ("B: bank", 0),
        ("A: pan\nB: bowl\nC: spoon", None),
        ("A: pan\n\nB: bowl\n\nThe answer is: B", 4),
        ("42", 0),
        ("Two and two make four. So the correct choice is B: bank.", 5),
        ("He buys 3 pens.\n#### 18", 4),
        ("We add.\n\n**Answer:** 18", 2),
        ("Answering is hard, whatever one may think of it.", None),
        ("A bank is where money is kept.", None),
    ],
)
def test_words_before_the_answer(text, expected):
    assert words_before_answer(None, Reply(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So the answer is B.", 0),
        ("Therefore, the correct choice is B.", 0),
        ("It rains. So the ground is wet, because water falls; hence the mud.", 3),
        ("She has been here since 1990 and it was so much fun that she stayed.", 0),
        ("Since it rains, it is wet. Therefore take a coat.", 2),
        ("Sofas and hence-like thusness", 1),
        ("They pay 3, so that they get 4, and so they leave.", 1),
    ],
)
def test_connectives(text, expected):
    assert connectives(None, Reply(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Add.\n2. Subtract.", True),
        ("**Step 1:** Add.\n\n**Step 2:** Subtract.", True),
        ("Step 1: add. Step 2: subtract.", True),
        ("### Step 1: x\n### Step 2: y", True),
        ("First, add. Then, subtract.", True),
        ("He has 2. Then 1 more.", False),
        ("1. The answer is B.", False),
        ("The price is 1.5 and 2.5.", False),
    ],
)
def test_enumeration(text, expected):
    assert enumerates(None, Reply(text)) is expected


def test_every_outcome_has_its_interval_test_and_controls(results):
    table = results.outcomes_table()
    steered = next(label for label in results.interventions if label not in ("baseline", "no offset", "CoT prompt"))
    for name in table.index.unique("outcome"):
        row = table.loc[(name, steered)]
        if row.n > 1:
            assert row.low <= row.value <= row.high, name
            assert 0 <= row.p <= row.p_holm <= 1, name
            assert row.difference_low <= row.difference <= row.difference_high, name
            assert 0.1 <= row.p_random <= 1 and row.random_low <= row.random_high, name
    assert set(table.index.unique("outcome")) == set(BUILT_IN) - {"kl"}, "KL wasn't measured"
    assert table.loc[("connectives", "baseline"), "p"] != table.loc[("connectives", "baseline"), "p"]


def test_shares_are_those_of_the_summary(results):
    table, summary = results.outcomes_table(), results.summary()
    for name, column in (
        ("accuracy", "accuracy"),
        ("reasoned", "reasoned"),
        ("tokens", "tokens"),
        ("cut", "truncated"),
    ):
        for label in results.interventions:
            assert table.loc[(name, label), "value"] == pytest.approx(summary.loc[label, column])
    assert table.loc[("accuracy", "CoT prompt"), "p"] == summary.loc["CoT prompt", "p"]
    assert table.loc[("accuracy", "baseline"), "low"] == summary.loc["baseline", "low"]


def test_holm_is_over_the_whole_table(results):
    table = results.outcomes_table()
    tested = table.p.notna()
    assert table.p_holm[tested].tolist() == kv.stats.holm(table.p[tested].tolist())


def test_the_control_p_value_counts_both_sides():
    frame = made({"baseline": ["a b"] * 4, "steered": ["a"] * 4}).rows
    controls = [
        made({f"random {i}": [text] * 4}, control_of="steered", control_kind="random").rows
        for i, text in enumerate(["a b c", "a b", "a b", "a b"])  # one as far from the baseline, on the other side
    ]
    rows = pd.concat([frame, *controls], ignore_index=True)
    found = kv.Results(rows, {}).measure("words").outcomes_table().loc[("words", "steered")]
    assert found.p_random == 2 / 5
    assert found.difference == -1.0


def test_a_function_of_ones_own(results):
    def commas(question, reply):
        "How many commas."
        assert question.answer and isinstance(reply, str)
        return reply.count(",")

    found = results.measure([commas, "words"])
    assert found.rows["outcome commas"].tolist() == [float(t.count(",")) for t in found.rows.forced + found.rows.text]
    assert found.outcomes_table().index.unique("outcome").tolist() == ["commas", "words"]
    assert found.settings["outcomes"]["commas"]["description"] == "How many commas."
    pd.testing.assert_frame_equal(found.rows[results.rows.columns], results.rows)
    pd.testing.assert_frame_equal(found.summary(), results.summary())


def test_evaluate_measures_them_with_the_questions_and_the_same_texts(results):
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    seen = []

    def longer_than_asked(question, reply):
        seen.append(question.text)
        return len(reply) > len(question.text)

    asked = dict(n=12, split="dev", generation={"max_new_tokens": 40}, progress=False)
    found = kv.evaluate(model, task, kv.CoTPrompt(), outcomes=[longer_than_asked, "direct"], **asked)
    assert all(seen) and found.outcomes_table().loc[("longer_than_asked", "baseline"), "unit"] == "share"
    assert found.of("CoT prompt").text.tolist() == results.of("CoT prompt").text.tolist()
    again = results.measure(longer_than_asked, task)
    assert (
        again.of("CoT prompt")["outcome longer_than_asked"].tolist()
        == found.of("CoT prompt")["outcome longer_than_asked"].tolist()
    )


def test_outcomes_survive_a_file_and_change_no_run(results, tmp_path):
    measured = results.measure(["words", "direct", "kl"])
    loaded = kv.Results.load(measured.save(tmp_path / "measured.parquet"))
    pd.testing.assert_frame_equal(loaded.outcomes_table(), measured.outcomes_table())
    assert kv.Results.load(results.save(tmp_path / "plain.parquet")).measure("words").rows["outcome words"].sum() > 0
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    asked = dict(n=2, split="dev", generation={"max_new_tokens": 4}, progress=False, out=tmp_path / "run")
    kv.evaluate(model, task, [], **asked)
    again = kv.evaluate(model, task, [], outcomes=["words"], **asked)
    assert "outcome words" in again.rows and "outcome words" not in kv.Results.load(tmp_path / "run").rows


def test_what_does_not_apply_is_left_out_of_mean_and_test():
    texts = {
        "baseline": ["The answer is 1.", "no", "x y. The answer is 1.", "no"],
        "other": ["no", "no", "a b c d. The answer is 1.", "The answer is 1."],
    }
    row = made(texts).measure("words before answer").outcomes_table()
    base, other = row.loc[("words before answer", "baseline")], row.loc[("words before answer", "other")]
    assert (base.n, base.value, other.n, other.value) == (2, 1.0, 2, 2.0)
    assert other.difference == 2.0, "one question has a value on both sides"


def test_samples_are_clustered_by_question():
    rng = np.random.default_rng(0)
    texts = [" ".join(["w"] * int(k)) for k in rng.integers(1, 20, 8)]
    once = made({"baseline": texts, "other": texts[::-1]})
    rows = pd.concat([once.rows, once.rows.assign(sample=1)], ignore_index=True)
    one, two = (kv.Results(r, {}).measure("words").outcomes_table() for r in (once.rows, rows))
    pd.testing.assert_frame_equal(one, two)  # a second sample that repeats the first tells nothing


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nonsense", "no outcome 'nonsense'"),
        (["words", "words"], "Two outcomes are called 'words'"),
        ([3], "is no outcome"),
        ([lambda question, reply: 1], "lambda has no name"),
    ],
)
def test_what_is_no_outcome_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_outcomes(given, BUILT_IN)
    with pytest.raises(ValueError, match=message):
        kv.evaluate(None, None, [], outcomes=given)


@pytest.mark.parametrize("value", ["three", [1], math.inf])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="The outcome 'odd' gave"):
        Outcome("odd", lambda question, reply: value).value(None, Reply("a"))
    with pytest.raises(ValueError, match="return 0 or 1"):
        Outcome("odd", lambda question, reply: 0.5, "share").value(None, Reply("a"))


def test_a_function_of_other_parameters_is_refused_before_anything_is_computed():
    for given in (lambda reply: 1.0, lambda question, reply, gold: 1.0):
        given.__name__ = "lone"
        for outcome in (given, kv.outcomes.Outcome("lone", given)):
            with pytest.raises(ValueError, match="The outcome 'lone' can't be called with a question and a reply"):
                kv.evaluate(None, None, [], outcomes=[outcome])
    assert as_outcomes([max], BUILT_IN)[0].name == "max", "of a function that isn't written in Python nothing is known"


def test_a_function_that_fails_costs_no_replies(results):
    def broken(question, reply):
        raise KeyError("oops")

    with pytest.raises(ValueError, match=r"The outcome 'broken' failed on question .* \(KeyError: 'oops'\); mend the"):
        results.measure([broken])
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    with pytest.warns(
        UserWarning, match=r"No outcome was measured: .*'broken' failed.* results\.measure\(\.\.\.\) measures"
    ):
        found = kv.evaluate(model, task, [], n=2, generation={"max_new_tokens": 4}, outcomes=[broken], progress=False)
    assert len(found.rows) == 4 and not any(column.startswith("outcome ") for column in found.rows)


def test_another_tasks_questions_are_refused(results):
    with pytest.raises(ValueError, match="pass the task that was evaluated"):
        results.measure("words", kv.tasks.get("tiny-tracking"))


def test_the_limit_is_the_tasks_unless_the_caller_says_otherwise():
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    task.max_new_tokens = 3
    assert kv.evaluate(model, task, [], n=2, split="dev", progress=False).rows.tokens.tolist() == [3] * 4
    asked = kv.evaluate(model, task, [], n=2, split="dev", generation={"max_new_tokens": 2}, progress=False)
    assert asked.rows.tokens.tolist() == [2] * 4


def test_cut_replies_are_counted_apart():
    results = made({"baseline": ["a", "a b", "a b c", "a b c d", "a b c d"]})
    rows = results.rows.assign(finish_reason=["eos", "eos", "eos", "length", "length"])
    found = kv.Results(rows, {}).lengths().loc["baseline"]
    assert (found.n, found.cut, found.cut_share) == (5, 2, 0.4)
    assert (found.finished_mean, found.restricted_mean, found["median"]) == pytest.approx((2.0, 2.8, 3.0))
    table = kv.Results(rows, {}).measure(["tokens", "connectives"]).outcomes_table()
    assert table.loc[("tokens", "baseline"), "cut"] == 0.4 and math.isnan(table.loc[("connectives", "baseline"), "cut"])


def test_lengths_are_kaplan_and_meiers_under_different_limits():
    rng = np.random.default_rng(1)
    true, limit = rng.exponential(30, 400), rng.uniform(10, 90, 400)
    seen, cut = np.minimum(true, limit), true > limit
    found = kv.stats.censored_lengths(seen.tolist(), cut.tolist())
    assert found.low < 30 * math.log(2) < found.high and abs(found.median - 30 * math.log(2)) < 5
    assert found.finished_mean < 25 < np.mean(true), "the mean of those that ended is too short"
    from statsmodels.duration.survfunc import SurvfuncRight

    theirs = SurvfuncRight(seen, (~cut).astype(int))
    assert found.median == theirs.quantile(0.5)
    assert (found.low, found.high) == pytest.approx(theirs.quantile_ci(0.5, method="cloglog"), rel=0.03)


def test_the_mean_permutation_is_scipys_and_exact_on_few_questions():
    a, b = [3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]
    patterns = np.array(np.meshgrid(*[[1, -1]] * 6)).reshape(6, -1).T
    sums = patterns @ (np.array(a) - np.array(b))
    expected = float((np.abs(sums) >= abs(sums[0])).mean())
    assert kv.stats.paired_means_permutation(a, b) == pytest.approx(expected)
    assert kv.stats.paired_means_permutation(a, a) == 1.0
    far = kv.stats.paired_means_permutation(list(range(1, 41)), [0] * 40)
    assert far <= 2 / 10_001 and scipy.stats.wilcoxon(range(1, 41)).pvalue < 1e-6
    with pytest.raises(ValueError, match="different questions"):
        kv.stats.paired_means_permutation([1, 2], [1, 2], ["a", "b"], ["a", "c"])


def test_kl_is_measured_along_the_baselines_replies():
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    asked = dict(n=3, split="dev", generation={"max_new_tokens": 8}, progress=False)
    found = kv.evaluate(model, task, kv.CoTPrompt(), outcomes=["kl"], **asked)
    chats = [task.chat(q) for q in task.questions("dev", 3, 0)]
    expected = kv.divergence(model, chats, found.of("baseline").text.tolist(), kv.CoTPrompt()).totals
    assert found.of("CoT prompt")["outcome kl"].tolist() == pytest.approx(expected, rel=1e-4) and min(expected) > 0
    assert found.of("baseline")["outcome kl"].tolist() == [0.0] * 3
    assert found.outcomes_table().loc[("kl", "CoT prompt"), "value"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert math.isnan(found.outcomes_table().loc[("kl", "CoT prompt"), "p"]), "it is never negative"
    plain = kv.evaluate(model, task, kv.CoTPrompt(), **asked)
    one = kv.outcomes.measure_divergence(plain, model, task, kv.CoTPrompt(), first=1)
    assert (one.of("CoT prompt").kl < found.of("CoT prompt").kl).all() and one.of("no offset").kl.isna().all()
    with pytest.raises(ValueError, match="at least 1"):
        kv.outcomes.measure_divergence(plain, model, task, kv.CoTPrompt(), first=0)
