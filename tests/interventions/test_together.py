"""Several interventions as one: the order of the parts means nothing but where it has to."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from random_models import PROMPTS, activations_for, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.interventions import OtherOffset

ENDLESS = {"max_new_tokens": 6, "eos_token_id": []}
SHOTS = tuple(
    kv.FewShot(({"role": "user", "content": q}, {"role": "assistant", "content": a})) for q, a in ("ab", "cd")
)


def test_the_order_of_the_parts_doesn_t_matter(model: kv.Model) -> None:
    vectors, activations = vectors_for(model), activations_for(model)
    parts = [
        kv.CacheSteering(vectors, 1.0, 8.0),
        kv.ActivationSteering(activations, 0, 4.0, scope="all tokens"),
        kv.CoTPrompt(),
        SHOTS[0],
        kv.ForcedPrefix("Step 1"),
        OtherOffset("."),
        kv.HideSlot(layers=[1]),
    ]
    plain = kv.generate(model, PROMPTS[0], generation=ENDLESS).token_ids
    for one, other in permutations(parts, 2):
        found = [
            kv.generate(model, PROMPTS[0], kv.Together(*p), generation=ENDLESS) for p in ((one, other), (other, one))
        ]
        assert found[0].token_ids == found[1].token_ids and found[0][0].forced == found[1][0].forced
        assert found[0].token_ids != plain or {type(one), type(other)} <= {
            kv.HideSlot,
            OtherOffset,
            kv.CoTPrompt,
            kv.FewShot,
        }


def test_examples_stand_in_the_order_of_their_parts() -> None:
    ask = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    first, second = SHOTS
    whole = kv.FewShot((*first.examples, *second.examples)).chat(ask)
    assert kv.Together(first, second).chat(ask) == whole != kv.Together(second, first).chat(ask)
    assert kv.Together(kv.CoTPrompt("T"), first, kv.Together(second, kv.Nothing())).chat(ask) == kv.CoTPrompt("T").chat(
        whole
    )


def test_parts_that_ask_for_different_offset_tokens_are_refused_whatever_the_run_s_is(model: kv.Model) -> None:
    """Also where one of them asks for the very token that the run has, which was taken for not asking at all."""
    activations = activations_for(model)
    own = kv.ActivationSteering(activations, 1, 4.0, offset="\n")
    for offset in ("\n", ".", "X", None):
        for parts in ((own, OtherOffset(".")), (OtherOffset("."), own)):
            with pytest.raises(ValueError, match="ask for different offset tokens; give them the same one"):
                kv.generate(model, PROMPTS, kv.Together(*parts), offset=offset, generation=ENDLESS)
        same = kv.generate(
            model, PROMPTS[0], kv.Together(own, OtherOffset("\n"), kv.CoTPrompt()), offset=offset, generation=ENDLESS
        )
        assert (
            same.token_ids
            == kv.generate(model, PROMPTS[0], kv.Together(own, kv.CoTPrompt()), generation=ENDLESS).token_ids
        )


def test_a_control_of_parts_is_a_control_of_the_whole(model: kv.Model) -> None:
    steering, prompt = kv.CacheSteering(vectors_for(model), 1, 8), kv.CoTPrompt()
    control = kv.Together(steering.controls(1, 5)[0], prompt)
    assert (control.control_of, control.control_kind) == (kv.Together(steering, prompt).label, "random")


def test_the_instruction_goes_to_the_user_even_where_the_assistant_has_begun() -> None:
    """CAA's pairs end with the assistant's answer."""
    user, assistant = {"role": "user", "content": "(A) yes (B) no"}, {"role": "assistant", "content": "(A"}
    assert kv.CoTPrompt("Think.").chat([user, assistant]) == [
        {"role": "user", "content": "(A) yes (B) no\nThink."},
        assistant,
    ]
    with pytest.raises(
        ValueError, match="'CoT prompt' follows the user's last message, but this chat has none; add one"
    ):
        kv.CoTPrompt().chat([assistant])


def test_a_forced_opening_is_the_tokens_that_it_was_counted_by(tiny: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that end within a character make another text, and so other tokens."""
    task: Any = kv.tasks.get("tiny-arithmetic")
    monkeypatch.setattr(type(task), "demonstrate", lambda self, question, style: "\N{DOG} Step 1")
    with pytest.raises(
        ValueError,
        match=r"The first 1 tokens of replies in style 'stepwise' make '.+', which this tokenizer encodes in another",
    ):
        kv.ForcedPrefix.of_style(task, tiny.tokenizer, "stepwise", tokens=1)


def test_slots_and_heads_of_numpy_are_hidden_alike(model: kv.Model) -> None:
    plain, same = kv.HideSlot(layers=[1, 2], slot=-2), kv.HideSlot(layers=np.array([2, 1]), slot=np.int64(-2))
    assert plain == same and plain.label == same.label and kv.HideSlot(layers=2) == kv.HideSlot(layers=[2])
    heads = kv.HideSlot(heads=np.array([[1, 3], [0, 2]]))
    assert heads == kv.HideSlot(heads=[(0, 2), (1, 3)]) and torch.equal(
        heads.barred(model), kv.HideSlot(heads=heads.heads).barred(model)
    )
