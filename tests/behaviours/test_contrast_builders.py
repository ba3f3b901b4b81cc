"""Pairs from system messages, personas and openings, on templates with and without a system role and without one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import kvsteer_lab as kv

QUESTIONS = ["What is 2 + 3?", "How many?"]


@pytest.fixture
def tokenizer() -> Any:
    return copy.deepcopy(kv.load("tiny").tokenizer)


def test_system_messages_differ_and_nothing_else_does(tokenizer: Any) -> None:
    pairs = kv.ContrastiveSet.from_system_prompts(
        ["Be brief.", "Few words."], ["Be wordy.", "Many words."], QUESTIONS, tokenizer, style="brief"
    )
    assert len(pairs) == 4 and pairs.recipe["style"] == "brief" and pairs.recipe["made"] == "from_system_prompts"
    for positive, negative in pairs:
        swapped = positive.replace("Be brief.", "Be wordy.").replace("Few words.", "Many words.")
        assert swapped == negative and positive != negative


def test_without_a_system_role_the_message_opens_the_user_s(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    pairs = kv.ContrastiveSet.from_system_prompts("Be brief.", "Be wordy.", QUESTIONS[0], tokenizer)
    assert pairs.positive[0] == "<user>Be brief.\n\nWhat is 2 + 3?<assistant>"


def test_a_template_that_passes_over_the_system_message_is_noticed(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% endif %}{% endfor %}<assistant>"
    )
    pairs = kv.ContrastiveSet.from_system_prompts("Be brief.", "Be wordy.", QUESTIONS[0], tokenizer)
    assert "Be brief." in pairs.positive[0]


def test_personas_fill_the_template(tokenizer: Any) -> None:
    pairs = kv.ContrastiveSet.from_personas("happy", "sad", QUESTIONS, tokenizer)
    assert "Act as if you're extremely happy." in pairs.positive[0] and pairs.recipe["style"] == "happy"
    with pytest.raises(ValueError, match=r"has no \{persona\}; write it where the persona belongs"):
        kv.ContrastiveSet.from_personas("happy", "sad", QUESTIONS, tokenizer, template="Be {x}.")


def test_openings_are_left_open(tokenizer: Any) -> None:
    pairs = kv.ContrastiveSet.from_openings(
        "Be {persona}.", ["I think that ", "We"], tokenizer, positive="happy", negative="sad", style="mood"
    )
    assert len(pairs) == 2 and pairs.recipe["style"] == "mood"
    assert pairs.positive[0].endswith("<|im_start|>assistant\nI think that") and "Be happy." in pairs.positive[0]


def test_openings_without_a_template_begin_with_the_tokenizer_s_own_bos(tokenizer: Any) -> None:
    made = dict(positive="happy", negative="sad")
    tokenizer.chat_template = None

    class WithBos:
        """A tokenizer that puts a beginning-of-text token itself, as Llama's does."""

        chat_template, bos_token, bos_token_id = None, "<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>")

        def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> Any:
            found = tokenizer(text, add_special_tokens=False)
            if add_special_tokens:
                found["input_ids"] = [self.bos_token_id, *found["input_ids"]]
            return found

        def decode(self, ids: Any) -> str:
            return str(tokenizer.decode(ids))

    plain = kv.ContrastiveSet.from_openings("Be {persona}. ", "I think", tokenizer, **made)  # type: ignore[arg-type]
    begun = kv.ContrastiveSet.from_openings("Be {persona}. ", "I think", WithBos(), **made)  # type: ignore[arg-type]
    assert plain.positive[0] == "Be happy. I think"
    assert begun.positive[0] == "<|im_start|>Be happy. I think"


def test_the_same_prompt_listed_twice_warns_and_counts_once(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match=r"^The question 'How many\?' is listed twice; it is used once") as told:
        pairs = kv.ContrastiveSet.from_system_prompts(
            "Be brief.", "Be wordy.", ["How many?", "Why?", "How many?"], tokenizer
        )
    assert len(pairs) == 2 and told[0].filename == __file__
    with pytest.warns(UserWarning, match="opening 'I am' is listed twice"):
        made = dict(positive="happy", negative="sad")
        kv.ContrastiveSet.from_openings("Be {persona}.", ["I am", "I am"], tokenizer, **made)  # type: ignore[arg-type]


def test_the_same_pair_listed_twice_warns_and_counts_once(tokenizer: Any) -> None:
    with pytest.warns(UserWarning, match="A pair of system messages is listed twice; it is used once"):
        pairs = kv.ContrastiveSet.from_system_prompts(["Be brief."] * 2, ["Be wordy."] * 2, ["Why?"], tokenizer)
    assert len(pairs) == 1 and pairs.recipe["prompts"] == 1
    with pytest.warns(UserWarning, match="A pair of personas is listed twice"):
        personas = kv.ContrastiveSet.from_personas(["glad", "glad"], ["sad", "sad"], ["Why?"], tokenizer)
    assert len(personas) == 1
    two = kv.ContrastiveSet.from_system_prompts(["Be brief."] * 2, ["Ramble.", "Be wordy."], ["Why?"], tokenizer)
    assert len(two) == 2  # one side may stand in several pairs
    with pytest.warns(UserWarning, match="A pair of texts is listed twice and counts for two"):
        assert len(kv.ContrastiveSet.from_texts(["a b", "a b"], ["a c", "a c"])) == 2


def test_no_questions_at_all_are_refused(tokenizer: Any) -> None:
    for none in (None, [], 3):
        with pytest.raises(ValueError, match="needs at least one question"):
            kv.ContrastiveSet.from_system_prompts("Be brief.", "Be wordy.", none, tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs at least one persona"):
        kv.ContrastiveSet.from_personas(None, "sad", ["Why?"], tokenizer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        (("Be brief.", ["Be wordy.", "Go on."]), "1 positive and 2 negative system messages"),
        (([], []), "at least one system message"),
        ((["Be brief.", " "], ["a", "b"]), "a text that says something"),
    ],
)
def test_bad_sides_are_refused(tokenizer: Any, sides: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kv.ContrastiveSet.from_system_prompts(*sides, QUESTIONS, tokenizer)
