"""NaN is an error of the run, never "no effect" and never a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_models import PROMPTS, build, vectors_for

import kvsteer_lab as kv
from kvsteer_lab.generation.processors import FiniteGuard
from kvsteer_lab.models.finite import NotFiniteError, broken_message, broken_rows, check_logits

SHORT = {"max_new_tokens": 4}
USES: dict[str, Callable[[kv.Model], Any]] = {
    "generate": lambda m: kv.generate(m, PROMPTS, generation=SHORT),
    "sampled": lambda m: kv.generate(m, PROMPTS, generation={**SHORT, "do_sample": True}),
    "stream": lambda m: list(kv.stream(m, PROMPTS[0], generation=SHORT)),
    "score": lambda m: kv.score(m, PROMPTS, ["fox"] * 3),
    "divergence": lambda m: kv.divergence(m, PROMPTS, ["fox"] * 3, kv.CoTPrompt()),
    "evaluate": lambda m: kv.evaluate(
        m, kv.tasks.get("tiny-arithmetic"), [kv.CoTPrompt()], n=2, generation=SHORT, progress=False
    ),
    "steer": lambda m: kv.KVSteerer(vectors_for(m, offset_id=5)).steer(
        m.hf, torch.tensor([m.encode(PROMPTS[0])]), max_new_tokens=2
    ),
}


@pytest.fixture
def broken(tokenizer: Any) -> kv.Model:
    """A model one weight of which is NaN, in a place that every token passes."""
    hf = build("llama")
    with torch.no_grad():
        hf.model.norm.weight[3] = float("nan")
    return kv.load(hf, tokenizer)


@pytest.mark.parametrize("use", list(USES))
def test_a_model_that_gives_nan_is_refused(use: str, broken: kv.Model) -> None:
    with pytest.raises(NotFiniteError, match="the model's next-token logits are NaN or infinite, so there is no text"):
        USES[use](broken)


def test_the_intervention_that_breaks_it_is_named(tokenizer: Any) -> None:
    """A layer that overflows where the steering drives it."""
    hf = build("llama")

    class Fragile(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            return torch.where(x.abs().amax(-1, keepdim=True) > 1e4, torch.nan, out)

    hf.model.layers[2].self_attn.o_proj.__class__ = Fragile
    model = kv.load(hf, tokenizer)
    methods = [kv.Nothing(), kv.CacheSteering(vectors_for(model), 0, 1e7, name="wild")]
    with pytest.raises(NotFiniteError, match=r"^Under 'wild' the model's"):
        kv.generate(model, PROMPTS, methods, generation=SHORT)
    assert len(kv.generate(model, PROMPTS, methods[:1], generation=SHORT)) == 3


def test_what_comes_after_a_row_s_end_is_not_looked_at() -> None:
    guard = FiniteGuard(2)
    good, bad = torch.zeros(2, 5), torch.zeros(2, 5)
    bad[1] = float("nan")
    for scores in (good, good, bad):
        assert guard(torch.zeros(2, 3), scores) is scores
    guard.check([3, 2], ["a", "b"])
    with pytest.raises(NotFiniteError, match="Under 'b'"):
        guard.check([3, 3], ["a", "b"])


def test_which_logits_are_broken() -> None:
    inf = float("inf")
    logits = torch.tensor([[0.0, 1.0], [-inf, 0.0], [float("nan"), 1.0], [inf, 0.0], [-inf, -inf]])
    assert broken_rows(logits).tolist() == [False, False, True, True, True]
    assert broken_rows(torch.stack([logits[:2], logits[1:3]])).tolist() == [False, True]
    assert check_logits(logits[:2]) is not None
    with pytest.raises(NotFiniteError, match="hold NaN or infinity"):
        check_logits(logits)
    assert broken_message(list("abcd")).startswith("Under 'a' and 'b' and 'c' and others the model's")
    assert broken_message([""]).startswith("Here the model's")
