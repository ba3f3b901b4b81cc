"""SmolLM2-135M-Instruct: the states that always hold, the chat template, the end of a reply, long prompts."""

from __future__ import annotations

import pytest
from oracles import check_extraction, check_nothing, check_rows

import kvsteer_lab as kv

pytestmark = pytest.mark.real

QUESTIONS = ["What is 17 + 5?", "Name a fruit.", "A shop sells 12 pens a day.\n\n1. How many does it sell in 3 days?"]
REASONED = "Let's think step by step. Step 1: I look at the numbers. Step 2: I add them. So the answer is 5."
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def pairs(smollm2: kv.Model) -> kv.ContrastiveSet:
    """Three questions after one worked example, answered with reasoning or at once."""

    def prompt(question: str, answer: str) -> str:
        turns = [("user", "What is 2 + 3?"), ("assistant", answer), ("user", question)]
        chat = [{"role": role, "content": content} for role, content in turns]
        return smollm2.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    return kv.ContrastiveSet.from_texts([prompt(q, REASONED) for q in QUESTIONS], [prompt(q, "5") for q in QUESTIONS])


@pytest.fixture(scope="module")
def vectors(smollm2: kv.Model, pairs: kv.ContrastiveSet) -> kv.KVVectors:
    return check_extraction(smollm2, pairs)


def test_the_weights_are_those_of_a_language_model(smollm2: kv.Model) -> None:
    assert (smollm2.n_layers, smollm2.n_kv_heads, smollm2.head_dim, smollm2.context) == (30, 3, 64, 8192)
    (found,) = kv.generate(smollm2, "The capital of France is", chat=False, generation={"max_new_tokens": 6})
    assert "Paris" in found.text


def test_vectors_are_those_of_a_plain_loop(vectors: kv.KVVectors) -> None:
    assert vectors.keys.shape == (30, 3, 64)
    assert vectors.card.model == "smollm2-135m"


def test_no_coefficient_is_plain_generation(smollm2: kv.Model) -> None:
    for question in QUESTIONS[:2]:
        check_nothing(smollm2, smollm2.encode(question), question, 12)


def test_batched_and_forked_rows_are_single_ones(smollm2: kv.Model, vectors: kv.KVVectors) -> None:
    check_rows(smollm2, vectors, QUESTIONS, 10)


def test_the_chat_template_is_the_model_s(smollm2: kv.Model) -> None:
    text = smollm2.tokenizer.decode(smollm2.encode("Hi"))
    assert text == (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_digits_are_tokens_of_their_own(smollm2: kv.Model) -> None:
    """As in training: an empty line before a number is one token."""
    words = smollm2.tokenizer.convert_ids_to_tokens(smollm2.encode("So:\n\n1. a  12", chat=False))
    assert words == ["So", ":", "ĊĊ", "1", ".", "Ġa", "ĠĠ", "1", "2"]


def test_a_reply_ends_with_its_turn(smollm2: kv.Model) -> None:
    question = "What is the capital of France? Reply with one word."
    (found,) = kv.generate(smollm2, question, generation={"max_new_tokens": 40})
    assert len(found.token_ids) < 40 and "<|im_end|>" not in found.text and "Paris" in found.text
    check_nothing(smollm2, smollm2.encode(question), question, 40)


def test_a_long_prompt_beside_a_short_one(smollm2: kv.Model, vectors: kv.KVVectors) -> None:
    long = " ".join(f"Fact {i}: there are {i * 7} pens in box {i}." for i in range(90)) + " How many are in box 3?"
    ids = smollm2.encode(long)
    assert 1000 < len(ids) < 2500
    check_nothing(smollm2, ids, long, 4)
    arm = kv.CacheSteering(vectors, 0, 8)
    rows = kv.generate(smollm2, [long, "Name a fruit."], arm, generation={"max_new_tokens": 4})
    for prompt, row in zip([long, "Name a fruit."], rows, strict=True):
        (single,) = kv.generate(smollm2, prompt, arm, generation={"max_new_tokens": 4})
        assert row.token_ids == single.token_ids
