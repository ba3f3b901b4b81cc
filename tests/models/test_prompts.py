"""The forms in which prompts are handed over: each is read, or refused in one sentence."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from random_models import PROMPTS, build
from random_models import tokenizer as make_tokenizer
from tokenizers.processors import TemplateProcessing

import kvsteer_lab as kv
from kvsteer_lab.models.prompts import as_chat, as_list, render
from kvsteer_lab.models.tokens import missing_bos, offset_token

SHORT = {"max_new_tokens": 6}
USER = {"role": "user", "content": "How many?"}


@pytest.mark.parametrize(
    "form",
    [
        lambda: pd.Series(PROMPTS, index=[3, 7, 9]),
        lambda: pd.Series(PROMPTS, dtype="string"),
        lambda: np.array(PROMPTS),
        lambda: tuple(PROMPTS),
        lambda: iter(PROMPTS),
        lambda: [[{"role": "user", "content": p}] for p in PROMPTS],
        lambda: [({"role": "user", "content": p},) for p in PROMPTS],
        lambda: [[{"role": "user", "content": [{"type": "text", "text": p}]}] for p in PROMPTS],
        lambda: __import__("datasets").Dataset.from_dict({"text": PROMPTS})["text"],
    ],
)
def test_prompts_in_any_sequence(form: Any, model: kv.Model) -> None:
    wanted = kv.generate(model, PROMPTS, generation=SHORT)
    found = kv.generate(model, form(), generation=SHORT)
    assert found.token_ids == wanted.token_ids and len(found.prompts) == 3
    assert kv.score(model, form(), ["fox"] * 3).totals == kv.score(model, PROMPTS, ["fox"] * 3).totals


def test_one_message_is_a_chat(model: kv.Model) -> None:
    assert as_list(USER) == [[USER]] == as_list([USER])
    assert model.encode(USER) == model.encode("How many?") == model.encode([USER])  # type: ignore[arg-type]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]
    assert as_chat([{"role": "user", "content": parts}]) == [USER]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "There are no prompts"),
        (pd.Series([], dtype=object), "There are no prompts"),
        ("", "Prompt 0 is an empty string"),
        (["a", ""], "Prompt 1 is an empty string"),
        (["a", None], "Prompt 1 is neither text nor a chat"),
        (["a", float("nan")], "Prompt 1 is neither text nor a chat"),
        (5, "Prompts must be text, a chat or a list of these, not int"),
        ([[{"role": "user"}]], "Prompt 0 is neither text nor a chat"),
        ([[{"role": "user", "content": None}]], r"Message 0 of prompt 0 has None for its content; give it text\."),
        ([[USER, {"role": "assistant", "content": 5}, USER]], r"Message 1 of prompt 0 has 5 for its content"),
        ([[{"role": "user", "content": []}]], r"has \[\] for its content"),
        ([[{"role": "user", "content": [{"type": "image", "url": "x"}]}]], "parts of the kinds image; only text"),
        ("a \ud83d b", r"Prompt 0 holds a lone surrogate, '\\ud83d' at character 2"),
        ([[{"role": "user", "content": "\udc00"}]], "Message 0 of prompt 0 holds a lone surrogate"),
    ],
)
def test_what_is_not_a_prompt_is_refused(prompts: Any, said: str, model: kv.Model) -> None:
    for use in (lambda: kv.generate(model, prompts), lambda: kv.score(model, prompts, ["a"])):
        with pytest.raises(ValueError, match=said) as refused:
            use()
        assert "\n" not in str(refused.value)


def test_surrogates_are_refused_in_every_text(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="The positive prompt of pair 0 holds a lone surrogate"):
        kv.ContrastiveSet.from_texts(["\ud83d"], ["a"])
    with pytest.raises(ValueError, match="The prompt holds a lone surrogate"):
        model.encode("\ud83d", chat=False)
    with pytest.raises(ValueError, match="The offset holds a lone surrogate"):
        offset_token(model.tokenizer, "\ud83d")
    with pytest.raises(ValueError, match="Continuation 0 holds a lone surrogate"):
        kv.score(model, ["a"], ["\ud83d"])


def test_whole_numbers_of_numpy(model: kv.Model) -> None:
    number = np.int64
    wanted = kv.generate(model, PROMPTS, generation={"max_new_tokens": 3}, offset=5)
    settings = {"max_new_tokens": number(3), "eos_token_id": None}
    found = kv.generate(model, PROMPTS, generation=settings, offset=number(5), batch_size=number(2), samples=number(1))
    assert found.token_ids == wanted.token_ids
    ends = kv.generate(model, PROMPTS, generation={"max_new_tokens": 3, "eos_token_id": np.array([7, 8])})
    assert len(ends) == 3
    assert kv.CacheDelta(np.zeros(1), np.zeros(1), number(-1)).slot == -1  # type: ignore[arg-type]
    for wrong in (True, 2.5, "3", 0):
        with pytest.raises(ValueError, match="max_new_tokens must be a whole number of at least 1"):
            kv.generate(model, "a", generation={"max_new_tokens": wrong})
    with pytest.raises(ValueError, match=r"samples must be a whole number, not 1\.5"):
        kv.generate(model, "a", samples=1.5)  # type: ignore[arg-type]


# --- chats that end with the assistant ------------------------------------------------------------------------


def test_a_chat_that_ends_with_the_assistant_is_continued(model: kv.Model) -> None:
    chat = [USER, {"role": "assistant", "content": "The answer is"}]
    text = render(model.tokenizer, chat)
    assert text == render(model.tokenizer, [USER]) + "The answer is"
    rows = kv.generate(model, [chat], offset=None, generation=SHORT)
    verbatim = kv.generate(model, text, chat=False, offset=None, generation=SHORT)
    assert rows.token_ids == verbatim.token_ids


def test_pairs_that_end_with_the_assistant_are_read_at_its_last_token(model: kv.Model) -> None:
    """The standard form of contrastive activation addition: the answer's letter is the token that is read."""
    sides = [[[USER, {"role": "assistant", "content": f"({letter}"}]] for letter in "AB"]
    pairs = kv.ContrastiveSet.from_chats(*sides, model.tokenizer)
    assert pairs.positive[0].endswith("(A") and pairs.negative[0].endswith("(B")
    assert "A" in str(pairs.last_token)


def test_an_empty_last_message_is_refused(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="ends with an empty message of the assistant; leave it out"):
        model.encode([USER, {"role": "assistant", "content": " "}])


def test_a_template_that_rewrites_the_last_message_is_refused() -> None:
    tokenizer = make_tokenizer(template="{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(ValueError, match="doesn't write the last message as it stands, so it can't be continued"):
        render(tokenizer, [USER, {"role": "assistant", "content": "The answer"}])


# --- what begins a prompt -------------------------------------------------------------------------------------


def with_bos() -> Any:
    tokenizer = copy.deepcopy(make_tokenizer())
    post = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = post
    return tokenizer


def test_a_missing_bos_is_said_once() -> None:
    tokenizer = with_bos()
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    model = kv.load(build("llama"), tokenizer)
    assert missing_bos(tokenizer, [5]) == "<|im_start|>" and missing_bos(make_tokenizer(), [5]) is None
    with pytest.warns(UserWarning, match=r"doesn't begin with '<\|im_start\|>', which the tokenizer of llama puts"):
        model.encode("The fox", chat=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode("The dog", chat=False)
        other = kv.load(build("llama"), with_bos())
        other.encode("<|im_start|>The fox", chat=False)
        other.encode("The fox")  # the template writes it
