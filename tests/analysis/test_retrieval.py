"""Steering towards a chunk, attention to chunks, and erasure against a recomputation: states whose result is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from random_models import vectors_for

import kvsteer_lab as kv
from kvsteer_lab.edits import Erase, Map, TowardsChunk
from kvsteer_lab.edits.spans import Chunk, ChunkEnds, Delimited, Slots

TASK = kv.tasks.FactFinding(3)
LINES = Delimited("\n", after="facts.\n", before="What")
ASKED = TASK.questions("dev", 3)
CHATS = [TASK.chat(question) for question in ASKED]
REPLIES = [f"{TASK.opening(question)} {question.answer}." for question in ASKED]


def towards(number: int, coefficient: float = 4.0, own: bool = False) -> kv.CacheEdits:
    span = ChunkEnds(LINES, number) if own else None
    return kv.CacheEdits(TowardsChunk(LINES, number, span=span), coefficient=coefficient)


def given() -> Any:
    return CHATS, LINES, [TASK.answers(q) for q in ASKED], [TASK.opening(q) for q in ASKED]


def test_what_is_added_is_the_chunk_s_own_part_and_lies_where_it_is_asked_for(model: kv.Model) -> None:
    ids = model.encode(CHATS[0])
    prompt = kv.edits.CachedPrompt.of(model.tokenizer, ids, CHATS[0])
    ends = ChunkEnds(LINES).find(prompt)
    for number, own in ((0, False), (2, False), (1, True)):
        old, new = model.prefill(CHATS[0]), model.prefill(CHATS[0])
        kv.edits.apply(new, [towards(number, own=own).done], prompts=[prompt])
        where = ends[number] if own else len(ids) - 1
        for before, after in zip(old.layers, new.layers, strict=True):
            others = before.values[0, :, [end for end in ends if end != ends[number]]].mean(1)
            wanted = before.values.clone()
            wanted[0, :, where] += 4 * (before.values[0, :, ends[number]] - others)
            assert torch.allclose(after.values, wanted, atol=1e-5)
            assert torch.equal(after.keys, before.keys)


def test_labels_tell_settings_apart() -> None:
    bounded = kv.CacheEdits(TowardsChunk(LINES, 1, layers=[1]), coefficient=4.0)
    labels = [m.label for m in (towards(1), towards(2), towards(1, own=True), towards(1, 2.0), bounded)]
    assert labels[0] == "towards chunk 1 c=4" and labels[2] == "towards chunk 1 at its own end c=4"
    assert len(set(labels)) == 5


def test_no_coefficient_is_no_steering_and_some_is_some(model: kv.Model) -> None:
    nothing, much = (kv.divergence(model, CHATS, REPLIES, towards(1, c)).totals for c in (0.0, 8.0))
    assert nothing == [0.0] * 3 and min(much) > 0


def test_rows_of_one_batch_are_what_each_is_alone(model: kv.Model) -> None:
    methods = [kv.Nothing(), towards(0), towards(2), towards(1, own=True), *towards(1).controls(2)]
    together = kv.generate(model, CHATS, methods, generation={"max_new_tokens": 6}, progress=False)
    for method in methods:
        alone = [kv.generate(model, chat, method, generation={"max_new_tokens": 6})[0].token_ids for chat in CHATS]
        assert [row.token_ids for row in together.of(method.label)] == alone
    assert len({row.token_ids for row in together}) > len(CHATS)


def test_controls_go_as_far_in_another_direction(model: kv.Model) -> None:
    prompt = kv.edits.CachedPrompt.of(model.tokenizer, model.encode(CHATS[0]), CHATS[0])
    steering = towards(1)
    old = model.prefill(CHATS[0])
    moves = []
    for method in (steering, *steering.controls(2)):
        new = kv.edits.apply(model.prefill(CHATS[0]), [method.deltas(model, [1])[0]], prompts=[prompt])
        moves.append(torch.stack([y.values - x.values for x, y in zip(old.layers, new.layers, strict=True)]))
    assert torch.allclose(moves[0].norm(dim=-1), moves[1].norm(dim=-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(moves[0], moves[1], atol=1e-3) and not torch.allclose(moves[1], moves[2], atol=1e-3)


def test_the_table_holds_what_scores_of_whole_replies_hold(model: kv.Model) -> None:
    table = kv.analysis.steer_towards_chunks(model, *given(), towards, controls=1, which=[[0], [1], [2]])
    assert table.groupby("method").size().to_dict() == {"steered": 3, "random 0": 3}
    for row in table[table.method == "steered"].itertuples():
        options = TASK.answers(ASKED[row.prompt])
        texts = [f"{TASK.opening(ASKED[row.prompt])} {option}" for option in options]
        # the answers' first tokens tell them apart: score the texts up to there
        tokens = [model.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        shared = next(i for i in range(99) if len({ids[i] for ids in tokens}) == len(options))
        for method, odds in ((towards(row.chunk), row.log_odds), (None, row.plain)):
            said = kv.score(model, [CHATS[row.prompt]] * 3, [ids[: shared + 1] for ids in tokens], method).logprobs
            last = np.array([float(part[-1]) for part in said])
            rest = np.delete(last, row.chunk)
            assert odds == pytest.approx(last[row.chunk] - np.logaddexp.reduce(rest), abs=1e-4)
        assert row.effect == pytest.approx(row.log_odds - row.plain)


def test_the_summary_is_of_prompts(model: kv.Model) -> None:
    table = kv.analysis.steer_towards_chunks(model, *given(), towards, controls=3, progress=False)
    found = kv.analysis.summarise_chunk_steering(table)
    ours = table[table.method == "steered"]
    assert found.n == 3 and found.effect == pytest.approx(ours.groupby("prompt").effect.mean().mean())
    assert found.low <= found.effect <= found.high and found.p_random in (0.25, 0.5, 0.75, 1.0)
    assert found.beyond == pytest.approx(found.effect - table[table.method != "steered"].effect.mean())


def test_erasing_a_chunk_is_hiding_its_slots(model: kv.Model) -> None:
    prompt = kv.edits.CachedPrompt.of(model.tokenizer, model.encode(CHATS[0]), CHATS[0])
    slots = Chunk(LINES, 1).find(prompt)
    hidden = kv.Together(*(kv.HideSlot(slot=slot) for slot in slots))
    erased = kv.CacheEdits(Erase(span=Chunk(LINES, 1)))
    assert kv.divergence(model, CHATS[:1], REPLIES[:1], erased, hidden).totals[0] == pytest.approx(0, abs=1e-9)
    assert kv.divergence(model, CHATS[:1], REPLIES[:1], erased).totals[0] > 1e-6


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_with_its_notes_recomputed_an_erased_cache_is_one_that_never_read_the_chunk(
    architecture: str, load_random: Callable[[str], kv.Model]
) -> None:
    """The forward pass over all tokens with the chunk masked from the start, positions kept, is the oracle."""
    model = load_random(architecture)
    ids = model.encode(CHATS[0])
    prompt = kv.edits.CachedPrompt.of(model.tokenizer, ids, CHATS[0])
    slots = Chunk(LINES, 1).find(prompt)
    table = kv.analysis.notes_of_chunks(model, CHATS[0], LINES, which=[[1]], progress=False)
    assert table[table.layer == 0][["keys", "values"]].max().max() < 1e-5
    assert table[table.layer == table.layer.max()]["values"].min() > 1e-4
    left = [slot for slot in range(len(ids)) if slot not in slots]
    behind = [slot for slot in left if slot > slots[-1]]
    kept = kv.edits.Bank.of_tokens(model, [ids[i] for i in left], [left.index(i) for i in behind], left)
    gap = kv.CacheEdits([kv.edits.Replace(kept, span=Slots(*behind)), Erase(span=Chunk(LINES, 1))])
    read = model.tokenizer("\nThe answer", add_special_tokens=False).input_ids
    offset, target = read[0], read[1:]
    mask = torch.ones(1, len(ids) + len(read), dtype=torch.long)
    mask[0, list(slots)] = 0
    with torch.no_grad():
        logits = model.hf(
            input_ids=torch.tensor([[*ids, *read]]),
            attention_mask=mask,
            position_ids=torch.arange(len(ids) + len(read))[None],
        ).logits[0, len(ids) :]
    wanted = logits.log_softmax(-1)[range(len(target)), target]
    found = kv.score(model, [CHATS[0]], [target], gap, offset=offset).logprobs[0]
    assert torch.allclose(found, wanted, atol=1e-4)
    still = kv.score(model, [CHATS[0]], [target], kv.CacheEdits(Erase(span=Chunk(LINES, 1))), offset=offset).logprobs[0]
    assert not torch.allclose(still, wanted, atol=1e-5)


def test_an_erased_chunk_leaves_its_notes_and_nothing_else(model: kv.Model) -> None:
    table = kv.analysis.measure_erasure(model, CHATS[:2], LINES, REPLIES[:2], which=[[0, 2], [1]], progress=False)
    assert table[["prompt", "chunk"]].values.tolist() == [[0, 0], [0, 2], [1, 1]]
    assert (table[["whole", "left", "notes", "moved"]] > 0).all().all()
    shorter = model.encode(kv.WithoutChunk(LINES, 0).chat(CHATS[0]))
    assert table.tokens[0] + len(shorter) == len(model.encode(CHATS[0]))
    whole = kv.divergence(model, CHATS[:1], REPLIES[:1], kv.Nothing(), kv.WithoutChunk(LINES, 0)).totals[0]
    assert table.whole[0] == pytest.approx(whole, rel=1e-4)


def test_shares_of_attention_sum_to_one_and_an_erased_chunk_has_none(model: kv.Model) -> None:
    erased = kv.CacheEdits(Erase(span=Chunk(LINES, 1)), "erased")
    table = kv.analysis.attention_to_chunks(
        model, CHATS, LINES, [kv.Nothing(), erased], REPLIES, steps=4, progress=False
    )
    sums = table.groupby(["intervention", "prompt", "step", "layer"]).share.sum()
    assert np.allclose(sums, 1, atol=1e-5) and len(sums) == 2 * 3 * 4 * model.n_layers
    of_chunk = table[table.part == "chunk 1"].groupby("intervention").share.max()
    assert of_chunk["erased"] < 1e-6 < of_chunk["baseline"]
    sizes = table[(table.step == 0) & (table.layer == 0) & (table.intervention == "baseline")]
    assert sizes.groupby("prompt").tokens.sum().tolist() == [len(model.encode(chat)) + 1 for chat in CHATS]


def test_shares_are_those_of_the_slots_that_are_looked_at_one_by_one(model: kv.Model) -> None:
    table = kv.analysis.attention_to_chunks(model, CHATS[0], LINES, None, REPLIES[:1], steps=2, progress=False)
    slots = LINES.find(kv.edits.CachedPrompt.of(model.tokenizer, model.encode(CHATS[0]), CHATS[0]))[2]
    each = [
        kv.analysis.attention_to_slot(model, CHATS[0], None, REPLIES[:1], steps=2, slot=slot, progress=False)
        for slot in slots
    ]
    wanted = sum(part.groupby(["step", "layer"]).attention.mean() for part in each)
    found = table[table.part == "chunk 2"].set_index(["step", "layer"]).share
    assert np.allclose(found, wanted.loc[found.index], atol=1e-5)


def test_amplified_chunks_are_an_edit_like_any_other(model: kv.Model) -> None:
    amplified = kv.analysis.steer_towards_chunks(
        model,
        *given(),
        lambda i: kv.CacheEdits(Map(2.0, part="values", span=Chunk(LINES, i))),
        controls=0,
        progress=False,
    )
    assert amplified.effect.abs().max() > 0 and "random" not in kv.analysis.summarise_chunk_steering(amplified)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: kv.CacheEdits(TowardsChunk(LINES, 0, every=True)), "takes no every=True"),
        (lambda m: TowardsChunk("lines", 0), "chunks are 'lines'"),
        (lambda m: TowardsChunk(LINES, 0.5), "number is 0.5; it must be a whole number"),
        (lambda m: kv.divergence(m, CHATS[:1], ["So"], towards(5)), "no chunk 5 among 3"),
        (
            lambda m: kv.divergence(m, CHATS[:1], ["So"], kv.CacheEdits(TowardsChunk(kv.spans.Messages("user"), 0))),
            "Prompt 0 has one chunk only",
        ),
        (lambda m: kv.analysis.steer_towards_chunks(m, CHATS, LINES, [["red"]], ["The"], towards), "3 prompts, but 1"),
        (
            lambda m: kv.analysis.steer_towards_chunks(m, CHATS[:1], LINES, [["red", "blue"]], ["The"], towards),
            "Prompt 0 has 3 chunks but 2 answers",
        ),
        (
            lambda m: kv.analysis.steer_towards_chunks(
                m, CHATS[:1], LINES, [["red", "red", "blue"]], ["The key is"], towards
            ),
            "can't be told apart",
        ),
        (lambda m: kv.analysis.measure_erasure(m, CHATS, LINES, REPLIES, which=[[0]]), "3 prompts but chunks for 1"),
        (lambda m: kv.analysis.measure_erasure(m, CHATS[:1], LINES, [""]), "Continuation 0 is empty"),
        (lambda m: kv.analysis.attention_to_chunks(m, "Why?", LINES, steps=1), "stand in the message 0 times"),
        (lambda m: kv.tasks.FactFinding(1), "2 to 13 facts, not 1"),
        (lambda m: TASK.questions("train"), "Unknown split 'train'"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call: Any, said: str, model: kv.Model) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        call(model)
    assert str(caught.value).count(". ") == 0


def test_a_window_that_has_dropped_a_chunk_is_refused(load_random: Callable[[str], kv.Model]) -> None:
    model = load_random("gemma3")
    windows = [window for window in model.shape.windows if window is not None]
    far = "Facts.\n" + "".join(f"Thing {i} is far away.\n" for i in range(max(windows))) + "What?"
    lines = Delimited("\n", after="Facts.\n", before="What")
    with pytest.raises(ValueError, match="sliding window; leave that layer out"):
        kv.divergence(model, far, "So", kv.CacheEdits(TowardsChunk(lines, 0)))
    full = [layer for layer, window in enumerate(model.shape.windows) if window is None]
    assert kv.divergence(model, far, "So", kv.CacheEdits(TowardsChunk(lines, 0, layers=full))).totals[0] >= 0


def test_facts_are_distinct_disjoint_and_drawn_alike() -> None:
    drawn = {split: TASK.questions(split, 60) for split in ("extraction", "dev", "test")}
    texts = [question.text for part in drawn.values() for question in part]
    assert len(set(texts)) == 180 and TASK.questions("test", 60) == drawn["test"]
    assert TASK.questions("test", 5, seed=1) != TASK.questions("test", 5, seed=2)
    places = [TASK.right_one(question) for question in drawn["test"]]
    assert set(places) == {0, 1, 2}
    for question in drawn["dev"]:
        answers = TASK.answers(question)
        assert len(set(answers)) == 3 and answers[TASK.right_one(question)] == question.answer
        assert TASK.is_correct(question, f"{TASK.opening(question)} {question.answer}.")
        assert not TASK.is_correct(question, "I don't know.")


def test_the_vectors_of_other_interventions_go_together_with_it(model: kv.Model) -> None:
    both = kv.Together(towards(1), kv.CacheSteering(vectors_for(model), ck=0, cv=2))
    one, two = (kv.divergence(model, CHATS[:1], REPLIES[:1], m).totals[0] for m in (both, towards(1)))
    assert one != two
