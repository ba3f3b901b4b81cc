"""Prompts that begin alike are read once up to where they part, and give the same vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from random_models import CONFIGS

import kvsteer_lab as kv
from kvsteer_lab.models import prefill
from kvsteer_lab.models.shared_prefix import beginning_alike, can_share, counts_slots, shared_length

EXAMPLES = {
    "positive": "Step 1: the quick brown fox adds 2 and 3. Step 2: the answer is 5. ",
    "negative": "The answer is 19, says the lazy dog over there. Then it rests a while. ",
}
QUESTIONS = ["What is 12 + 7?", "the fox, then the dog", "Add 2 to 3.", "a dog jumps over what?", "19 and 5?", "Is it?"]
Load = Callable[[str], kv.Model]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and columns of each trace."""
    seen: list[tuple[int, int]] = []
    original = prefill._trace

    def note(model: kv.Model, cache: Any, arguments: dict[str, Any]) -> None:
        seen.append(tuple(arguments["input_ids"].shape))  # type: ignore[arg-type]
        original(model, cache, arguments)

    monkeypatch.setattr(prefill, "_trace", note)
    return seen


@pytest.mark.parametrize("name", [*CONFIGS, "gpt_neo", "llama, dynamic"])
def test_shared_examples_change_no_vector(name: str, load_random: Load, traced: list[tuple[int, int]]) -> None:
    model = load_random(name)
    positive, negative = ([shown * 2 + q for q in QUESTIONS] for shown in EXAMPLES.values())
    vectors = kv.extract(model, kv.ContrastiveSet.from_texts(positive, negative), batch_size=4, progress=False)
    ids = [[model.tokenizer(t, add_special_tokens=False).input_ids for t in side] for side in (positive, negative)]
    keys, values = reference.mean_difference(model.hf, *ids)
    torch.testing.assert_close(vectors.keys, keys, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(vectors.values, values, atol=2e-5, rtol=2e-5)
    read, held = sum(rows * columns for rows, columns in traced), sum(len(row) for side in ids for row in side)
    if counts_slots(model) or name == "llama, dynamic":
        assert read > 0.9 * held, "rows of different length must be without holes"
    else:
        assert read < held / 2


def test_rows_of_one_length_share_wherever_slots_count(load_random: Load, traced: list[tuple[int, int]]) -> None:
    model = load_random("gemma3")
    ids = model.encode(EXAMPLES["positive"] * 2)
    rows = torch.tensor([[*ids, 5, 6, 7], [*ids, 8, 9, 10]])
    together = prefill.last_slots(model, rows, torch.ones_like(rows))
    assert traced[0] == (1, len(ids))
    for i in range(2):
        alone = prefill.last_slots(model, rows[i : i + 1], torch.ones(1, rows.shape[1], dtype=torch.long))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=2e-5, rtol=2e-5)


def test_the_last_token_is_read_by_itself_in_large_batches_only(
    load_random: Load, traced: list[tuple[int, int]]
) -> None:
    model = load_random("llama")
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randint(5, 300, (n, 20), generator=generator) for n in (2, 12))
    one = prefill.last_slots(model, few, torch.ones_like(few))
    assert traced == [(2, 20)]
    two = prefill.last_slots(model, torch.cat([few, many]), torch.ones(14, 20, dtype=torch.long))
    assert traced[1:] == [(14, 19), (14, 1)]
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b[:2], atol=1e-5, rtol=1e-5)


def test_which_rows_begin_alike() -> None:
    long = list(range(60))
    rows = [[*long, 1], [7, 7, 7], [*long, 2, 2], [*long, 3], [*long[:40], 4], [*long, 5], [7, 7, 8]]
    assert beginning_alike(rows) == [[4, 0, 3, 5, 2], [1, 6]]
    assert beginning_alike([[1, 2]] * 2) == [[0, 1]]
    assert shared_length(rows[:1] + rows[2:4]) == 60 and shared_length([[1, 2], [1, 2, 3]]) == 1
    assert shared_length([[5, 6, 7]]) == 2, "the last token is left"


def test_where_rows_may_be_read_on_from_a_common_beginning(load_random: Load) -> None:
    even, uneven = [[1, 2], [1, 3]], [[1, 2], [1, 3, 4]]
    found = {
        name: (can_share(load_random(name), even), can_share(load_random(name), uneven))
        for name in ("llama", "gemma3", "gpt_neo", "llama, dynamic", "phi3, longrope")
    }
    assert found == {
        "llama": (True, True),
        "gemma3": (True, False),
        "gpt_neo": (True, False),
        "llama, dynamic": (False, False),
        "phi3, longrope": (False, False),
    }
