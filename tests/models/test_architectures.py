"""What loading finds out about a model: the shape of its cache, as it is stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from random_models import CONFIGS, PROMPTS, vectors_for

import kvsteer_lab as kv

Load = Callable[[str], kv.Model]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_shape_is_that_of_the_cache(name: str, load_random: Load) -> None:
    model = load_random(name)
    cache = model.prefill(PROMPTS[0])
    tokens = len(model.encode(PROMPTS[0]))
    assert cache.get_seq_length() == tokens
    assert len(cache.layers) == model.n_layers == 4
    for layer, window in zip(cache.layers, model.shape.windows, strict=True):
        kept = tokens if window is None else min(tokens, window - 1)
        assert layer.keys.shape == layer.values.shape == (1, model.n_kv_heads, kept, model.head_dim)


@pytest.mark.parametrize(
    ("name", "heads", "windows"),
    [
        ("llama", 2, (None,) * 4),
        ("falcon", 1, (None,) * 4),
        ("falcon, new", 4, (None,) * 4),  # two KV heads by its config, four in its cache
        ("gpt2", 4, (None,) * 4),
        ("mistral, window 8", 2, (8,) * 4),
        ("gemma2", 2, (8, None, 8, None)),
        ("gemma3", 2, (8, 8, 8, None)),
    ],
)
def test_heads_and_windows_are_those_stored(
    name: str, heads: int, windows: tuple[int | None, ...], load_random: Load
) -> None:
    model = load_random(name)
    assert (model.n_kv_heads, model.head_dim, model.shape.windows) == (heads, 16, windows)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_left_padding_leaves_keys_and_values_as_they_are(name: str, load_random: Load) -> None:
    model = load_random(name)
    together = model.prefill(PROMPTS)  # type: ignore[arg-type]
    for row, prompt in enumerate(PROMPTS):
        alone = model.prefill(prompt)
        for one, all_ in zip(alone.layers, together.layers, strict=True):
            kept = one.keys.shape[2]
            torch.testing.assert_close(all_.keys[row, :, -kept:], one.keys[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(all_.values[row, :, -kept:], one.values[0], atol=2e-5, rtol=1e-4)
    assert not torch.allclose(together.layers[-1].values[0, :, -1], together.layers[-1].values[1, :, -1]), (
        "the rows must differ"
    )


def test_a_slot_that_the_window_has_dropped_is_refused(load_random: Load) -> None:
    model = load_random("gemma2")  # layers 0 and 2 keep 7 slots
    cache = model.prefill(PROMPTS[1])
    zeros = torch.zeros(model.n_layers, model.n_kv_heads, model.head_dim)
    full = zeros.clone()
    full[[1, 3]] = 1.0
    before = cache.layers[1].keys.clone()
    kv.apply(cache, [kv.CacheDelta(full, full, slot=-9)])  # only layers that still hold the slot
    assert torch.equal(cache.layers[1].keys[:, :, -9], before[:, :, -9] + 1.0)
    with pytest.raises(ValueError, match=r"outside layer 0's sliding window of 8 tokens; leave that layer out"):
        kv.apply(cache, [kv.CacheDelta(zeros + 1, zeros + 1, slot=-9)])
    assert torch.equal(cache.layers[1].keys[:, :, -9], before[:, :, -9] + 1.0), "nothing is changed before the refusal"


def test_a_window_forgets_the_slot_when_the_warning_says_so(load_random: Load) -> None:
    """Steered in its last layer only, a text of given tokens feels the edit as long as a query still reaches the
    slot.
    """
    model = load_random("mistral, window 8")
    steering = kv.CacheSteering(vectors_for(model), 1, 8, layers=[3])
    text = model.tokenizer("the quick brown fox jumps", add_special_tokens=False).input_ids[:12]
    plain, steered = (kv.score(model, PROMPTS[0], [text], method).logprobs[0] for method in (None, steering))
    assert ((plain - steered).abs() > 1e-4).nonzero().flatten().tolist() == list(range(7))
    with pytest.warns(UserWarning, match=r"leaves the sliding window \(layers 3; 8 tokens or more\)"):
        kv.generate(model, PROMPTS[0], steering, generation={"max_new_tokens": 8})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kv.generate(model, PROMPTS[0], steering, generation={"max_new_tokens": 7})
        kv.generate(model, PROMPTS[0], kv.CacheSteering(vectors_for(model), 0, 0), generation={"max_new_tokens": 20})
