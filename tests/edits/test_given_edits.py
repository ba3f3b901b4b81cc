"""Edits as users write them: arrays of any library are taken, anything else is one sentence before a token is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from random_models import PROMPTS, vectors_for

import kvsteer_lab as kv
from kvsteer_lab import spans
from kvsteer_lab.edits import Add, Bank, Insert, Map, Replace, Similar, TowardsChunk

SHAPE = (4, 2, 16)
ZEROS, ONES = torch.zeros(SHAPE), torch.ones(SHAPE)
BANK, FOREIGN = (Bank(torch.ones(shape), torch.ones(shape)) for shape in ((4, 2, 1, 16), (30, 3, 1, 64)))
FULL = spans.Delimited(".")

Make = Callable[[], Any]


def read(model: kv.Model, *edits: kv.edits.CacheEdit) -> list[float]:
    return kv.score(model, PROMPTS[0], "Step 1: add", kv.CacheEdits(edits)).totals


@pytest.mark.parametrize("dtype", ["float16", "float64", "numpy"])
def test_arrays_of_another_dtype_or_library_are_the_same_edit(dtype: str, model: kv.Model) -> None:
    def other(part: torch.Tensor) -> Any:
        return part.numpy() if dtype == "numpy" else part.to(getattr(torch, dtype))

    own = vectors_for(model)
    values, matrix = own.values.half().float(), torch.eye(16) / 2  # which half precision holds exactly
    bank = Bank(torch.ones(4, 2, 1, 16), values[:, :, None])
    edits = [
        (Add(ZEROS, values), Add(other(ZEROS), other(values))),
        (Map(matrix, values), Map(other(matrix), other(values))),
        (Replace(bank), Replace(Bank(other(bank.keys), other(bank.values)))),
    ]
    for one, same in edits:
        assert read(model, one) == read(model, same)
        assert read(model, one) != read(model, Map(1))
    assert read(model, Map(np.float32(0.5))) == read(model, Map(torch.tensor(0.5))) == read(model, Map(0.5))
    for layers in (np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)):
        assert Map(0.5, layers=layers).layers == (1, 2)  # type: ignore[arg-type]
    assert Map(0.5, heads=np.int64(1)).heads == (1,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Map(0.5, layers=1.0), r"layers=1.0 must be one or more whole numbers"),
        (lambda: Map("half"), r"The map's matrix is 'half'; it must be a number, or a matrix"),
        (lambda: Map(None), r"The map's matrix is None; it must be"),
        (lambda: Map(1, 0.5), r"The map's shift is 0.5; it must be an array"),
        (lambda: Add(None, ONES), r"What is added to keys is None; it must be an array"),
        (lambda: Add(ZEROS, ONES, slot=1.5), r"The slot is 1.5; it must be a whole number"),
        (lambda: Replace(ONES), r"The bank is of type Tensor; take one with"),
        (lambda: Insert(None), r"The bank is of type NoneType; take one with"),
        (lambda: Insert(BANK, weight="2"), r"weight is '2'; it counts"),
        (lambda: Bank("a", "b"), r"What a bank has of keys is 'a'; it must be an array"),
        (lambda: Similar(ONES * torch.nan, 1, 0.5), r"The gate's direction .* without NaN"),
        (lambda: Similar(ONES, 9, 0.5), r"The gate compares at layer 9, but its direction has 4 layers"),
        (lambda: Similar(ONES, 1, float("nan")), r"The cosine from which on the gate is open is nan"),
        (lambda: TowardsChunk(FULL, 0, float("nan")), r"The factor is nan; it must be a finite number"),
        (lambda: TowardsChunk(FULL, 0, "2"), r"The factor is '2'; it must be a finite number"),
        (lambda: spans.Text(5), r"The span's text is 5; write the words"),
        (lambda: spans.Text("What", "1"), r"The occurrence's number is '1'; it must be a whole number"),
        (lambda: spans.Text("What", True), r"The occurrence's number is True; it must be a whole number"),
        (lambda: spans.Message("user", None), r"The message's number is None; it must be a whole number"),
        (lambda: spans.Message(0), r"The role is 0; it must be a text"),
        (lambda: spans.SentenceEnds(3), r"Sentences are looked for within a span .* not 3"),
        (lambda: spans.Chunk(".", 0), r"The chunks are '.'; use kv.spans.Delimited"),
        (lambda: spans.Chunk(FULL, 0.5), r"The chunk's number is 0.5; it must be a whole number"),
        (lambda: spans.ChunkEnds(FULL, "a"), r"The chunk's number is 'a'; it must be a whole number"),
        (lambda: spans.Delimited(3), r"must be texts; 3 is none"),
        (lambda: spans.Delimited(".", message="user"), r"Chunks are looked for in a message .* not in 'user'"),
        (lambda: spans.Offsets([3, 4]), r"The offsets \[3, 4\] are no pairs of whole numbers"),
        (lambda: spans.Offsets(["ab"]), r"The offsets \['ab'\] are no pairs of whole numbers"),
        (lambda: spans.Messages(3), r"The role is 3; it must be a text"),
        (lambda: kv.CacheEdits(None), r"None is not a cache edit; use kv.edits.Add"),
    ],
)  # fmt: skip
def test_what_is_no_edit_is_refused_where_it_is_written(make: Make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        make()
    assert "\n" not in str(error.value)


def failing(last: object) -> bool:
    raise RuntimeError("no\nprobe")


def test_gates_are_refused_in_one_line_and_before_anything_is_read(model: kv.Model, tiny: kv.Model) -> None:
    with pytest.raises(ValueError, match=r"^The gate failing failed on row 0: no probe; nothing was edited.$"):
        read(model, Map(0.5, when=failing))
    foreign = Similar(torch.ones(4, 2, 32), layer=1, at_least=0.5)
    assert repr(foreign) == "Similar(layer=1, at_least=0.5)"
    for edit in (Map(0.5, when=foreign), Insert(Bank.zeros(model), when=foreign)):
        with pytest.raises(ValueError, match=r"The gate's direction is \(4, 2, 32\), but .* fit a gate to this model"):
            kv.CacheEdits(edit).check(model)
        kv.CacheEdits(Map(0.5, when=foreign)).check(tiny)
    for gave in (1, "yes", None, torch.ones(2), np.ones(2)):
        with pytest.raises(ValueError, match=r"^The gate <lambda> gave .*; it must give True or False.$"):
            read(model, Map(0.5, when=lambda last, gave=gave: gave))  # type: ignore[misc]
    for yes in (np.bool_(True), torch.tensor(True), torch.tensor([True])):  # what comparisons of arrays give
        assert read(model, Map(0.5, when=lambda last, yes=yes: yes)) == read(model, Map(0.5))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (Map(0.5, layers=9), r"There is no layer 9; the cache has layers 0 to 3"),
        (Map(0.5, heads=9), r"There is no KV head 9; the cache has KV heads 0 to 1"),
        (Add(ZEROS, ONES, layers=9), r"There is no layer 9"),
        (Map(torch.eye(7)), r"The map's matrix is \(7, 7\), but the cache needs \(4, 2, 16, 16\)"),
        (Replace(FOREIGN), r"The bank is \(30, 3, 64\), but the cache"),
        (Map(0.5, when=Similar(torch.ones(4, 2, 32), 1, 0.5)), r"The gate's direction is .* but the cache has"),
    ],
)  # fmt: skip
def test_a_cache_refuses_what_a_model_would(edit: kv.edits.CacheEdit, sentence: str, model: kv.Model) -> None:
    cache = model.prefill("fox")
    with pytest.raises(ValueError, match=sentence):
        kv.edits.apply(cache, [edit])


def test_a_cache_wants_one_length_and_one_prompt_a_row(model: kv.Model) -> None:
    cache = model.prefill("fox")
    n = cache.get_seq_length()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"lengths": []}, "lengths has 0 entries for 1 rows"),
        ({"lengths": [n + 1]}, rf"A row can't have {n + 1} of {n} cached tokens"),
        ({"lengths": [0]}, "A row can't have 0 of"),
        ({"prompts": []}, "prompts has 0 entries for 1 rows"),
    ]
    for given, sentence in wrong:
        with pytest.raises(ValueError, match=sentence):
            kv.edits.apply(cache, [Map(0.5)], **given)


def test_banks_have_slots_and_one_position_each(model: kv.Model) -> None:
    for n in (0, -1):
        with pytest.raises(ValueError, match="The bank is empty"):
            Bank.zeros(model, n)
    with pytest.raises(ValueError, match=r"The number of slots is 1\.5"):
        Bank.zeros(model, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positions has 2 entries for 1 slots"):
        Bank.zeros(model).at(model, [1, 2])
