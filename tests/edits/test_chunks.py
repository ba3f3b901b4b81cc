"""Chunks are found where they are, in any of the three ways, and refused where that isn't clear."""

from __future__ import annotations

import random
from typing import Any

import pytest

import kvsteer_lab as kv
from kvsteer_lab.edits import CachedPrompt
from kvsteer_lab.edits.spans import Chunk, ChunkEnds, Chunks, Delimited, Messages, Offsets, find_chunks
from kvsteer_lab.edits.spans.words import Message

FACTS = "Facts:\nSnow is white.\nCoal is black.\nGrass is green.\nWhat is black?"
CHAT = [
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": FACTS},
    {"role": "assistant", "content": "Coal."},
    {"role": "user", "content": "And what is green?"},
]
LINES = Delimited("\n", after="Facts:\n", before="What", message=Message("user", 0))


@pytest.mark.parametrize(
    ("chunks", "texts"),
    [
        (LINES, ("Snow is white.\n", "Coal is black.\n", "Grass is green.\n")),
        (Offsets([(7, 21), (22, 36)], Message("user", 0)), ("Snow is white.", "Coal is black.")),
        (Messages("user"), (FACTS, "And what is green?")),
        (Delimited(" what "), ("And what ", "is green?")),
    ],
)
def test_chunks_are_the_words_that_are_meant_and_so_are_their_slots(
    chunks: Chunks, texts: tuple[str, ...], model: kv.Model
) -> None:
    assert chunks.texts(CHAT) == texts
    ids = model.encode(CHAT)
    found = chunks.find(CachedPrompt.of(model.tokenizer, ids, CHAT))
    said = [model.tokenizer.decode([ids[slot] for slot in slots]).strip() for slots in found]
    assert said == [text.strip() for text in texts]
    table = find_chunks(model, CHAT, chunks)
    assert table.text.tolist() == list(texts)
    assert table["last"].tolist() == [slots[-1] for slots in found]


def test_spans_of_chunks(model: kv.Model) -> None:
    prompt = CachedPrompt.of(model.tokenizer, model.encode(CHAT), CHAT)
    slots = LINES.find(prompt)
    assert Chunk(LINES, -1).find(prompt) == slots[2] and Chunk(LINES, 0).find(prompt) == slots[0]
    assert ChunkEnds(LINES).find(prompt) == tuple(own[-1] for own in slots)
    assert ChunkEnds(LINES, 1).find(prompt) == (slots[1][-1],)


def test_text_that_is_taken_as_it_stands_is_one_message(model: kv.Model) -> None:
    table = find_chunks(model, FACTS, Delimited("\n", after="Facts:\n", before="What"), chat=False)
    assert table.text.tolist() == list(LINES.texts(CHAT))


def test_white_space_around_a_message_that_the_template_drops_moves_nothing(model: kv.Model) -> None:
    padded = [{"role": "user", "content": f"  {FACTS}\n"}]
    lines = Delimited("\n", after="Facts:\n", before="What")
    plain = lines.find(CachedPrompt.of(model.tokenizer, model.encode(padded), padded))
    ids = model.encode(padded)
    assert [model.tokenizer.decode([ids[i] for i in own]).strip() for own in plain] == [
        text.strip() for text in LINES.texts(CHAT)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_delimited_chunks_are_a_partition(seed: int) -> None:
    chance = random.Random(seed)
    drawn = ["".join(chance.choices("abc .?", k=chance.randint(1, 8))) for _ in range(9)]
    pieces = ["a", *(piece for piece in drawn if piece.strip())]
    chat = [{"role": "user", "content": "\n".join(pieces)}]
    texts = Delimited("\n").texts(chat)
    assert "".join(texts) == chat[0]["content"] and len(texts) == len(pieces)
    assert [text.rstrip("\n") for text in texts] == pieces


@pytest.mark.parametrize("number", [0, 1, 2, -1])
def test_a_chat_without_a_chunk_has_the_tokens_of_the_others(number: int, model: kv.Model) -> None:
    prompt = CachedPrompt.of(model.tokenizer, model.encode(CHAT), CHAT)
    gone = Chunk(LINES, number).find(prompt)
    shorter = kv.WithoutChunk(LINES, number).chat(CHAT)
    assert model.encode(shorter) == [token for slot, token in enumerate(prompt.ids) if slot not in gone]


def test_a_message_that_is_left_empty_goes() -> None:
    assert kv.WithoutChunk(Messages("assistant"), 0).chat(CHAT) == [*CHAT[:2], CHAT[3]]


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        (lambda: Delimited("---"), "delimiter '---' isn't in message 0; give one"),
        (lambda: Delimited("\n", before="is"), "'is' stand in the message 4 times"),
        (lambda: Delimited("\n", after="Sources:"), "'Sources:' stand in the message 0 times"),
        (lambda: Delimited("\n", after="Facts:"), "Chunk 0 is empty"),
        (lambda: Delimited(""), "can't be empty"),
        (lambda: Delimited("\n", message=Message("tool")), "isn't in a chat of 1 messages"),
        (lambda: Offsets([(0, 6), (60, 90)]), "Chunk 1 ends at 90, but message 0 has"),
        (lambda: Offsets([(0, 6), (6, 7)]), "Chunk 1 is empty: characters 6 to 7"),
        (lambda: Offsets([(5, 5)]), r"offsets \(5, 5\) hold no characters"),
        (lambda: Offsets([(-3, 5)]), r"offsets \(-3, 5\) hold no characters"),
        (lambda: Offsets([]), "hold no characters"),
        (lambda: Messages("tool"), "role 'tool' isn't there; the roles are user"),
    ],
)
def test_chunks_that_are_not_clear_are_refused_in_a_sentence(chunks: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        chunks().places([{"role": "user", "content": FACTS}])
    assert str(caught.value).count(". ") == 0


def test_a_token_of_two_chunks_is_refused_and_so_is_a_chunk_that_is_not_there(model: kv.Model) -> None:
    prompt = CachedPrompt((1, 2, 3), ("Snow|", "coal|g", "rass"))
    with pytest.raises(ValueError, match=r"Chunks 1 and 2 share the token 'coal\|g'"):
        Delimited("|").find(prompt)
    with pytest.raises(ValueError, match="no chunk 3 among 3; choose -3 to 2"):
        kv.divergence(model, [CHAT], ["So"], kv.CacheEdits(kv.edits.Erase(span=Chunk(LINES, 3))))
    with pytest.raises(ValueError, match="Chunk 0 isn't in the prompt as the chat template writes it"):
        LINES.find(CachedPrompt((1,), ("Snow",), CHAT))
    with pytest.raises(ValueError, match="no chunk 7 among 3"):
        kv.generate(model, [CHAT], kv.WithoutChunk(LINES, 7))
