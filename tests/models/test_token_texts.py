"""Texts of tokens where they stand: joined they are the whole, with every kind of tokenizer, in linear time."""

from __future__ import annotations

import random

import pytest
from timing import takes_less_than
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import kvsteer_lab as kv
from kvsteer_lab.models.token_texts import text_after, token_pieces


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: the space before a word is part of it, and a text's first one is dropped."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    strip = decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    made.train_from_iterator(["The answer is 18 ."] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_words_after_others_keep_their_space(sentencepiece: PreTrainedTokenizerFast) -> None:
    ids = sentencepiece("The answer is 18", add_special_tokens=False).input_ids
    assert text_after(sentencepiece, ids[:3], ids[3:]) == " 18" != sentencepiece.decode(ids[3:])
    assert token_pieces(sentencepiece, ids) == ("The", " answer", " is", " 18")
    assert token_pieces(sentencepiece, ids[2:], ids[:2]) == (" is", " 18")
    assert text_after(sentencepiece, [], ids) == "The answer is 18" and text_after(sentencepiece, ids, []) == ""


def test_a_character_is_the_text_of_its_last_byte() -> None:
    tokenizer = kv.load("tiny").tokenizer
    ids = tokenizer("Größe 🙂 ok", add_special_tokens=False).input_ids
    pieces = token_pieces(tokenizer, ids)
    assert "🙂" in pieces and "�" not in "".join(pieces) and "".join(pieces) == tokenizer.decode(ids)
    end = pieces.index("🙂")
    assert (
        token_pieces(tokenizer, ids[end:], ids[:end])[0] == "🙂" == text_after(tokenizer, ids[:end], ids[end : end + 1])
    )


@pytest.mark.parametrize("which", ["bundled", "sentencepiece"])
def test_pieces_of_any_tokens_are_the_whole_text(which: str, sentencepiece: PreTrainedTokenizerFast) -> None:
    tokenizer = kv.load("tiny").tokenizer if which == "bundled" else sentencepiece
    chance = random.Random(0)
    for _ in range(200):
        ids = chance.choices(range(len(tokenizer)), k=chance.randint(1, 30))
        start = chance.randrange(len(ids))
        whole, before = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, ids[:start]))
        assert "".join(token_pieces(tokenizer, ids)) == whole
        after = text_after(tokenizer, ids[:start], ids[start:])
        assert "".join(token_pieces(tokenizer, ids[start:], ids[:start])) == after
        assert whole.endswith(after) or not whole.startswith(before.rstrip("�"))


def test_special_tokens_have_no_text(sentencepiece: PreTrainedTokenizerFast) -> None:
    ids = sentencepiece("The answer", add_special_tokens=False).input_ids
    assert token_pieces(sentencepiece, [*ids, sentencepiece.eos_token_id]) == ("The", " answer", "")
    assert text_after(sentencepiece, ids, [sentencepiece.eos_token_id], skip_special_tokens=False).strip() == "</s>"


def test_long_texts_take_linear_time() -> None:
    tokenizer = kv.load("tiny").tokenizer
    ids = tokenizer("Größe 🙂 is 18. ", add_special_tokens=False).input_ids * 800
    pieces = token_pieces(tokenizer, ids)
    assert takes_less_than(3, lambda: token_pieces(tokenizer, ids)) and len(pieces) == len(ids) > 10_000
