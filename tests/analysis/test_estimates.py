"""Costs of analyses before they run: the tokens that are counted are those that are read; sizes follow the pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from every_analysis import Materials, make_materials

import kvsteer_lab as kv
from kvsteer_lab.analysis import CostEstimate, convergence, estimate_cost, split_half
from kvsteer_lab.vectors.cards import Card
from kvsteer_lab.vectors.extraction import PairDifferences


@pytest.fixture(scope="module")
def given(tiny: kv.Model) -> Materials:
    return make_materials(tiny)


def tokens_read(model: kv.Model, call: Any) -> tuple[int, int]:
    """Rows times tokens of all passes of the model: those over prompts, and those that are read from caches."""
    seen = [0, 0]

    def count(module: Any, arguments: Any, settings: dict[str, Any]) -> None:
        ids = settings["input_ids"]
        if ids.shape[0] * ids.shape[1] > 3:  # not what looks at the model
            cache = settings.get(model.cache_argument)
            seen[cache is not None and cache.get_seq_length() > 0] += ids.numel()

    parts = [model.hf, model.traced._module]
    handles = [part.register_forward_pre_hook(count, with_kwargs=True) for part in parts]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return seen[0], seen[1]


def test_the_tokens_of_patching_and_knock_outs_are_counted(tiny: kv.Model, given: Materials) -> None:
    run = dict(controls=5, progress=False)
    _, read = tokens_read(tiny, lambda: kv.analysis.patch_residuals(tiny, given.prompts, given.steering, 5, **run))
    found = estimate_cost(tiny, "patch_residuals", given.prompts, controls=5)
    assert read == found.read
    texts, ways = [[5] * 6, [6] * 6], ("everything", "one layer", "one head")
    nats = partial(kv.analysis.nats_of_reading, tiny, given.prompts, given.steering, ways, texts, progress=False)
    for layers in (range(1, 4, 2), range(4)):
        some: dict[str, Any] = dict(layers=layers, steps=6)
        _, read = tokens_read(tiny, partial(nats, **some))
        assert read == estimate_cost(tiny, "nats_of_reading", given.prompts, ways=ways, **some).read


def test_fewer_layers_cost_less_and_the_time_is_said(tiny: kv.Model, given: Materials) -> None:
    for name in ("nats_of_reading", "knock_out_reading", "patch_residuals", "logit_lens", "unembed_values"):
        some, every = (estimate_cost(tiny, name, given.prompts, layers=layers) for layers in ([1], None))
        assert (some.read, some.compared) < (every.read, every.compared) and 0 < every.seconds < 600
        assert every.text.startswith(f"{name}: about ")
    words = [CostEstimate("lens", 1, 1, 1, seconds).text for seconds in (0.1, 80, 200, 40_000)]
    assert words == ["lens: about 1 s", "lens: about 80 s", "lens: about 3 min", "lens: about 11.1 h"]
    with pytest.raises(ValueError, match="There is no estimate of 'tune'; choose from attention_to_slot, "):
        estimate_cost(tiny, "tune", given.prompts)
    with pytest.raises(ValueError, match="There is no layer 9"):
        estimate_cost(tiny, "half_life", given.prompts, layers=[9])


@pytest.mark.parametrize(
    ("pairs", "sizes"),
    [(200, [1, 2, 5, 10, 20, 50, 100]), (60, [1, 2, 5, 10, 20, 30]), (24, [1, 2, 5, 10, 12]), (5, [1, 2]), (2, [1])],
)
def test_sizes_follow_the_pairs(pairs: int, sizes: list[int]) -> None:
    noise = torch.Generator().manual_seed(0)
    keys, values = (1 + torch.randn(pairs, 2, 1, 4, generator=noise) for _ in range(2))
    own = PairDifferences(keys, values, Card("m", "llama", "", "torch.float32", "post_rope", None, None, pairs))
    assert convergence(own, repeats=2).n.unique().tolist() == sizes
    assert split_half({"a": own}, repeats=2).n.unique().tolist() == sizes
