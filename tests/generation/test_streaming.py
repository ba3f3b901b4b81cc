"""One text, piece by piece."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from random_models import PROMPTS, vectors_for

import kvsteer_lab as kv

LONG = {"max_new_tokens": 24, "eos_token_id": []}


def methods_for(model: kv.Model) -> list[kv.Intervention]:
    return [
        kv.Nothing(),
        kv.CacheSteering(vectors_for(model), 1, 8),
        kv.CoTPrompt(),
        kv.ForcedPrefix("Step 1"),
        kv.NoOffset(),
    ]


@pytest.mark.parametrize("number", range(5))
def test_the_pieces_joined_are_the_generated_text(number: int, model: kv.Model) -> None:
    method = methods_for(model)[number]
    for prompt in PROMPTS:
        pieces = list(kv.stream(model, prompt, method, generation=LONG))
        text = "".join(pieces)
        assert text == kv.generate(model, prompt, method, generation=LONG).texts[0] and all(pieces)
        assert len(pieces) > 1 or " " not in text.strip(), "each finished word is a piece"
    if number > 0:
        assert text != kv.generate(model, PROMPTS[2], generation=LONG).texts[0]


def test_the_bundled_model_streams_what_it_generates(tiny: kv.Model) -> None:
    prompt = "Tom has 5 apples and buys 3 more. How many apples does Tom have?"
    pieces = list(kv.stream(tiny, prompt, generation={"max_new_tokens": 60}))
    assert "".join(pieces) == kv.generate(tiny, prompt, generation={"max_new_tokens": 60}).texts[0]
    assert len(pieces) > 1


def test_an_end_token_that_is_no_special_token_is_not_shown(model: kv.Model) -> None:
    endless = kv.generate(model, PROMPTS[0], generation=LONG).token_ids[0]
    asked = {"max_new_tokens": 40, "eos_token_id": endless[7]}
    text = kv.generate(model, PROMPTS[0], generation=asked).texts[0]
    assert "".join(kv.stream(model, PROMPTS[0], generation=asked)) == text
    assert len(text) < len(model.tokenizer.decode(endless))


def test_leaving_the_loop_stops_the_model(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = model.hf.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        time.sleep(0.002)
        return original(*args, **kwargs)

    monkeypatch.setattr(model.hf, "forward", forward)
    before = threading.active_count()
    for _ in kv.stream(model, PROMPTS[0], generation={"max_new_tokens": 400, "eos_token_id": []}):
        break
    after = len(steps)
    assert after < 200, "the model must stop soon after the loop was left"
    time.sleep(0.05)
    assert len(steps) == after and threading.active_count() == before
    assert kv.generate(model, "fox", generation={"max_new_tokens": 2}).rows, "and the model is free again"


def test_errors_come_before_the_first_piece(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="The offset 'two tokens' is"):
        kv.stream(model, "fox", offset="two tokens")
    with pytest.raises(ValueError, match=r"kv\.stream takes one prompt, not 2; use kv\.generate for several"):
        kv.stream(model, ["fox", "dog"])
    with pytest.raises(ValueError, match="slots, but the context of"):
        kv.stream(model, "fox", generation={"max_new_tokens": 1000})


def test_an_error_while_decoding_reaches_the_caller(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.hf, "generate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        list(kv.stream(model, "fox"))
