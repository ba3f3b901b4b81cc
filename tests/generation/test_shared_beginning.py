"""Prompts of one batch that begin alike: the beginning is read once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_models import CONFIGS

import kvsteer_lab as kv
from kvsteer_lab.generation import filling
from kvsteer_lab.generation.rows import make_rows
from kvsteer_lab.models.model import Model
from kvsteer_lab.models.shared_prefix import counts_slots, worth_sharing

EXAMPLES = "Step 1: the quick brown fox adds 2 and 3. Step 2: the answer is 5. Then it rests a while. "
QUESTIONS = ["What is 12 + 7?", "the fox, then the dog", "Add 2 to 3.", "a dog jumps over what?", "19 and 5?", "Is it?"]
PROMPTS = [EXAMPLES * 2 + question for question in QUESTIONS]
Load = Callable[[str], kv.Model]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and columns of each prefill."""
    seen: list[tuple[int, int]] = []
    original = Model.forward_arguments

    def note(self: Model, ids: Any, mask: Any) -> Any:
        seen.append(tuple(ids.shape))
        return original(self, ids, mask)

    monkeypatch.setattr(Model, "forward_arguments", note)
    return seen


def rows_of(model: kv.Model, intervention: kv.interventions.Intervention) -> Any:
    ids = [model.encode(prompt, chat=False) for prompt in PROMPTS]
    return make_rows(model, intervention, ids, model.encode("\n", chat=False)[-1:][0])


@pytest.mark.parametrize("name", [*CONFIGS, "gpt_neo", "llama, dynamic"])
def test_the_cache_is_that_of_whole_prompts(
    name: str, load_random: Load, read: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_random(name)
    rows = rows_of(model, kv.Nothing())
    rows = [*rows, rows[2]]
    cache, ids, mask = filling.fill_rows(model, rows)
    columns = sum(n * width for n, width in read)
    monkeypatch.setattr(filling, "worth_sharing", lambda *_: 0)
    read.clear()
    whole, same_ids, same_mask = filling.fill_rows(model, rows)
    assert ids.tolist() == same_ids.tolist()
    assert mask.tolist() == same_mask.tolist()
    held = mask[:, : cache.get_seq_length()].bool()
    for ours, theirs in zip(cache.layers, whole.layers, strict=True):
        for part in ("keys", "values"):
            a, b = (getattr(layer, part).transpose(1, 2) for layer in (ours, theirs))
            seen = held[:, -a.shape[1] :]
            torch.testing.assert_close(a[seen], b[seen], atol=3e-5, rtol=3e-5)
    if counts_slots(model) or name == "llama, dynamic":
        assert columns == sum(n * width for n, width in read), "rows of different length must be without holes"
    else:
        assert columns < 0.6 * sum(n * width for n, width in read)


def test_texts_and_scores_are_those_of_whole_prompts(
    model: kv.Model, vectors: kv.KVVectors, read: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    halved = kv.edits.Map(0.5, part="values", span=kv.spans.Slots(3, 20, -2))  # some lie in the shared beginning
    methods = [kv.Nothing(), kv.CacheSteering(vectors, ck=0.0, cv=2.0), kv.CacheEdits([halved])]

    def everything() -> tuple[list[list[str]], list[torch.Tensor]]:
        texts = [kv.generate(model, PROMPTS, m, generation={"max_new_tokens": 8}).texts for m in methods]
        scores = [kv.score(model, PROMPTS, [" fox"] * len(PROMPTS), m).totals for m in methods]
        return texts, [torch.tensor(s) for s in scores]

    texts, scores = everything()
    tokens = sum(n * width for n, width in read)
    monkeypatch.setattr(filling, "worth_sharing", lambda *_: 0)
    read.clear()
    whole_texts, whole_scores = everything()
    assert texts == whole_texts
    torch.testing.assert_close(scores, whole_scores, atol=1e-4, rtol=1e-4)
    assert len({str(t) for t in texts}) == 3, "the interventions must make a difference"
    assert tokens < 0.6 * sum(n * width for n, width in read)


def test_a_beginning_is_read_once_only_if_that_saves_something(model: kv.Model, load_random: Load) -> None:
    beginning = list(range(64))
    rows = [[*beginning, 90 + i] for i in range(6)]
    assert worth_sharing(model, rows) == 64
    assert worth_sharing(model, rows[:1]) == 0
    assert worth_sharing(model, [row[60:] for row in rows]) == 0
    assert worth_sharing(load_random("gemma3"), rows) == 0
