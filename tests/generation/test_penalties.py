"""Penalties and bans that read the ids see a row's own tokens: no padding, no holes, nothing else in the batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from random_models import PROMPTS, build, newline

import kvsteer_lab as kv
from kvsteer_lab.generation.processors import RealTokens

NEW = 40
SETTINGS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.5},
    "reward": {"repetition_penalty": 0.7},
    "tokens once": {"no_repeat_ngram_size": 1},
    "words": {"bad_words_ids": []},
    "all": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "bad_words_ids": [], "min_new_tokens": 3},
}
METHODS = [kv.Nothing(), kv.ForcedPrefix("Step 1: add 2"), kv.CoTPrompt(), kv.NoOffset()]


def model_that_says_its_pad(tokenizer: Any, seed: int) -> kv.Model:
    """The pad token is one that the model likes to say, as where the pad is the end of text."""
    own = copy.deepcopy(tokenizer)
    hf = build("llama", seed)
    first = kv.generate(kv.load(hf, tokenizer), PROMPTS[0], generation={"max_new_tokens": 2}).token_ids[0][1]
    own.pad_token = own.convert_ids_to_tokens(first)
    return kv.load(hf, own)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_row_s_text_is_transformers_own(name: str, tokenizer: Any) -> None:
    """Each row of a batch full of holes is what `generate` gives on its ids alone."""
    model = model_that_says_its_pad(tokenizer, 0)
    plain = kv.generate(model, PROMPTS, generation={"max_new_tokens": NEW, "eos_token_id": [3]})
    wanted = {"max_new_tokens": NEW, "eos_token_id": [3], **SETTINGS[name]}
    if "bad_words_ids" in wanted:
        said = plain.token_ids
        wanted["bad_words_ids"] = [[said[0][3]], said[1][2:4], said[2][5:8]]
    rows = kv.generate(model, PROMPTS, METHODS, generation=wanted)
    for prompt, text in enumerate(PROMPTS):
        ids = torch.tensor([[*model.encode(text), newline(model)]])
        out = model.hf.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **wanted)
        assert out[0, ids.shape[1] :].tolist() == list(rows.of("baseline")[prompt].token_ids)
    assert [r.token_ids for r in rows.of("baseline")] != [r.token_ids for r in plain], "the setting must do something"


@pytest.mark.parametrize("seed", range(18))
def test_a_row_does_not_depend_on_what_else_runs(seed: int, tokenizer: Any) -> None:
    model = model_that_says_its_pad(tokenizer, seed)
    wanted = {"max_new_tokens": 12, "repetition_penalty": 1.5, "no_repeat_ngram_size": 3}
    together = kv.generate(model, PROMPTS, METHODS, generation=wanted)
    for method in METHODS[:2]:
        alone = kv.generate(model, PROMPTS, method, generation=wanted)
        assert [r.token_ids for r in together.of(method.label)] == [r.token_ids for r in alone]


def test_the_checkpoint_s_own_penalty_counts_and_can_be_turned_off(tokenizer: Any) -> None:
    hf = build("llama")
    plain = kv.generate(kv.load(hf, tokenizer), PROMPTS, generation={"max_new_tokens": NEW}).token_ids
    hf.generation_config.repetition_penalty = 1.5
    model = kv.load(hf, tokenizer)
    own = kv.generate(model, PROMPTS, generation={"max_new_tokens": NEW}).token_ids
    asked = kv.generate(model, PROMPTS, generation={"max_new_tokens": NEW, "repetition_penalty": 1.5}).token_ids
    off = kv.generate(model, PROMPTS, generation={"max_new_tokens": NEW, "repetition_penalty": 1.0}).token_ids
    assert own == asked != plain == off
    assert model.hf.generation_config.repetition_penalty == 1.5


def test_the_settings_are_put_back_after_an_error(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.hf.generation_config
    monkeypatch.setattr(type(model.hf), "generate", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kv.generate(model, "a")
    assert model.hf.generation_config is before


def test_real_tokens_are_what_the_processors_see() -> None:
    seen: list[list[int]] = []

    def note(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(ids[0].tolist())
        return scores + 1

    processor = RealTokens([note], torch.tensor([[0, 1, 0, 1], [1, 1, 1, 1]]))  # type: ignore[list-item]
    ids = torch.tensor([[9, 1, 9, 2], [3, 4, 5, 6]])
    assert torch.equal(processor(ids, torch.zeros(2, 3)), torch.ones(2, 3))
    processor(torch.cat([ids, torch.tensor([[7], [8]])], 1), torch.zeros(2, 3))
    assert seen == [[1, 2], [3, 4, 5, 6], [1, 2, 7], [3, 4, 5, 6, 8]]
