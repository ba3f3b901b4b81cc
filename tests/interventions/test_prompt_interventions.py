"""Interventions that add words, and several interventions as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.interventions.prompt import STEP_BY_STEP
from kvsteer_lab.models.tokens import encode, offset_token
from kvsteer_lab.tasks.base import Chat, Question

ASK: Chat = [{"role": "user", "content": "How many?"}]
SYSTEM: Chat = [{"role": "system", "content": "Be brief."}]
SHORT = {"max_new_tokens": 4}


def test_the_instruction_follows_the_user_and_the_prefix_opens_the_answer(tiny: kv.Model) -> None:
    instruction, prefix = kv.CoTPrompt(), kv.CoTPrefix()
    assert instruction.chat(ASK)[-1]["content"] == f"How many?\n{STEP_BY_STEP}" and prefix.chat(ASK) == ASK
    offset = offset_token(tiny.tokenizer, "\n")
    assert instruction.tail(tiny.tokenizer, offset) == [offset]
    assert prefix.tail(tiny.tokenizer, offset) == [offset, *encode(tiny.tokenizer, STEP_BY_STEP)]
    assert (instruction.label, prefix.label, kv.CoTPrefix(name="p").label) == ("CoT prompt", "CoT prefix", "p")
    assert not isinstance(prefix, kv.ForcedPrefix), "a method to compare with, not the control of the first token"
    told = kv.generate(tiny, "Story: Ann has 3 coins.", prefix, generation=SHORT)[0]
    assert told.answer.startswith(STEP_BY_STEP) and told.forced == STEP_BY_STEP


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_forced_prefix_is_how_most_replies_begin(tokens: int, tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    forced = kv.ForcedPrefix.of_style(task, tiny.tokenizer, "stepwise", tokens)
    assert len(encode(tiny.tokenizer, forced.text)) == tokens
    replies = [q.replies["stepwise"] for q in task.questions("extraction", 100, seed=3)]
    assert sum(r.startswith(forced.text) for r in replies) > 20


def test_examples_stand_before_the_question_and_behind_the_system_message(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    shots = kv.FewShot.of_style(task, "stepwise", shots=2, seed=1)
    assert (shots.label, kv.FewShot(shots.examples).label) == ("2-shot stepwise", "2-shot")
    chat = shots.chat([*SYSTEM, *ASK])
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert chat[0] == SYSTEM[0] and chat[-1] == ASK[0] and shots.chat(ASK) == chat[1:]
    by_text = {q.text: q for q in task.questions("extraction", None, 1)}
    for user, assistant in zip(chat[1:-1:2], chat[2:-1:2], strict=True):
        assert assistant["content"] == by_text[user["content"]].replies["stepwise"]


def test_examples_are_fixed_by_their_seed_and_none_is_shown_twice() -> None:
    task = kv.tasks.get("tiny-arithmetic")
    one, again, other = (kv.FewShot.of_style(task, "direct", 8, seed=s) for s in (1, 1, 2))
    assert one == again != other
    assert len({m["content"] for m in one.examples if m["role"] == "user"}) == 8


def test_examples_change_what_the_model_says(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    ask = [task.chat(q) for q in task.questions("dev", 10, 0)]
    texts = kv.generate(
        tiny, ask, [kv.Nothing(), kv.FewShot.of_style(task, "stepwise", 3)], generation={"max_new_tokens": 8}
    )
    plain, shown = ([t.text for t in texts if t.intervention == label] for label in ("baseline", "3-shot stepwise"))
    assert sum("Step" in t for t in shown) > sum("Step" in t for t in plain)


def test_a_system_message_of_the_task_is_not_repeated_with_each_example() -> None:
    class Polite(type(kv.tasks.get("tiny-arithmetic"))):  # type: ignore[misc]
        def chat(self, question: Question) -> Chat:
            return [*SYSTEM, *super().chat(question)]

    shots = kv.FewShot.of_style(Polite(), "stepwise", 2)
    assert [m["role"] for m in shots.chat(Polite().chat(Polite().questions("dev", 1)[0]))].count("system") == 1


# --- several as one -------------------------------------------------------------------------------------------


def test_chats_tails_and_deltas_are_put_together(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering, late = kv.CacheSteering(vectors, 0.5, 3), kv.CacheSteering(vectors, 1, 1, slot=-2)
    task = kv.tasks.get("tiny-arithmetic")
    both = kv.Together(kv.CoTPrompt(), steering, late, kv.FewShot.of_style(task, "direct", 1))
    assert both.label == f"CoT prompt + {steering.label} + {late.label} + 1-shot direct"
    chat = both.chat(ASK)
    assert len(chat) == 3 and chat[-1]["content"].endswith(STEP_BY_STEP) and STEP_BY_STEP not in chat[0]["content"]
    assert both.tail(model.tokenizer, 5) == [5] and kv.Together(steering, kv.NoOffset()).tail(model.tokenizer, 5) == []
    rows = both.deltas(model, [9, 12])
    assert [[d.slot for d in row] for row in rows] == [[-1, -2], [-1, -2]]
    assert torch.equal(rows[1][0].values, steering.deltas(model, [12])[0][0].values)
    prefixed = kv.Together(steering, kv.CoTPrefix())
    assert prefixed.tail(model.tokenizer, 5) == kv.CoTPrefix().tail(model.tokenizer, 5)


def test_steering_with_a_prompt_is_steering_on_that_prompt(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering, prompt = kv.CacheSteering(vectors, 4, 20), kv.CoTPrompt()
    both = kv.Together(prompt, steering)
    found = kv.generate(model, "the quick fox", [both, prompt, steering], generation=SHORT)
    by_hand = kv.generate(
        model, [prompt.chat([{"role": "user", "content": "the quick fox"}])], steering, generation=SHORT
    )
    assert found[0].token_ids == by_hand[0].token_ids
    assert found[0].token_ids != found[1].token_ids, "the steering changed something"


def test_together_nests_and_a_control_s_place_is_kept(vectors: kv.KVVectors) -> None:
    steering, prompt = kv.CacheSteering(vectors, 0.5, 3), kv.CoTPrompt()
    control = kv.Together(kv.Together(kv.random_controls(steering, 1)[0], prompt), kv.Nothing())
    true = kv.Together(steering, prompt, kv.Nothing())
    assert len(control.parts) == 3
    assert (control.control_of, control.control_kind) == (true.label, "random")
    assert (true.control_of, true.control_kind) == (None, None)


def test_every_part_is_checked_against_the_model(model: kv.Model, tiny: kv.Model, vectors: kv.KVVectors) -> None:
    both = kv.Together(kv.CoTPrompt(), kv.CacheSteering(vectors, 0.5, 3))
    with pytest.raises(ValueError, match="These vectors are of a llama"):
        kv.generate(tiny, "hi", both)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: kv.Together(kv.CoTPrompt()),
            "Together needs at least two interventions; a single one can be used as it is",
        ),
        (lambda: kv.Together(kv.CoTPrompt(), "steer"), "'steer' is not an intervention; use kv.CacheSteering"),
        (
            lambda: kv.Together(kv.CoTPrefix(), kv.ForcedPrefix("Step")),
            "'CoT prefix' and \"forced 'Step'\" both set what is read before the answer",
        ),
        (
            lambda: kv.Together(kv.NoOffset(), kv.Together(kv.CoTPrompt(), kv.CoTPrefix())),
            "'no offset' and 'CoT prefix' both set",
        ),
        (lambda: kv.FewShot(()), "Few-shot examples are messages of the user and the assistant in turn"),
        (lambda: kv.FewShot((ASK[0], ASK[0])), "in turn, beginning with the user; pass at least one of each"),
        (lambda: kv.FewShot((ASK[0],)), "in turn"),
        (
            lambda: kv.FewShot.of_style(kv.tasks.get("tiny-arithmetic"), "stepwise", 0),
            "shots must be at least 1, not 0",
        ),
        (
            lambda: kv.FewShot.of_style(kv.tasks.get("tiny-arithmetic"), "stepwise", 1001),
            "has 1000 questions for extraction with replies in style 'stepwise', f",
        ),
        (
            lambda: kv.FewShot.of_style(kv.tasks.get("tiny-arithmetic"), "rude", 1),
            "has no replies in style 'rude'; choose one of: direct",
        ),
        (
            lambda: kv.ForcedPrefix.of_style(kv.tasks.get("tiny-arithmetic"), None, "stepwise", 0),
            "A response prefill needs at least 1 token, not 0",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_examples_beyond_the_context_are_refused_before_anything_is_computed(tiny: kv.Model) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    with pytest.raises(ValueError, match=r"The prompt has \d+ tokens, but the context of"):
        kv.generate(tiny, "hi", kv.FewShot.of_style(task, "stepwise", 100))


def test_a_prefix_without_words_is_refused(tiny: kv.Model) -> None:
    with pytest.raises(ValueError, match="A response prefill needs some text"):
        kv.generate(tiny, "hi", kv.CoTPrefix(""))
