"""Forced words and generated tokens are one text, also where a tokenizer drops the space before a lone token."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import kvsteer_lab as kv
from kvsteer_lab.generation.generate import read_row
from kvsteer_lab.generation.rows import make_rows
from kvsteer_lab.generation.settings import resolve


@pytest.fixture(scope="module")
def pieces() -> kv.Model:
    """A random model with a tokenizer that works as SentencePiece's do: a space belongs to the word after it."""
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *[f"<0x{i:02X}>" for i in range(256)]]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    t.train_from_iterator(["The answer is 18 . Step one two"] * 9, trainer)
    tok = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    config.initializer_range = 0.2
    return kv.load(LlamaForCausalLM(config), tok, template="{{ messages[-1]['content'] }}")


def read(model: kv.Model, forced: str, said: list[int]) -> Any:
    row = make_rows(model, kv.ForcedPrefix(forced), [model.encode("How many")], 5)[0]
    return row, read_row(model, row, (0, "x", 0), said, resolve(model, None, chat=True))


def test_a_space_between_forced_words_and_the_text(pieces: kv.Model) -> None:
    ids = pieces.tokenizer("The answer is 18", add_special_tokens=False).input_ids
    assert pieces.tokenizer.decode(ids[-1:]) == "18", "alone, the token has lost its space"
    row, found = read(pieces, "The answer is", ids[-1:])
    assert (found.forced, found.text, found.answer) == ("The answer is", " 18", "The answer is 18")
    assert found.answer == pieces.tokenizer.decode([*row.forced, *found.token_ids])


def test_without_forced_words_nothing_changes(pieces: kv.Model) -> None:
    ids = pieces.tokenizer("18", add_special_tokens=False).input_ids
    row = make_rows(pieces, kv.Nothing(), [pieces.encode("How many")], 5)[0]
    found = read_row(pieces, row, (0, "x", 0), ids, resolve(pieces, None, chat=True))
    assert (found.forced, found.text) == ("", "18")


def test_a_stream_is_the_text(pieces: kv.Model) -> None:
    for method in (kv.ForcedPrefix("The answer is"), kv.Nothing()):
        for prompt in ("How many", "Step", "one two"):
            text = kv.generate(pieces, prompt, method, generation={"max_new_tokens": 12}).texts[0]
            assert "".join(kv.stream(pieces, prompt, method, generation={"max_new_tokens": 12})) == text


def test_token_texts_join_to_the_continuation(pieces: kv.Model) -> None:
    scores = kv.score(pieces, ["How many"], ["The answer is 18"])
    assert "".join(scores.tokens[0]) == "The answer is 18"


def test_special_tokens_keep_their_names(model: kv.Model) -> None:
    ids = [*model.encode("fox", chat=False), model.tokenizer.eos_token_id]
    assert kv.score(model, ["a"], [ids]).tokens[0][-1] == "<|im_end|>"
