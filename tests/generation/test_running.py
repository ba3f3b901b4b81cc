"""Finished rows leave the batch, waiting ones join it, and no row's text shows it: float32, exact tokens, on a random
model of every architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from random_models import CONFIGS, activations_for, build, newline, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.generation import running
from kvsteer_lab.models.cache_rows import join_rows, keep_rows, rows_can_move
from kvsteer_lab.models.prefill import fill
from kvsteer_lab.models.tokens import pad_left, positions

NEW = 24
ENDS = list(range(0, 320, 12))  # a text of a random model has about a dozen tokens
ENDING: dict[str, Any] = {"max_new_tokens": NEW, "eos_token_id": ENDS}
WORDS = "The quick brown fox jumps over the lazy dog, and then it rests while two birds add 12 and 7.".split()
PROMPTS = [" ".join(WORDS[i : i + 2 + i % 5 * 3]) for i in range(10)]

pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")
every_architecture = pytest.mark.parametrize("name", [*CONFIGS, "gpt_neo", "bloom", "gptj", "llama, dynamic"])
Load = Callable[[str], kv.Model]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many row-steps each call of transformers' `generate` made, the first of each among them."""
    made: list[int] = []
    original = running.continue_ids

    def count(*args: Any, **named: Any) -> Any:
        new = original(*args, **named)
        made.append(len(new) * len(new[0]))
        return new

    monkeypatch.setattr(running, "continue_ids", count)
    return made


def methods_for(model: kv.Model) -> list[kv.Intervention]:
    """One of each kind of edit: of the cache, of the residual stream (for good, once, in the tail), a longer tail."""
    vectors, residuals = vectors_for(model), activations_for(model)
    return [
        kv.Nothing(),
        kv.CacheSteering(vectors, 1.5, 8.0),
        kv.ActivationSteering(residuals, 1, 3.0, every_token=True),
        kv.ActivationSteering(residuals, 0, 3.0, offset=""),
        kv.ForcedPrefix("Step 1: add 2"),
    ]


@every_architecture
def test_a_row_in_a_batch_that_changes_is_the_row_alone(name: str, load_random: Load, steps: list[int]) -> None:
    model = load_random(name)
    methods = methods_for(model)
    together = kv.generate(model, PROMPTS, methods, generation=ENDING, batch_size=6)
    used, useful = sum(steps), sum(len(row.token_ids) for row in together)
    for method in methods:
        alone = [kv.generate(model, p, method, generation=ENDING, batch_size=1).token_ids[0] for p in PROMPTS]
        assert [list(row.token_ids) for row in together.of(method.label)] == alone, method.label
    baseline = [list(row.token_ids) for row in together.of("baseline")]
    assert baseline == [
        reference.plain(model.hf, [*model.encode(p), newline(model)], NEW, eos_token_id=ENDS) for p in PROMPTS
    ]
    assert len({len(row.token_ids) for row in together}) >= 5, "the texts must end at different times"
    assert len({row.token_ids for row in together}) > len(PROMPTS), "the edits must show"
    assert len(steps) > 10 and used < 1.6 * useful


def test_the_first_text_is_handed_out_as_soon_as_it_has_ended(load_random: Load) -> None:
    """A quarter of a wide batch may take many seconds, in which a progress bar would stand still."""
    model, seen = load_random("llama"), []
    with pytest.MonkeyPatch.context() as patch:
        rows = PROMPTS * 2
        decode = running.decode_queue

        def watch(*given: Any) -> Any:
            for finished in decode(*given):
                seen.append([len(ids) for _, ids in finished])
                yield finished

        patch.setattr("kvsteer_lab.generation.generate.decode_queue", watch)
        lengths = [len(ids) for ids in kv.generate(model, rows, generation=ENDING, batch_size=20).token_ids]
    assert max(seen[0]) == min(lengths) and len(seen[0]) < 0.25 * len(rows), "at the step at which the first text ended"
    assert len(seen[1]) >= 0.25 * (len(rows) - len(seen[0])) - 1, "and the others as ever"
    assert sorted(n for part in seen for n in part) == sorted(lengths)


def test_hidden_slots_stay_hidden(load_random: Load) -> None:
    for name in ("llama", "gemma3"):
        model = load_random(name)
        steering = kv.CacheSteering(vectors_for(model), 1.5, 8.0)
        methods = [
            steering,
            kv.Together(steering, kv.HideSlot(name="hidden")),
            kv.Together(steering, kv.HideSlot(layers=[1], first=2, end=6, name="for a while")),
        ]
        together = kv.generate(model, PROMPTS, methods, generation=ENDING, batch_size=4)
        texts = {m.label: [list(row.token_ids) for row in together.of(m.label)] for m in methods}
        for method in methods:
            alone = [kv.generate(model, p, method, generation=ENDING).token_ids[0] for p in PROMPTS]
            assert texts[method.label] == alone, (name, method.label)
        assert texts[steering.label] not in [texts[method.label] for method in methods[1:]]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_sampled_rows_keep_their_noise(name: str, load_random: Load) -> None:
    model = load_random(name)
    settings = {**ENDING, "do_sample": True}
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 0, 0, name="zero"), kv.ForcedPrefix("Step 1")]
    whole = kv.generate(model, PROMPTS, methods, generation=settings, samples=2)
    for batch_size in (1, 5):
        assert whole == kv.generate(model, PROMPTS, methods, generation=settings, samples=2, batch_size=batch_size)
    assert [r.token_ids for r in whole.of("baseline")] == [r.token_ids for r in whole.of("zero")]
    assert len({len(row.token_ids) for row in whole}) >= 5


def test_penalties_bans_and_beginnings_count_each_row_s_own_tokens(load_random: Load) -> None:
    model = load_random("llama")
    settings = {**ENDING, "repetition_penalty": 1.5, "no_repeat_ngram_size": 3, "min_new_tokens": 5}
    together = kv.generate(model, PROMPTS, generation=settings, batch_size=4).token_ids
    for prompt, ids in zip(PROMPTS, together, strict=True):
        given = torch.tensor([[*model.encode(prompt), newline(model)]])
        own = model.hf.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, pad_token_id=0, **settings
        )
        assert own[0, given.shape[1] :].tolist() == ids
    assert together != kv.generate(model, PROMPTS, generation=ENDING).token_ids
    assert min(map(len, together)) > 5, "the end token itself comes after five others"


def test_tokens_that_may_not_begin_a_text(tokenizer: Any) -> None:
    hf = build("llama")
    plain = kv.generate(kv.load(hf, tokenizer), PROMPTS, generation=ENDING).token_ids
    hf.generation_config.begin_suppress_tokens = [ids[0] for ids in plain[:4]]
    found = kv.generate(kv.load(hf, tokenizer), PROMPTS, generation=ENDING, batch_size=3).token_ids
    barred = set(hf.generation_config.begin_suppress_tokens)
    assert not {ids[0] for ids in found} & barred and {t for ids in found for t in ids[1:]} & barred


def test_memory_that_runs_out_in_the_middle_begins_unfinished_rows_again(
    load_random: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_random("llama")
    whole = kv.generate(model, PROMPTS, generation=ENDING)
    original, calls = model.hf.generate, []

    def generate(ids: torch.Tensor, **arguments: Any) -> Any:
        calls.append(len(ids))
        if len(calls) in (3, 7):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(ids, **arguments)

    monkeypatch.setattr(model.hf, "generate", generate)
    with pytest.warns(UserWarning, match="Out of memory with . rows; going on with . at a time"):
        again = kv.generate(model, PROMPTS, generation=ENDING, batch_size=6)
    assert again == whole and len(calls) > 8


def test_a_cache_of_another_kind_runs_to_its_end(load_random: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_random("llama")
    whole = kv.generate(model, PROMPTS, generation=ENDING, batch_size=4)
    calls: list[int] = []
    original = running.continue_ids
    monkeypatch.setattr(running, "rows_can_move", lambda cache: False)
    monkeypatch.setattr(running, "continue_ids", lambda *a, **k: calls.append(len(a[1])) or original(*a, **k))
    assert kv.generate(model, PROMPTS, generation=ENDING, batch_size=4) == whole
    assert calls == [4, 4, 2]


@every_architecture
@torch.no_grad()
def test_the_logits_after_rows_have_left_and_joined_are_each_row_s_own(name: str, load_random: Load) -> None:
    """Whole rows of a cache are moved, wider and narrower, past the sliding window and short of it."""
    model = load_random(name)
    texts = [model.encode(" ".join(WORDS[:n])) for n in (18, 3, 5, 16, 2)]
    ids, mask = pad_left(texts[:3], model.pad_id, model.device)
    cache = fill(model, ids, mask)
    assert rows_can_move(cache)
    unused = len(texts[0]) - len(texts[2])
    keep_rows(cache, torch.tensor([2, 1]), unused)
    assert cache.get_seq_length() == len(texts[2])
    mask = mask[[2, 1]][:, unused:]
    for more in (texts[3:4], texts[4:]):
        ids, seen = pad_left(more, model.pad_id, model.device)
        join_rows(cache, fill(model, ids, seen))
        width = max(mask.shape[1], seen.shape[1])
        mask = torch.cat([torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in (mask, seen)])
    assert cache.get_seq_length() == mask.shape[1] == len(texts[3])
    mask = torch.cat([mask, torch.ones(4, 1, dtype=mask.dtype)], 1)
    arguments: dict[str, Any] = {"attention_mask": mask, model.cache_argument: cache, "use_cache": True}
    if model.accepts("position_ids"):
        arguments["position_ids"] = positions(mask)[:, -1:]
    logits = model.hf(torch.full((4, 1), 7), **arguments).logits[:, -1]
    alone = torch.stack([model.hf(torch.tensor([[*texts[i], 7]])).logits[0, -1] for i in (2, 1, 3, 4)])
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
