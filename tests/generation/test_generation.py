"""Rows, ends and interruptions: what `kv.generate` gives back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import reference
import torch
from families import FAMILIES, Family
from random_models import PROMPTS, build, newline, tokenizer, vectors_for
from transformers import GenerationConfig

import kvsteer_lab as kv
from kvsteer_lab.generation.settings import resolve

ENDLESS = {"max_new_tokens": 8, "eos_token_id": []}


def methods_for(model: kv.Model) -> list[kv.Intervention]:
    return [
        kv.Nothing(),
        kv.CacheSteering(vectors_for(model), 1, 8, name="steered"),
        kv.CoTPrompt(),
        kv.ForcedPrefix("Step 1"),
    ]


# --- rows -----------------------------------------------------------------------------------------------------


def test_rows_are_flat_and_ordered_by_prompt_intervention_and_sample(model: kv.Model) -> None:
    methods = methods_for(model)
    rows = kv.generate(model, PROMPTS, methods, generation={**ENDLESS, "do_sample": True}, samples=2)
    labels = ["baseline", "steered", "CoT prompt", "forced 'Step 1'"]
    assert [(r.prompt, r.intervention, r.sample) for r in rows] == [
        (p, m, s) for p in range(3) for m in labels for s in range(2)
    ]
    assert len(rows) == 24 and rows.complete
    assert [list(r.token_ids) for r in rows] == rows.token_ids and [r.text for r in rows] == rows.texts
    table = rows.to_frame()
    assert list(table.columns) == ["prompt", "intervention", "sample", "text", "token_ids", "finish_reason", "forced"]
    assert table.token_ids.tolist() == rows.token_ids and table.text.tolist() == rows.texts
    assert table[table.intervention == "steered"].token_ids.tolist() == [list(r.token_ids) for r in rows.of("steered")]


def test_one_prompt_and_one_intervention_are_rows_too(model: kv.Model) -> None:
    chat = [{"role": "user", "content": PROMPTS[0]}]
    by_text, by_chat, listed = (kv.generate(model, p, generation=ENDLESS) for p in (PROMPTS[0], chat, [chat]))
    assert len(by_text) == 1 and by_text.token_ids == by_chat.token_ids == listed.token_ids
    assert [r.intervention for r in by_text] == ["baseline"]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_does_not_matter(batch_size: int, model: kv.Model) -> None:
    rows = kv.generate(model, PROMPTS, methods_for(model), generation=ENDLESS, batch_size=batch_size)
    assert rows == kv.generate(model, PROMPTS, methods_for(model), generation=ENDLESS)
    assert len({r.token_ids for r in rows if r.prompt == 1}) == 4


def test_a_prompt_shared_by_interventions_is_prefilled_once(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import kvsteer_lab.generation.filling as filling

    filled: list[int] = []
    original = filling.fill
    monkeypatch.setattr(
        filling, "fill", lambda m, ids, mask, **rest: filled.append(len(ids)) or original(m, ids, mask, **rest)
    )
    grid = [kv.CacheSteering(vectors_for(model), 1, cv) for cv in range(10)]
    kv.generate(model, PROMPTS, grid, generation=ENDLESS)
    assert filled == [3]


def test_prompts_that_are_not_rendered(model: kv.Model) -> None:
    ids = model.tokenizer("the fox and", add_special_tokens=False).input_ids
    found = kv.generate(model, "the fox and", chat=False, generation=ENDLESS).token_ids[0]
    assert found == reference.plain(model.hf, [*ids, newline(model)], 8, eos_token_id=model.hf.config.vocab_size)


def test_the_cot_prompt_and_the_forced_prefix_say_their_words(model: kv.Model) -> None:
    never = model.hf.config.vocab_size
    rows = kv.generate(model, PROMPTS[0], [kv.CoTPrompt(), kv.ForcedPrefix("Step 1")], generation=ENDLESS)
    asked = [{"role": "user", "content": PROMPTS[0] + "\nLet's think step by step."}]
    assert list(rows[0].token_ids) == reference.plain(
        model.hf, [*model.encode(asked), newline(model)], 8, eos_token_id=never
    )
    forced = model.tokenizer("Step 1", add_special_tokens=False).input_ids
    assert list(rows[1].token_ids) == reference.plain(
        model.hf, [*model.encode(PROMPTS[0]), newline(model), *forced], 8, eos_token_id=never
    )
    assert rows[1].forced == "Step 1" and rows[1].answer == "Step 1" + rows[1].text and rows[0].forced == ""


def test_no_offset_and_another_offset(model: kv.Model) -> None:
    never = model.hf.config.vocab_size
    ids = model.encode(PROMPTS[0])
    (space,) = model.tokenizer("X", add_special_tokens=False).input_ids
    assert kv.generate(model, PROMPTS[0], kv.NoOffset(), generation=ENDLESS).token_ids == [
        reference.plain(model.hf, ids, 8, eos_token_id=never)
    ]
    assert kv.generate(model, PROMPTS[0], offset=None, generation=ENDLESS).token_ids == [
        reference.plain(model.hf, ids, 8, eos_token_id=never)
    ]
    for offset in ("X", space):
        found = kv.generate(model, PROMPTS[0], offset=offset, generation=ENDLESS).token_ids
        assert found == [reference.plain(model.hf, [*ids, space], 8, eos_token_id=never)]


def test_rows_with_and_without_offset_stand_side_by_side(model: kv.Model) -> None:
    both = kv.generate(model, PROMPTS, [kv.Nothing(), kv.NoOffset()], generation=ENDLESS)
    for method in (kv.Nothing(), kv.NoOffset()):
        assert [list(r.token_ids) for r in both.of(method.label)] == kv.generate(
            model, PROMPTS, method, generation=ENDLESS
        ).token_ids


def test_a_ban_on_repeated_ngrams_does_not_see_the_padding(model: kv.Model) -> None:
    methods = [kv.Nothing(), kv.ForcedPrefix("Step 1: add 2"), kv.ForcedPrefix("fox")]
    wanted = {**ENDLESS, "max_new_tokens": 24, "no_repeat_ngram_size": 1}
    together = kv.generate(model, PROMPTS, methods, generation=wanted)
    for method in methods:
        assert [list(r.token_ids) for r in together.of(method.label)] == kv.generate(
            model, PROMPTS, method, generation=wanted
        ).token_ids


def test_an_edit_of_an_earlier_slot(model: kv.Model, vectors: kv.KVVectors) -> None:
    ids = model.encode(PROMPTS[0])
    last = len(ids) - 1
    by_end, by_start = (
        kv.generate(model, PROMPTS[0], kv.CacheSteering(vectors, 1, 8, slot=s), generation=ENDLESS)
        for s in (-3, last - 2)
    )
    assert by_end.token_ids == by_start.token_ids
    assert (
        by_end.token_ids
        != kv.generate(model, PROMPTS[0], kv.CacheSteering(vectors, 1, 8), generation=ENDLESS).token_ids
    )


def test_html_shows_texts_escaped(model: kv.Model) -> None:
    html = kv.generate(model, ["a < b & c"], methods_for(model), generation=ENDLESS)._repr_html_()
    assert "a &lt; b &amp; c" in html and "<u>Step 1</u>" in html and html.count("<th") == 5


def test_the_model_s_own_generation_config_gives_no_surprises(tokenizer: Any) -> None:
    hf = build("llama")
    plain = kv.generate(kv.load(hf, tokenizer), PROMPTS, generation=ENDLESS).token_ids
    hf.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        num_beams=3,
        num_return_sequences=2,
        max_length=4,
        return_dict_in_generate=True,
        eos_token_id=plain[0][2],
    )
    model = kv.load(hf, tokenizer)
    assert kv.generate(model, PROMPTS, generation=ENDLESS).token_ids == plain
    assert kv.generate(model, PROMPTS[0], generation={"max_new_tokens": 8}).token_ids[0] == plain[0][:3], (
        "its end token still counts"
    )


def test_a_generation_config_asks_like_a_mapping(model: kv.Model) -> None:
    plain = kv.generate(model, PROMPTS, generation={"max_new_tokens": 6})
    settings = dict(max_new_tokens=6, repetition_penalty=1.1, suppress_tokens=[plain.token_ids[0][0]])
    by_config = kv.generate(model, PROMPTS, generation=GenerationConfig(**settings))
    assert by_config == kv.generate(model, PROMPTS, generation=settings)
    assert by_config.token_ids[0] != plain.token_ids[0]
    default = resolve(model, None, chat=True)
    assert (default.max_new_tokens, default.sample) == (128, False)


# --- ends -----------------------------------------------------------------------------------------------------


def that_ends(family: Family, end: str) -> tuple[kv.Model, list[list[int]]]:
    """A model whose first prompt ends with `end` at its third token, and what it says of each prompt without any
    end.
    """
    tok = tokenizer(family.special, family.template, **family.named)
    hf = build("llama", seed=2)
    ids = tok.convert_tokens_to_ids
    hf.generation_config.eos_token_id = (
        ids(family.own_ends) if isinstance(family.own_ends, str) else [ids(t) for t in family.own_ends]
    )
    hf.generation_config.pad_token_id = None
    special = [ids(t) for t in family.special]
    with torch.no_grad():
        hf.lm_head.weight[special] = 0.0  # never the likeliest
    chat = family.template is not None
    model = kv.load(hf, tok)
    rows = [[*model.encode(p, chat=chat), newline(model)] for p in PROMPTS]
    third = reference.plain(hf, rows[0], 3, eos_token_id=hf.config.vocab_size)[2]
    with torch.no_grad():
        hf.lm_head.weight[[third, ids(end)]] = hf.lm_head.weight[[ids(end), third]]
    return model, [reference.plain(hf, row, 8, eos_token_id=hf.config.vocab_size) for row in rows]


def until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to the first end, which is kept."""
    first = next((i for i, t in enumerate(tokens) if t in ends), len(tokens))
    return list(tokens[: first + 1])


@pytest.mark.parametrize(("name", "end"), [(name, end) for name, family in FAMILIES.items() for end in family.ends])
def test_every_end_token_ends_a_text_and_is_kept(name: str, end: str) -> None:
    family = FAMILIES[name]
    model, endless = that_ends(family, end)
    chat = family.template is not None
    ends = [model.tokenizer.convert_tokens_to_ids(t) for t in family.ends]
    rows = kv.generate(model, PROMPTS, chat=chat, generation={"max_new_tokens": 8})
    assert rows.token_ids == [until(row, ends) for row in endless]
    assert rows[0].token_ids[-1] == model.tokenizer.convert_tokens_to_ids(end) and len(rows[0].token_ids) <= 3
    assert rows[0].finish_reason == "eos"
    for row in rows:
        ended = row.token_ids[-1] in ends
        assert row.finish_reason == ("eos" if ended else "length")
        assert row.text == model.tokenizer.decode(row.token_ids[: len(row.token_ids) - ended], skip_special_tokens=True)
        assert end not in row.text and sum(t in ends for t in row.token_ids) == ended, "padding is no part of a text"
    assert {row.finish_reason for row in rows} == {"eos", "length"}, "one row must go on while another is padded"
    steered = kv.generate(
        model,
        PROMPTS,
        [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1, 9)],
        chat=chat,
        generation={"max_new_tokens": 8},
    )
    assert [list(r.token_ids) for r in steered.of("baseline")] == rows.token_ids
    assert steered.of("baseline") != steered.of("steered ck=1 cv=9")


def test_an_end_of_turn_ends_chats_only() -> None:
    model, endless = that_ends(FAMILIES["gemma"], "<end_of_turn>")
    text = kv.generate(model, PROMPTS[0], chat=False, generation={"max_new_tokens": 8})
    assert model.tokenizer.convert_tokens_to_ids("<end_of_turn>") not in resolve(model, None, chat=False).eos
    assert (
        text[0].finish_reason == "length"
        and kv.generate(model, PROMPTS[0], generation={"max_new_tokens": 8})[0].finish_reason == "eos"
    )
    assert len(endless[0]) == 8


def test_an_end_token_asked_for_replaces_the_model_s_own(model: kv.Model) -> None:
    endless = kv.generate(model, PROMPTS, generation=ENDLESS).token_ids
    for asked in (endless[0][3], [endless[0][3], endless[1][5]]):
        rows = kv.generate(model, PROMPTS, generation={"max_new_tokens": 8, "eos_token_id": asked})
        assert rows.token_ids == [until(row, [asked] if isinstance(asked, int) else asked) for row in endless]
        assert rows[0].finish_reason == "eos" and len(rows[0].token_ids) <= 4
        assert rows[0].text == model.tokenizer.decode(rows[0].token_ids[:-1], skip_special_tokens=True)


# --- interruptions --------------------------------------------------------------------------------------------


def limit(model: kv.Model, monkeypatch: pytest.MonkeyPatch, stop: Any) -> list[int]:
    """Let `stop(rows)` raise before a batch is decoded; returns the list of batch sizes that were tried."""
    original, tried = model.hf.generate, []

    def generate(ids: torch.Tensor, **arguments: Any) -> Any:
        tried.append(len(ids))
        stop(tried)
        return original(ids, **arguments)

    monkeypatch.setattr(model.hf, "generate", generate)
    return tried


def out_of_memory_above(rows: int) -> Any:
    def stop(tried: list[int]) -> None:
        if tried[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return stop


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = [kv.CacheSteering(vectors_for(model), 1, cv) for cv in (0, 4, 8)]
    whole = kv.generate(model, PROMPTS, grid, generation=ENDLESS)
    tried = limit(model, monkeypatch, out_of_memory_above(2))
    with pytest.warns(UserWarning) as warned:
        halved = kv.generate(model, PROMPTS, grid, generation=ENDLESS)
    assert halved == whole
    assert tried == [9, 4, 2, 2, 2, 2, 1]
    said = "Out of memory with {} rows; going on with {} at a time."
    assert [str(w.message) for w in warned] == [said.format(9, 4), said.format(4, 2)]


def test_out_of_memory_with_a_single_row_is_an_error_with_a_remedy(
    model: kv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(model, monkeypatch, out_of_memory_above(0))
    with (
        pytest.raises(
            torch.OutOfMemoryError, match="with a single row; use shorter prompts, fewer new tokens or a smaller dtype"
        ),
        pytest.warns(UserWarning),
    ):
        kv.generate(model, PROMPTS[:2], generation=ENDLESS)


def test_after_ctrl_c_the_finished_rows_come_back(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 1, 8)]
    whole = kv.generate(model, PROMPTS, methods, generation=ENDLESS)

    def interrupt(tried: list[int]) -> None:
        if len(tried) == 2:
            raise KeyboardInterrupt

    limit(model, monkeypatch, interrupt)
    with pytest.warns(UserWarning, match="Interrupted: 2 of 6 texts are finished and returned"):
        some = kv.generate(model, PROMPTS, methods, generation=ENDLESS, batch_size=2)
    assert not some.complete and whole.complete
    assert len(some) == 2 and all(row in whole.rows for row in some)
    assert "Interrupted" in some._repr_html_() and len(some.to_frame()) == 2


def test_ctrl_c_before_anything_is_finished_gives_no_rows(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(tried: list[int]) -> None:
        raise KeyboardInterrupt

    limit(model, monkeypatch, interrupt)
    with pytest.warns(UserWarning, match="Interrupted: 0 of 3 texts"):
        none = kv.generate(model, PROMPTS, generation=ENDLESS)
    assert len(none) == 0 and none.texts == [] and not none.complete and len(none.to_frame()) == 0


# --- other precisions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.25), (torch.float16, 0.05)])
def test_half_precision_agrees_by_log_probabilities(
    dtype: torch.dtype, tolerance: float, model: kv.Model, folder: Any, record_property: Any
) -> None:
    """Exact tokens are a float32 promise; here the steered text's log-probabilities must agree, and flips are
    reported.
    """
    half = kv.load(folder, dtype=dtype)
    steering, theirs = (kv.CacheSteering(vectors_for(m), 1, 12) for m in (model, half))
    text = kv.generate(model, PROMPTS, steering, generation=ENDLESS).token_ids
    full, low, plain = (
        kv.score(model, PROMPTS, text, steering),
        kv.score(half, PROMPTS, text, theirs),
        kv.score(model, PROMPTS, text),
    )
    error = max(float((a - b).abs().mean()) for a, b in zip(full.logprobs, low.logprobs, strict=True))
    effect = min(float((a - b).abs().mean()) for a, b in zip(full.logprobs, plain.logprobs, strict=True))
    assert error < tolerance < effect
    flips = sum(
        a != b for a, b in zip(text, kv.generate(half, PROMPTS, theirs, generation=ENDLESS).token_ids, strict=True)
    )
    record_property("rows that differ from float32", flips)
