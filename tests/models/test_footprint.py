"""Batches are cut to the memory that they would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import PROMPTS

import kvsteer_lab as kv
from kvsteer_lab._util.batching import in_batches
from kvsteer_lab.generation import running
from kvsteer_lab.models import footprint
from kvsteer_lab.models.footprint import memory_budget, prefill_bytes, row_bytes, rows_of_like_length, rows_that_fit

CPU = torch.device("cpu")


def test_the_budget_is_half_of_the_free_memory_or_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "free_bytes", lambda device: 10e9)
    monkeypatch.delenv("KVSTEER_MEMORY", raising=False)
    assert memory_budget(CPU) == 5e9
    monkeypatch.setenv("KVSTEER_MEMORY", "1.5")
    assert memory_budget(CPU) == 1.5e9
    for wrong in ("0", "-1", "much"):
        monkeypatch.setenv("KVSTEER_MEMORY", wrong)
        with pytest.raises(ValueError, match=f"KVSTEER_MEMORY='{wrong}' is no number of gigabytes; set it to"):
            memory_budget(CPU)


def test_free_memory_is_that_of_the_machine_or_of_the_container(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    assert footprint._of_meminfo(told) == 50 * 1024 and footprint._of_meminfo(tmp_path / "absent") is None
    assert footprint._of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert footprint._of_container(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert footprint._of_container(tmp_path) is None


def test_what_a_row_keeps_is_its_cache_and_a_step_s_logits(load_random: Any) -> None:
    llama, gemma = load_random("llama"), load_random("gemma3")
    for model in (llama, gemma):
        cache = model.prefill(PROMPTS[1])
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        assert held < row_bytes(model, cache.get_seq_length()) < 1.2 * held + 4096 * model.n_tokens
    assert row_bytes(gemma, 200) < row_bytes(llama, 200), "a sliding window holds its last tokens only"
    assert prefill_bytes(llama, 400) > 3 * prefill_bytes(llama, 200)
    assert rows_that_fit(llama, [100] * 9, budget=3 * (row_bytes(llama, 100) / 0.6)) in (1, 2, 3)


def test_a_small_budget_makes_small_batches_of_the_same_texts(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"max_new_tokens": 8, "eos_token_id": list(range(0, 320, 9))}
    prompts = PROMPTS * 4
    whole, scores = kv.generate(model, prompts, generation=settings), kv.score(model, prompts, ["fox"] * 12)
    sizes: list[int] = []
    original = running.continue_ids
    monkeypatch.setattr(running, "continue_ids", lambda *a, **k: sizes.append(len(a[1])) or original(*a, **k))
    monkeypatch.setenv("KVSTEER_MEMORY", str(4 * row_bytes(model, 120) / 1e9))
    assert kv.generate(model, prompts, generation=settings) == whole
    assert 1 <= max(sizes) <= 6
    again = kv.score(model, prompts, ["fox"] * 12)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(scores.logprobs, again.logprobs, strict=True))
    monkeypatch.setenv("KVSTEER_MEMORY", "1e-9")
    sizes.clear()
    assert kv.generate(model, prompts[:3], generation=settings).token_ids == whole.token_ids[:3]
    assert set(sizes) == {1}, "a row alone is always tried"


def test_rows_go_together_as_long_as_they_need_little_padding(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_FIXED", 0.0)
    assert rows_of_like_length(model, [600, 601, 602, 800]) == 3
    assert rows_of_like_length(model, [10] * 50 + [300]) == 51, "too few tokens for a pass of their own"
    monkeypatch.setattr(footprint, "_FIXED", 5e9)
    assert rows_of_like_length(model, [600, 601, 602, 800]) == 4, "a small model's pass has a fixed cost"
    assert [list(b) for b, _ in in_batches(range(5), 4, len, lambda some: 3)] == [[0, 1, 2], [3, 4]]
    assert [list(b) for b, _ in in_batches(range(3), 2, len, lambda some: 0)] == [[0], [1], [2]]
