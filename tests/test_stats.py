"""Statistics against published or closed-form values."""

import pytest

from kvsteer_lab.stats import control_p, holm, mcnemar, repetition, wilson


def test_wilson_matches_published_values():
    # Newcombe (1998), table I: 81 of 263, method 3.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20)[0] == 0.0 and round(wilson(0, 20)[1], 4) == 0.1611


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(ValueError, match="make no proportion"):
        wilson(k, n)


def test_mcnemar_is_the_fair_coin_on_discordant_pairs():
    # 8 gained, 1 lost: p = 2 * (C(9,0) + C(9,1)) / 2**9
    ours = [True] * 8 + [False] + [True] * 5 + [False] * 5
    theirs = [False] * 8 + [True] + [True] * 5 + [False] * 5
    assert mcnemar(ours, theirs) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)
    assert mcnemar([True, False], [True, False]) == 1.0


def test_mcnemar_refuses_unpaired_outcomes():
    with pytest.raises(ValueError, match="one length"):
        mcnemar([True], [True, False])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_control_p_counts_ties_against_the_effect():
    assert control_p(0.5, [0.1, 0.5, 0.9]) == pytest.approx(3 / 4)
    assert control_p(1.0, [0.0] * 39) == pytest.approx(1 / 40)
    with pytest.raises(ValueError, match="random_controls"):
        control_p(1.0, [])


def test_repetition():
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 8) == pytest.approx(1 - 1 / 5)
    assert repetition([1, 2]) == 0.0
