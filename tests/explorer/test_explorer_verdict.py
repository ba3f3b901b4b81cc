"""What a comparison comes to: the first token that differs, near-ties, and how many random vectors change the text."""

from __future__ import annotations

import math

import pytest
from explorer_bench import Made, compared, find, said, text_of

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.results.verdict import Verdict, first_difference, read_verdicts
from kvsteer_lab.explorer.views.markup import facts_html
from kvsteer_lab.explorer.views.verdicts import verdicts_html
from kvsteer_lab.generation.outputs import Generation

ARMS = ("baseline", "cache steering", "random control")


def test_a_verdict_names_the_first_token_that_differs(made: Made) -> None:
    comparison = compared(made.workspace(), made.state(arms=ARMS, cv=3.0, n_controls=4))
    (verdict,) = read_verdicts(comparison)
    plain, own = comparison["baseline"].generation, comparison["cache steering"].generation
    step = next(i for i, (a, b) in enumerate(zip(plain.token_ids, own.token_ids, strict=False), 1) if a != b)
    assert verdict.step == step and verdict.arm == "cache steering"
    decode = made.model.tokenizer.decode
    assert [token.strip() for token in verdict.tokens] == [
        decode([row.token_ids[step - 1]]).strip() for row in (plain, own)
    ]
    shared = list(own.token_ids[: step - 1])
    method = made.workspace().intervention("cache steering", comparison.state)
    for probabilities, intervention in ((verdict.before, None), (verdict.after, method)):
        scored = kv.score(
            made.model,
            [comparison.asked.prompt] * 2,
            [[*shared, row.token_ids[step - 1]] for row in (plain, own)],
            intervention,
        )
        last = [math.exp(row[step - 1]) for row in scored.logprobs]
        assert probabilities == pytest.approx(last, rel=1e-3)
    assert not verdict.near_tie and verdict.before[0] > verdict.before[1] and verdict.after[0] < verdict.after[1]  # type: ignore[index]


def test_random_vectors_that_change_the_text_are_counted(made: Made) -> None:
    workspace = made.workspace()
    for cv, changed in ((3.0, None), (0.0, 0)):
        comparison = compared(workspace, made.state(arms=ARMS, cv=cv, n_controls=4, control_seed=2))
        (verdict,) = read_verdicts(comparison)
        controls = kv.random_controls(workspace.steering(comparison.state), 4, seed=2)
        rows = kv.generate(
            made.model, [comparison.asked.prompt], [kv.Nothing(), *controls], generation={"max_new_tokens": 24}
        )
        differ = sum(row.token_ids != rows[0].token_ids for row in list(rows)[1:])
        assert (verdict.changed, verdict.controls) == (differ, 4) and changed in (None, differ)
        assert comparison.texts[2:] == [row.text for row in list(rows)[1:]]


def test_the_same_texts_have_no_first_difference(made: Made) -> None:
    comparison = compared(made.workspace(), made.state(arms=("baseline", "cache steering"), cv=0.0))
    (verdict,) = read_verdicts(comparison)
    assert verdict == Verdict("cache steering", None)
    assert "says what the baseline says" in verdicts_html([verdict])
    assert "open whether any vector does this" in verdicts_html([verdict])
    assert read_verdicts(compared(made.workspace(), made.state(arms=("cache steering",)))) == []


def row(*ids: int, end: str = "length") -> Generation:
    return Generation(0, "x", 0, "", ids, end)


def test_a_longer_text_differs_where_the_shorter_ends() -> None:
    assert first_difference(row(1, 2), row(1, 2, 3)) == 3
    assert first_difference(row(1, 2), row(1, 2)) is None
    assert first_difference(row(1, 2, 4), row(1, 3, 4)) == 2


def test_a_near_tie_is_said() -> None:
    tie = Verdict("cache steering", 3, (" a", " b"), (0.169, 0.167), (0.1, 0.2), 12, 12)
    assert tie.near_tie and not Verdict("cache steering", 3, (" a", " b"), (0.5, 0.2), (0.1, 0.2)).near_tie
    said_of_it = verdicts_html([tie])
    assert "near-tie" in said_of_it and "0.169" in said_of_it and "<b>12 of 12</b> random vectors" in said_of_it


def test_a_text_cut_before_its_answer_is_not_wrong(made: Made) -> None:
    comparison = compared(made.workspace(), made.state(arms=("baseline", "cache steering"), cv=3.0, max_new_tokens=3))
    facts = facts_html(comparison["cache steering"])
    assert comparison["cache steering"].verdict["answer"] is None
    assert "cut before an answer" in facts and "wrong" not in facts


def test_the_page_shows_the_verdict_the_prompt_and_the_folded_controls(explorer: Explorer) -> None:
    explorer.set(arms=ARMS, n_controls=3, cv=3.0)
    assert "Done" in said(explorer)
    assert "leaves the baseline&#x27;s text" in find(explorer, "kv-verdict-line").value.replace("'", "&#x27;")
    control = find(explorer, "kv-arm-random-control").value
    assert "2 more random vectors" in control and text_of(explorer, "random control")
    strip = find(explorer, "kv-prompt-tokens").value
    assert strip.count('kv-prompt-token"') + strip.count("kv-prompt-token kv-here") == len(
        explorer.model.encode(explorer.comparison.asked.prompt)
    )  # type: ignore[union-attr]
    assert strip.count("kv-here") == 1
    explorer.page.picking.slot = [-2, 1]
    assert explorer.state.slot == -2 and "Done" in said(explorer)
    assert 'data-slot="-2" role="button" tabindex="0"' in find(explorer, "kv-prompt-tokens").value
