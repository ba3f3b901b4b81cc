"""Statistics against published or closed-form values."""

import gc
import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from kvsteer_lab.stats.intervals import clustered_mean, paired_bootstrap, vector_bootstrap
from kvsteer_lab.stats.shares import clustered_share, paired_difference, vector_difference, vector_share, wilson
from kvsteer_lab.stats.significance import (
    control_p,
    holm,
    holm_family,
    mcnemar,
    mcnemar_power,
    minimum_detectable_effect,
    paired_permutation,
)
from kvsteer_lab.stats.texts import repetition

NAN = float("nan")


def outcomes(n: int, share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


# --- intervals -----------------------------------------------------------------------------------------------


def test_wilson_matches_published_values():
    # Newcombe (1998), table I: 81 of 263, method 3.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20)[0] == 0.0 and round(wilson(0, 20)[1], 4) == 0.1611
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0 for n in range(1, 60))  # and no 1e-17 beside it


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_not_a_share(k, n):
    with pytest.raises(ValueError, match="are not a share"):
        wilson(k, n)


@pytest.mark.parametrize(
    ("both", "gained", "lost"), [(0.1, 0.8, 0.0), (0.5, 0.2, 0.1), (0.3, 0.02, 0.02), (0.0, 0.9, 0.0)]
)
def test_the_interval_of_paired_shares_covers_the_truth(both, gained, lost):
    """Newcombe's method 10 at 24 questions, where the bootstrap has none at the ends."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        kind = rng.choice(4, size=24, p=[both, gained, lost, 1 - both - gained - lost])
        found = paired_difference(((kind == 0) | (kind == 1)).tolist(), ((kind == 0) | (kind == 2)).tolist())
        assert found.low <= found.value <= found.high and found.high > found.low
        covered.append(found.low <= gained - lost <= found.high)
    assert np.mean(covered) >= 0.93


def test_paired_shares_at_the_ends_and_by_hand():
    alike = paired_difference([True] * 12, [True] * 12)
    assert alike.value == 0 and alike.low < 0 < alike.high
    whole = paired_difference([True] * 12, [False] * 12)
    edge = 1 - wilson(12, 12)[0]
    # no correlation can be told
    assert whole.value == 1 and whole.high == 1 and whole.low == pytest.approx(1 - (edge**2 + edge**2) ** 0.5)
    # 36 both, 12 gained, 2 lost, 0 neither
    ours, theirs = [True] * 48 + [False] * 2, [True] * 36 + [False] * 12 + [True] * 2
    phi = (36 * 0 - 12 * 2) / np.sqrt(48 * 2 * 38 * 12)
    l1, u2 = wilson(48, 50)[0], wilson(38, 50)[1]
    low = 0.2 - np.sqrt((0.96 - l1) ** 2 - 2 * phi * (0.96 - l1) * (u2 - 0.76) + (u2 - 0.76) ** 2)
    assert paired_difference(ours, theirs).low == pytest.approx(low)
    with pytest.raises(ValueError, match="true or false"):
        paired_difference([0.5], [1.0])


def test_no_discordance_in_200_questions_leaves_an_interval():
    """The percentile bootstrap says [0, 0] here."""
    found = paired_difference([True] * 180 + [False] * 20, [True] * 180 + [False] * 20)
    assert (found.low, found.high) == (pytest.approx(-0.0179, abs=1e-4), pytest.approx(0.0179, abs=1e-4))
    never = paired_difference([False] * 200, [False] * 200)
    assert (
        never.high == pytest.approx(wilson(0, 200)[1]) == pytest.approx(0.0188, abs=1e-4) and never.low == -never.high
    )


# --- several answers a question -----------------------------------------------------------------------------


def answers(n: int, k: int, share: float, spread: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """k answers to each of n questions, of which a share `spread` is always or never answered rightly."""
    chance = np.where(rng.random(n) < spread, rng.random(n) < share, share)
    return (rng.random((n, k)) < chance[:, None]).reshape(-1), np.arange(n).repeat(k)


def test_one_answer_a_question_is_wilson_and_newcombe():
    rng = np.random.default_rng(0)
    for n in (1, 7, 60):
        ours, theirs = rng.random(n) < 0.7, rng.random(n) < 0.4
        found = clustered_share(ours, np.arange(n))
        assert (found.value, (found.low, found.high)) == (pytest.approx(ours.mean()), wilson(int(ours.sum()), n))
        assert paired_difference(ours, theirs, clusters=np.arange(n)) == paired_difference(ours, theirs)


def test_copied_answers_leave_the_interval_of_the_questions():
    hits = outcomes(50, 0.3, 0)
    copied = clustered_share(hits.repeat(8), np.arange(50).repeat(8))
    assert (copied.low, copied.high) == pytest.approx(wilson(int(hits.sum()), 50), abs=0.005)
    ours, theirs = outcomes(50, 0.7, 1), outcomes(50, 0.4, 2)
    once, more = (paired_difference(ours.repeat(k), theirs.repeat(k), clusters=np.arange(50).repeat(k)) for k in (1, 8))
    assert (more.low, more.high) == pytest.approx((once.low, once.high), abs=0.03) and more.value == once.value


def test_independent_answers_are_worth_more_than_their_questions():
    hits, questions = answers(100, 8, 0.5, 0.0, np.random.default_rng(0))
    found, all_of_them = clustered_share(hits, questions), wilson(int(hits.sum()), 800)
    width = found.high - found.low
    assert all_of_them[1] - all_of_them[0] <= width < 1.3 * (all_of_them[1] - all_of_them[0])
    assert width < 0.5 * (wilson(50, 100)[1] - wilson(50, 100)[0])


def test_where_all_answers_agree_each_question_counts_once():
    found = clustered_share([True] * 6, ["a", "a", "b", "b", "c", "c"])
    assert (found.low, found.high) == pytest.approx(wilson(3, 3))
    never = clustered_share([False] * 6, ["a", "a", "b", "b", "c", "c"])
    assert (never.low, never.high) == pytest.approx(wilson(0, 3))
    same = paired_difference([True] * 6, [True] * 6, clusters=["a", "a", "b", "b", "c", "c"])
    assert same.low < 0 < same.high


@pytest.mark.parametrize(("share", "spread"), [(0.5, 0.2), (0.5, 0.9), (0.95, 0.9)])
@pytest.mark.parametrize("k", [1, 4])
def test_printed_intervals_hold_the_truth_nine_times_in_ten(share, spread, k):
    """A small, fixed part of benchmarks/coverage.py; 95% is meant, 300 draws tell 0.92 from it."""
    rng = np.random.default_rng(5)
    held, gains = [], []
    for _ in range(300):
        ours, questions = answers(40, k, share, spread, rng)
        theirs, _ = answers(40, k, share, spread, rng)
        found = clustered_share(ours, questions)
        gain = paired_difference(ours, theirs, clusters=questions)
        held.append(found.low <= share <= found.high)
        gains.append(gain.low <= 0 <= gain.high)
    assert np.mean(held) > 0.91 and np.mean(gains) > 0.91


def test_sides_may_have_different_numbers_of_answers():
    ours, theirs = [1, 1, 0, 1, 1, 1], [0, 0, 0, 1]  # a: 2/3 and 0/2, b: 3/3 and 1/2
    where, there = ["a", "a", "a", "b", "b", "b"], ["b", "a", "a", "b"]
    found = paired_difference(ours, theirs, clusters=where, their_clusters=there)
    assert found.value == pytest.approx((2 / 3 + 1 / 2) / 2) and found.low < found.value < found.high
    assert paired_permutation(ours, theirs, where, there) == 0.5


def test_vectors_add_their_spread_and_keep_the_questions_width():
    same = vector_difference(np.ones((5, 200)), np.ones(200))
    assert (same.low, same.high) == pytest.approx(
        (paired_difference(np.ones(200), np.ones(200)).low, paired_difference(np.ones(200), np.ones(200)).high)
    ), "the bootstrap over vectors and questions says [0, 0]"
    rng = np.random.default_rng(0)
    ours = rng.random((60, 100)) < rng.uniform(0.2, 0.8, (60, 1))
    theirs = outcomes(100, 0.4, 1)
    found, drawn = vector_difference(ours, theirs), vector_bootstrap(ours.astype(float), theirs, n=4000)
    assert found.value == pytest.approx(drawn.value) and found.error == pytest.approx(drawn.error, rel=0.05)
    assert found.high - found.low == pytest.approx(3.92 * found.error, rel=0.1)
    whole = vector_share(np.ones((3, 20)))
    assert (whole.low, whole.high) == pytest.approx(wilson(20, 20))


@pytest.mark.parametrize("vectors", [2, 3, 5, 20])
def test_one_more_vector_lies_in_the_interval_however_few_there_are(vectors):
    rng, inside = np.random.default_rng(vectors), []
    for _ in range(150):
        *known, another = rng.beta(6, 4, vectors + 1)  # true shares, which differ by 0.15
        found = vector_share(rng.random((vectors, 100)) < np.array(known)[:, None])
        inside.append(found.low <= another <= found.high)
    assert np.mean(inside) > 0.92  # with z standard deviations 0.66, 0.69 and 0.84 of the first three


def test_paired_bootstrap_has_the_binomial_s_quantiles():
    # The bootstrap mean of n differences that are 0 or 1 is binomial (n, their share) / n.
    ours = outcomes(150, 0.3, 0)
    share, n = ours.mean(), len(ours)
    found = paired_bootstrap(ours, np.zeros(n), n=20_000, seed=1)
    assert found.value == pytest.approx(share)
    for got, quantile in ((found.low, 0.025), (found.high, 0.975)):
        assert got == pytest.approx(scipy_stats.binom.ppf(quantile, n, share) / n, abs=1.01 / n)
    assert found.error == pytest.approx(math.sqrt(share * (1 - share) / n), rel=0.02)


def test_paired_bootstrap_keeps_pairs_together():
    ours = outcomes(80, 0.5, 0)
    assert paired_bootstrap(ours, ours) == (0, 0, 0, 0)
    assert paired_bootstrap(ours, 1 - ours).error > 0.1
    assert paired_bootstrap(ours, np.zeros(80), seed=3) == paired_bootstrap(ours, np.zeros(80), seed=3)


def test_a_copied_sample_adds_nothing_to_a_clustered_bootstrap():
    ours, theirs = outcomes(60, 0.6, 0), outcomes(60, 0.4, 1)
    once = paired_bootstrap(ours, theirs, seed=5)
    copied = paired_bootstrap(ours.repeat(4), theirs.repeat(4), clusters=np.arange(60).repeat(4), seed=5)
    assert copied == pytest.approx(once)
    assert paired_bootstrap(ours.repeat(4), theirs.repeat(4), seed=5).error == pytest.approx(once.error / 2, rel=0.05)


def test_vector_bootstrap_holds_both_variances():
    # Law of total variance: between the rows' means, and within a row over the number of questions.
    rng = np.random.default_rng(0)
    ours = (rng.random((50, 200)) < rng.uniform(0.2, 0.8, (50, 1))).astype(float)
    theirs = outcomes(200, 0.4, 1)
    difference = ours - theirs
    between, within = difference.mean(1).var(), (difference.var(1) / 200).mean()
    found = vector_bootstrap(ours, theirs, n=20_000)
    assert found.value == pytest.approx(difference.mean())
    assert found.error == pytest.approx(math.sqrt(between + within), rel=0.02)
    assert between > 5 * within  # so the test would notice if the rows were averaged


def test_vectors_that_agree_leave_the_questions_error():
    ours, theirs = outcomes(120, 0.7, 0), outcomes(120, 0.4, 1)
    both, one = vector_bootstrap(np.tile(ours, (40, 1)), theirs), paired_bootstrap(ours, theirs)
    assert both.value == pytest.approx(one.value) and both.error == pytest.approx(one.error, rel=0.03)
    assert (both.low, both.high) == pytest.approx((one.low, one.high), abs=1.01 / 120)


def test_one_sample_a_question_gives_the_ordinary_error():
    values = outcomes(40, 0.3, 0)
    found = clustered_mean(values, np.arange(40))
    assert found.error == pytest.approx(scipy_stats.sem(values))
    assert (found.low, found.high) == pytest.approx(
        scipy_stats.t.interval(0.95, 39, values.mean(), scipy_stats.sem(values))
    )


def test_copied_samples_don_t_shrink_a_clustered_error():
    values = outcomes(40, 0.3, 0)
    assert clustered_mean(values.repeat(8), np.arange(40).repeat(8)) == pytest.approx(
        clustered_mean(values, np.arange(40))
    )


def test_clustered_error_by_hand():
    # mean 0.6; residual sums: a 0.4 + 0.4, b -0.6 + 0.4 - 0.6; error^2 = 2 / 1 * (0.64 + 0.64) / 25
    found = clustered_mean([1, 1, 0, 1, 0], ["a", "a", "b", "b", "b"])
    assert found.value == pytest.approx(0.6) and found.error == pytest.approx(math.sqrt(2 * 1.28 / 25))


# --- tests ---------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_fair_coin_on_discordant_pairs():
    # 8 gained, 1 lost: p = 2 * (C(9,0) + C(9,1)) / 2**9
    ours = [True] * 8 + [False] + [True] * 5 + [False] * 5
    theirs = [False] * 8 + [True] + [True] * 5 + [False] * 5
    assert mcnemar(ours, theirs) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)
    assert mcnemar([True, False], [True, False]) == 1.0


def test_power_is_the_sum_over_all_tables():
    # Every table of gained, lost and concordant questions, weighted by its multinomial probability.
    n, discordance, effect = 14, 0.7, 0.5
    shares = (discordance + effect) / 2, (discordance - effect) / 2
    power = 0.0
    for gained, lost in itertools.product(range(n + 1), repeat=2):
        if gained + lost <= n and mcnemar([1] * gained + [0] * lost + [0], [0] * gained + [1] * lost + [0]) <= 0.05:
            power += scipy_stats.multinomial.pmf([gained, lost, n - gained - lost], n, [*shares, 1 - sum(shares)])
    assert mcnemar_power(n, discordance, effect) == pytest.approx(power)
    assert 0.1 < power < 0.9


def test_power_matches_published_values():
    # O'Brien (2002)'s example, n = 50, discordant shares 0.08 and 0.32, one-sided 0.05: R's pwrss gives 0.839357, the
    # manual of
    # G*Power 3.1 0.839343. Two-sided 0.1 has the same upper tail, and the lower one adds next to nothing.
    assert mcnemar_power(50, 0.4, 0.24, alpha=0.1) == pytest.approx(0.839357, abs=2e-6)


def test_no_effect_is_found_at_most_as_often_as_alpha_says():
    assert all(mcnemar_power(n, 0.3, 0.0) <= 0.05 for n in (5, 20, 100, 500))
    assert mcnemar_power(5, 1.0, 1.0) == 0.0  # five questions can't give p <= 0.05: 2 / 2**5


def test_the_minimum_detectable_effect_is_found_with_its_power():
    effect = minimum_detectable_effect(200, 0.2)
    assert mcnemar_power(200, 0.2, effect) == pytest.approx(0.8, abs=1e-6)
    # The normal approximation without continuity correction is a little more hopeful.
    assert (1.96 + 0.8416) * math.sqrt(0.2 / 200) * 0.95 < effect < (1.96 + 0.8416) * math.sqrt(0.2 / 200) * 1.1
    assert minimum_detectable_effect(800, 0.2) < effect < minimum_detectable_effect(200, 0.4)
    assert minimum_detectable_effect(200, 0.2, power=0.9) > effect


def test_holm_is_that_of_statsmodels_and_collects_no_garbage(monkeypatch):
    rng = np.random.default_rng(0)
    families = [rng.random(n) ** power for n in (1, 2, 7, 40) for power in (1, 8)] + [[0.0, 1.0, 0.5, 0.5], [1.0] * 3]
    wanted = [multipletests(p, method="holm")[1].tolist() for p in families]
    monkeypatch.setattr(gc, "collect", lambda *_: pytest.fail("a second in which Ctrl-C is lost"))
    assert [holm(p) for p in families] == wanted


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm_family({"b": 0.04, "a": 0.01, "c": 0.03}) == pytest.approx({"b": 0.06, "a": 0.03, "c": 0.06})


def test_rounding_is_no_effect():
    """Attention in a layer below the edit is the same for every vector, but for the last digits of float32."""
    attention = 0.735714955
    assert control_p(attention, [attention * (1 - 1e-7)] * 40) == 1
    assert control_p(1e-8, [0.0] * 40) == 1, "nats below what float32 can tell"
    assert control_p(1.001e-4, [1e-4 - 2e-6] * 40) == 1 / 41


def test_a_margin_makes_small_differences_none():
    assert control_p(0.5, [0.4] * 39, margin=0.05) == pytest.approx(1 / 40)
    assert control_p(0.5, [0.4] * 39, margin=0.11) == 1
    assert control_p(1e-8, [0.0] * 39, margin=0.0) == 1, "rounding is none without a margin, too"


def test_control_p_counts_ties_against_the_effect():
    assert control_p(0.5, [0.1, 0.5, 0.9]) == pytest.approx(3 / 4)
    assert control_p(1.0, [0.0] * 39) == pytest.approx(1 / 40)


def test_repetition():
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 8) == pytest.approx(1 - 1 / 5)
    assert repetition([1, 2]) == 0.0


def test_the_permutation_test_of_single_answers_is_mcnemar():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 60))
        ours, theirs = rng.random(n) < rng.random(), rng.random(n) < rng.random()
        assert paired_permutation(ours, theirs) == mcnemar(ours, theirs)


def test_the_permutation_test_counts_all_sign_patterns():
    rng = np.random.default_rng(1)
    for _ in range(10):
        n, k = 9, 3
        ours, theirs, questions = rng.random(n * k) < 0.7, rng.random(n * k) < 0.4, np.arange(n).repeat(k)
        each = np.bincount(questions, ours.astype(float)) - np.bincount(questions, theirs.astype(float))
        sums = [abs((np.abs(each) * signs).sum()) for signs in itertools.product((-1, 1), repeat=n)]
        assert paired_permutation(ours, theirs, questions) == pytest.approx(np.mean(np.array(sums) >= abs(each.sum())))


def test_the_permutation_test_does_not_take_answers_for_questions():
    ours, theirs = np.repeat([True] * 5 + [False] * 5, 8), np.repeat([False] * 10, 8)
    assert paired_permutation(ours, theirs, np.arange(10).repeat(8)) == 2 / 2**5
    assert mcnemar(ours, theirs) < 1e-9, "as if 40 answers were 40 questions"


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([True], [True, False]), "two sequences of one length, not 1 and 2"),
        (lambda: mcnemar([], []), "two sequences of one length, not 0 and 0"),
        (lambda: mcnemar([True, None], [True, False]), "NaN or infinity among the outcomes"),
        (lambda: mcnemar([0.5, 1], [0, 1]), "use paired_bootstrap"),
        (lambda: paired_permutation([0.5, 1], [0, 1]), "must be true or false"),
        (lambda: paired_permutation([True, None], [True, False]), "NaN or infinity among the outcomes"),
        (lambda: paired_permutation([1, 0], [1, 0], ["a", "b"], ["a", "c"]), "answer different questions"),
        (lambda: paired_difference([1, 0], [1, 0], clusters=["a"]), "2 outcomes but 1 clusters"),
        (lambda: paired_difference([1, 0], [1, 0], their_clusters=["a", "b"]), "on both sides"),
        (lambda: paired_difference([1, 0], [1]), "two sequences of one length"),
        (lambda: clustered_share([]), "at least one answer"),
        (lambda: clustered_share([1, NAN]), "NaN or infinity among the outcomes"),
        (lambda: clustered_share([1, 2]), "must be true or false"),
        (lambda: vector_difference([[1, 0]], [1, 0]), "at least 2 vectors x 2 questions"),
        (lambda: vector_difference([[1, 0], [0, NAN]], [1, 0]), "NaN or infinity among the outcomes"),
        (lambda: vector_share([[1, 0]]), "at least 2 vectors"),
        (lambda: mcnemar_power(0, 0.2, 0.1), "Power needs n >= 1"),
        (lambda: mcnemar_power(10, 0.2, 0.3), "effect <= discordance"),
        (lambda: mcnemar_power(10, NAN, 0.1), "discordance=nan"),
        (lambda: minimum_detectable_effect(10, 0.2), "power is at most 0.01; ask more questions"),
        (lambda: minimum_detectable_effect(100, 0.2, power=1), "between 0 and 1, not be 1"),
        (lambda: paired_bootstrap([1, 0], [1]), "two sequences of one length, not 2 and 1"),
        (lambda: paired_bootstrap([1, NAN], [1, 0]), "NaN or infinity among the outcomes"),
        (lambda: paired_bootstrap([1, 0], [0, 0], clusters=["q", "q"]), "at least two questions, not 1"),
        (lambda: paired_bootstrap([1, 0], [0, 0], clusters=["q"]), "2 outcomes but 1 clusters"),
        (lambda: vector_bootstrap([[1, 0]], [1, 0]), "at least 2 vectors x 2 questions"),
        (lambda: vector_bootstrap([[1, 0], [0, 0]], [1, 0, 1]), "a baseline on these questions"),
        (lambda: vector_bootstrap([[1, 0], [0, NAN]], [1, 0]), "NaN or infinity among the outcomes"),
        (lambda: clustered_mean([1, 0, NAN], [1, 2, 3]), "NaN or infinity among the outcomes"),
        (lambda: clustered_mean([1, 0], [1]), "2 outcomes but 1 clusters"),
        (lambda: clustered_mean([], []), "at least two questions, not 0"),
        (lambda: holm([0.1, NAN]), "outside 0 to 1, or NaN"),
        (lambda: holm_family({"steered on gsm8k": NAN}), "comparison 'steered on gsm8k' has no p-value"),
        (lambda: holm_family({"steered on gsm8k": None}), "comparison 'steered on gsm8k' has no p-value"),
        (lambda: holm_family({}), "can't be empty"),
        (lambda: control_p(1.0, []), "random_controls"),
        (lambda: control_p(1.0, [NAN]), "NaN or infinity among the outcomes"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
