"""Gemma 3 270M: a base model, whose prompts are plain text after BOS, and whose layers mostly look 512 tokens back."""

from __future__ import annotations

import pytest
from oracles import check_extraction, check_nothing, check_rows

import kvsteer_lab as kv
from kvsteer_lab.models.templates import PlainTemplate

pytestmark = pytest.mark.real

FRANCE = "<bos>The capital of France is"
LONG = "<bos>" + " ".join(f"Fact {i}: there are {i * 7} pens in box {i}." for i in range(45)) + " In box 3 there are"


@pytest.fixture(scope="module")
def vectors(gemma3: kv.Model) -> kv.KVVectors:
    reasoned = "<bos>Q: 2 + 3?\nA: Step 1: I add 2 and 3, which is 5. So it is 5.\n\nQ: {}\nA:"
    direct = "<bos>Q: 2 + 3?\nA: 5\n\nQ: {}\nA:"
    questions = ["7 + 5?", "What is 12 minus 4?"]
    pairs = kv.ContrastiveSet.from_texts([reasoned.format(q) for q in questions], [direct.format(q) for q in questions])
    return check_extraction(gemma3, pairs)


def test_the_bos_token_is_missed_aloud(gemma3: kv.Model) -> None:
    assert gemma3.encode(FRANCE, chat=False) == [2, 818, 5279, 529, 7001, 563]
    (found,) = kv.generate(gemma3, FRANCE, kv.NoOffset(), chat=False, generation={"max_new_tokens": 6})
    assert found.text.startswith(" the") and "<" not in found.text, "without BOS it writes HTML"
    with pytest.warns(UserWarning, match="doesn't begin with '<bos>'"):
        kv.load("gemma3-270m").encode("The capital of France is", chat=False)


def test_chats_need_a_template(gemma3: kv.Model) -> None:
    with pytest.raises(ValueError, match="no chat template, as is usual for a base model"):
        kv.generate(gemma3, "What is 2 + 2?")
    tokenizer = PlainTemplate().on(gemma3.tokenizer)
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>Question: What is 2 + 2?\nAnswer:"


def test_no_coefficient_is_plain_generation(gemma3: kv.Model) -> None:
    check_nothing(gemma3, gemma3.encode(FRANCE, chat=False), FRANCE, 8, chat=False)


def test_past_the_window_everything_holds(gemma3: kv.Model, vectors: kv.KVVectors) -> None:
    assert sorted({window or 0 for window in gemma3.shape.windows}) == [0, 512]
    assert sum(window is None for window in gemma3.shape.windows) == 3
    ids = gemma3.encode(LONG, chat=False)
    assert len(ids) > 600
    check_nothing(gemma3, ids, LONG, 4, chat=False)
    check_rows(gemma3, vectors, [LONG, FRANCE], 4, chat=False)


def test_the_repr_is_one_line(gemma3: kv.Model) -> None:
    assert repr(gemma3).startswith(
        "Model('gemma3-270m': gemma3_text, 18 layers, 15 of them with windows of 512 tokens, 1 KV head of width 256"
    )


def test_a_plain_template_and_stop_strings_end_replies() -> None:
    model = kv.load("gemma3-270m", template=PlainTemplate())
    asked, limit = ["What is 2 + 2?", "Name a colour."], {"max_new_tokens": 24}
    found = kv.generate(model, asked, generation=limit)
    assert found.texts[0] == "2 + 2 = 4", "the template's next question ends a reply"
    assert "\nAnswer:" in found.texts[1], "a base model writes on"
    own = kv.generate(model, asked, generation={**limit, "stop_strings": ["\nQuestion", "\nAnswer:"]})
    assert own.texts == [text.split("\nAnswer:")[0] for text in found.texts]
