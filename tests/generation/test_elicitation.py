"""The second stage: closing words behind a finished reply, read from the same edited cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, activations_for, newline, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.generation import elicitation
from kvsteer_lab.generation.elicitation import elicit, letter_tokens

pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")
CLOSING = "\nSo the correct choice is"
LETTERS = [("A", "B", "C"), ("A", "B", "C", "D"), ("1", "2")]
NEW = 5


def generated(model: kv.Model, methods: Any) -> kv.Generations:
    """Replies of different length: with end tokens, cut, and shortened by hand."""
    texts = kv.generate(model, PROMPTS, methods, generation={"max_new_tokens": 7, "eos_token_id": []})
    rows = [replace(g, token_ids=g.token_ids[: 2 + i % 5]) for i, g in enumerate(texts)]
    rows[1] = replace(rows[1], token_ids=(*rows[1].token_ids, model.tokenizer.eos_token_id), finish_reason="eos")
    return replace(texts, rows=tuple(rows))


def ask(model: kv.Model, methods: Any, texts: kv.Generations, **other: Any) -> Any:
    return elicit(model, PROMPTS, methods, texts, closing=CLOSING, letters=LETTERS, max_new_tokens=NEW, **other)


def asked_ids(model: kv.Model, g: Any) -> list[int]:
    """What is read behind the offset token, written by hand."""
    encode = model.tokenizer
    reply = [t for t in g.token_ids if t != model.tokenizer.eos_token_id]
    space = (
        encode(" ", add_special_tokens=False).input_ids if LETTERS[g.prompt][0] == "A" else []
    )  # " A" is two tokens here, " 1" is one
    return [*reply, *encode(CLOSING, add_special_tokens=False).input_ids, *space]


def text_of(model: kv.Model, ids: list[int]) -> str:
    """Up to the end token."""
    eos = model.tokenizer.eos_token_id
    return str(model.tokenizer.decode(ids[: ids.index(eos)] if eos in ids else ids, skip_special_tokens=True)).strip()


def letter_ids(model: kv.Model, letters: Sequence[str]) -> list[int]:
    return [
        model.tokenizer(letter if letter.isalpha() else f" {letter}", add_special_tokens=False).input_ids[0]
        for letter in letters
    ]


@torch.no_grad()
def by_hand(model: kv.Model, g: Any, vectors: kv.KVVectors | None) -> tuple[list[int], torch.Tensor]:
    """Token by token from a cache that was edited by hand: the greedy continuation and the letters'
    log-probabilities.
    """
    cache = reference.prefill(model.hf, model.encode(PROMPTS[g.prompt]))
    for index, layer in enumerate(cache.layers if vectors is not None else []):
        layer.keys[0, :, -1] += vectors.keys[index] * (index > 0)  # type: ignore[union-attr]
        layer.values[0, :, -1] += 8 * vectors.values[index] * (index > 0)  # type: ignore[union-attr]
    for token in [newline(model), *asked_ids(model, g)]:
        logits = reference.read_on(model.hf, [token], cache)
    first, said = logits.log_softmax(-1), []
    for _ in range(NEW):
        said.append(int(logits.argmax()))
        if said[-1] == model.tokenizer.eos_token_id:
            break
        logits = reference.read_on(model.hf, said[-1:], cache)
    return said, first[letter_ids(model, LETTERS[g.prompt])]


def test_replies_of_like_length_are_read_together(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = kv.generate(model, PROMPTS, kv.Nothing(), generation={"max_new_tokens": 24, "eos_token_id": []})
    rows = [replace(g, sample=i, token_ids=g.token_ids[: 1 + 7 * i % 23]) for i in range(8) for g in texts]
    texts = replace(texts, rows=tuple(rows))
    read: list[list[int]] = []
    original = elicitation.read_rows

    def watch(model: kv.Model, batch: Any) -> Any:
        read.append([len(row.tail) for row in batch])
        return original(model, batch)

    monkeypatch.setattr(elicitation, "read_rows", watch)
    ask(model, kv.Nothing(), texts, batch_size=6)
    assert len(read) == 4 and sum(map(len, read)) == 24
    assert sum(len(batch) * max(batch) for batch in read) < 1.2 * sum(map(sum, read)), "little of it is padding"


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_second_stage_continues_the_edited_cache(name: str, load_random: Callable[[str], kv.Model]) -> None:
    model = load_random(name)
    vectors = vectors_for(model)
    methods = [
        kv.Nothing(),
        kv.CacheSteering(vectors, 0, 0, name="zero"),
        kv.CacheSteering(vectors, 1, 8, name="steered"),
    ]
    texts = generated(model, methods)
    together = ask(model, methods, texts)
    unsteered = ask(model, methods, texts, steered=False)
    changed = 0.0
    for g, choice, bare in zip(texts, together, unsteered, strict=True):
        said, letters = by_hand(model, g, vectors if g.intervention == "steered" else None)
        assert choice.text.strip() == model.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert list(choice.logprobs.values()) == pytest.approx(letters.log_softmax(-1).tolist(), abs=2e-3)
        assert choice.mass == pytest.approx(float(letters.exp().sum()), rel=1e-2)
        assert choice.letter == max(choice.logprobs, key=choice.logprobs.__getitem__)
        if g.intervention == "steered":
            plain, plainly = by_hand(model, g, None)
            assert bare.text.strip() == model.tokenizer.decode(plain, skip_special_tokens=True).strip()
            assert list(bare.logprobs.values()) == pytest.approx(plainly.log_softmax(-1).tolist(), abs=2e-3)
            changed = max(changed, max(abs(choice.logprobs[key] - bare.logprobs[key]) for key in choice.logprobs))
        else:
            assert bare.logprobs == pytest.approx(choice.logprobs, abs=2e-3)
            eos = {"eos_token_id": model.tokenizer.eos_token_id}
            plain = reference.plain(
                model.hf, [*model.encode(PROMPTS[g.prompt]), newline(model), *asked_ids(model, g)], NEW, **eos
            )
            assert choice.text.strip() == model.tokenizer.decode(plain, skip_special_tokens=True).strip()
    forgotten = all(model.shape.windows)  # the closing words alone are longer than all windows together
    assert (changed > 0.01) != forgotten, "steering must reach the second stage"


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_is_each_row_alone(batch_size: int, model: kv.Model) -> None:
    methods = [kv.CoTPrompt(), kv.NoOffset(), kv.ForcedPrefix("Step 1"), kv.CacheSteering(vectors_for(model), 1, 8)]
    texts = generated(model, methods)
    few, many = ask(model, methods, texts, batch_size=batch_size), ask(model, methods, texts)
    for g, one, other in zip(texts, few, many, strict=True):
        assert (one.text, one.letter) == (other.text, other.letter)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        alone = ask(model, methods, replace(texts, rows=(g,)))[0]
        assert (alone.text, alone.letter) == (other.text, other.letter)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "falcon, alibi", "cohere"])
def test_activation_steering_goes_on(name: str, load_random: Callable[[str], kv.Model]) -> None:
    """One-shot or at every token, closing words included; with the cache or without."""
    model = load_random(name)
    vectors = activations_for(model)
    methods = [
        kv.ActivationSteering(vectors, 1, 4, every_token=every, cache=cache)
        for every in (False, True)
        for cache in (True, False)
    ]
    texts = generated(model, methods)
    steered, unsteered = ask(model, methods, texts), ask(model, methods, texts, steered=False)
    own = torch.zeros_like(vectors.residuals)
    own[1] = 4 * vectors.residuals[1]
    changed = []
    for g, choice, bare in zip(texts, steered, unsteered, strict=True):
        prompt = model.encode(PROMPTS[g.prompt])
        ids = [*prompt, newline(model), *asked_ids(model, g)]
        said = reference.activation_steered(
            model.hf, ids, own, len(prompt) - 1, NEW, onward="every token" in g.intervention
        )
        assert choice.text.strip() == text_of(model, said)
        assert bare.text.strip() == text_of(model, reference.plain(model.hf, ids, NEW))
        changed.append(max(abs(choice.logprobs[key] - bare.logprobs[key]) for key in choice.logprobs))
    assert max(changed) > 0.001


def test_tails_and_chats_of_other_methods_are_kept(model: kv.Model) -> None:
    """Forced words stand before the reply, and a chain-of-thought prompt is still there."""
    methods = [kv.CoTPrompt(), kv.NoOffset(), kv.ForcedPrefix("Step 1")]
    texts = generated(model, methods)
    forced = model.tokenizer("Step 1", add_special_tokens=False).input_ids
    starts = {
        "CoT prompt": lambda p: [*model.encode(f"{p}\nLet's think step by step."), newline(model)],
        "no offset": model.encode,
        "forced 'Step 1'": lambda p: [*model.encode(p), newline(model), *forced],
    }
    for g, choice in zip(texts, ask(model, methods, texts), strict=True):
        ids = [*starts[g.intervention](PROMPTS[g.prompt]), *asked_ids(model, g)]
        plain = reference.plain(model.hf, ids, NEW, eos_token_id=model.tokenizer.eos_token_id)
        assert choice.text.strip() == model.tokenizer.decode(plain, skip_special_tokens=True).strip()


def test_the_text_reads_on_from_the_closing_words(model: kv.Model) -> None:
    """A letter's space may be a token of its own: it is read with the closing words, and is part of the text."""
    texts = generated(model, kv.Nothing())
    choices = ask(model, kv.Nothing(), texts)
    assert all(choice.text.startswith(" ") for choice, letters in zip(choices, LETTERS, strict=True) if "A" in letters)


def test_the_letters_are_those_of_the_tokenizer(tokenizer: Any) -> None:
    decode = tokenizer.decode
    words = letter_tokens(tokenizer, CLOSING, ["A", "B"])
    assert (
        decode(words.closing) == CLOSING
        and decode(words.shared) == " "
        and {k: decode([v]) for k, v in words.letters.items()} == {"A": "A", "B": "B"}
    )
    digits = letter_tokens(tokenizer, CLOSING, ["1", "2"])
    assert decode(digits.shared + (digits.letters["1"],)) == " 1"
    after_space = letter_tokens(tokenizer, "Answer:\n", ["A", "B"])
    assert after_space.shared == () and decode([after_space.letters["A"]]) == "A"
    assert decode([letter_tokens(tokenizer, CLOSING, ["A"]).letters["A"]]) == "A"


def test_the_likeliest_letter_is_a_probability_among_the_letters(model: kv.Model) -> None:
    for choice in ask(model, kv.Nothing(), generated(model, kv.Nothing())):
        assert sum(map(math.exp, choice.logprobs.values())) == pytest.approx(1)
        assert 0 < choice.mass < 1


def test_a_continuation_ends_at_an_end_token(model: kv.Model) -> None:
    """Whatever token is made to end texts, special or not: the text stops before it."""
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1, 8)]
    texts = generated(model, methods)
    whole = ask(model, methods, texts)
    config, before = model.hf.generation_config, model.hf.generation_config.eos_token_id
    stop = model.tokenizer(whole[0].text, add_special_tokens=False).input_ids[3]
    try:
        config.eos_token_id = [stop]
        cut = ask(model, methods, texts)
    finally:
        config.eos_token_id = before
    assert len(cut[0].text) < len(whole[0].text)
    for one, other in zip(cut, whole, strict=True):
        said = model.tokenizer(other.text, add_special_tokens=False).input_ids
        kept = said[: said.index(stop)] if stop in said else said
        assert one.text == model.tokenizer.decode(kept) and one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_bad_requests_are_refused(model: kv.Model) -> None:
    texts = generated(model, [kv.Nothing()])
    good: dict[str, Any] = dict(closing=CLOSING, letters=LETTERS)

    def refused(message: str, prompts: Any = PROMPTS, methods: Any = None, texts: Any = texts, **changes: Any) -> None:
        with pytest.raises(ValueError, match=message):
            elicit(model, prompts, methods, texts, **{**good, **changes})

    refused("The closing words are empty", closing="")
    refused("There are 3 prompts but letters for 2; pass the letters of each prompt's choices", letters=LETTERS[:2])
    refused(
        r"The letters of prompt 1 are \['A', 'A'\]; every prompt needs letters, each named once",
        letters=["AB", "AA", "AB"],
    )
    refused(r"The letters of prompt 0 are \[\]", letters=["", "AB", "AB"])
    refused("A text is of 'baseline', but the interventions are no offset", methods=kv.NoOffset())
    refused("A text is of prompt 2, but there are 2; pass the prompts", prompts=PROMPTS[:2], letters=LETTERS[:2])
    refused("The choices A, AB can't be told apart by one token", letters=[("A", "AB")] * 3)
    refused(
        "The choice 'the' is not a token of its own after 'So '; end the closing words with a whole word",
        closing="So ",
        letters=[("the", "A")] * 3,
    )
    refused("max_new_tokens must be a whole number", max_new_tokens=0)
    long = replace(texts.rows[0], token_ids=(5,) * 500)
    crowded = (
        r"Prompt 0, its reply under 'baseline' \(500 tokens\) and the closing words need \d+ slots, but the context of"
        r" .* is 512; shorten"
    )
    refused(crowded, texts=replace(texts, rows=(long,)))
