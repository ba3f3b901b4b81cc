"""Position-free keys: un-rotated keys are what the model's own projection gives, before it rotates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reference
import torch
from random_models import CONFIGS, PROMPTS, ROTATED, build, newline, vectors_for
from torch import Tensor

import kvsteer_lab as kv
from kvsteer_lab.models.caches import cache_of
from kvsteer_lab.models.rotary import turn

Load = Callable[[str], kv.Model]
pytestmark = pytest.mark.filterwarnings("ignore:The steered slot leaves the sliding window")
every_rotation = pytest.mark.parametrize("name", list(ROTATED))


def unrotated_keys(model: kv.Model, ids: Sequence[int]) -> Tensor:
    """`[layers, kv_heads, tokens, head_dim]`, caught where the model's attention has made its keys and not yet rotated
    them.
    """
    caught: list[Tensor] = []

    def catch(module: Any, arguments: Any, output: Tensor) -> None:
        caught.append(output.detach())

    layers = model.hf.gpt_neox.layers if hasattr(model.hf, "gpt_neox") else model.hf.model.layers
    handles = []
    for layer in layers:
        attention = layer.attention if hasattr(layer, "attention") else layer.self_attn
        last = next(
            getattr(attention, n) for n in ("k_norm", "k_proj", "qkv_proj", "query_key_value") if hasattr(attention, n)
        )
        handles.append(last.register_forward_hook(catch))
    try:
        with torch.no_grad():
            model.hf(input_ids=torch.tensor([list(ids)]))
    finally:
        for handle in handles:
            handle.remove()
    heads, width, time = model.n_kv_heads, model.head_dim, len(ids)
    keys = []
    for out in caught:
        if out.ndim == 4 and out.shape[1] == heads:  # Gemma 3 norms heads first
            keys.append(out[0])
            continue
        flat = out.reshape(time, -1)
        if flat.shape[1] == 3 * heads * width:  # GPT-NeoX: query, key and value of each head together
            flat = flat.view(time, heads, 3 * width)[..., width : 2 * width]
        # Phi 3: queries, keys, values
        elif flat.shape[1] == 2 * heads * width + model.hf.config.num_attention_heads * width:
            start = model.hf.config.num_attention_heads * width
            flat = flat[:, start : start + heads * width]
        keys.append(flat.reshape(time, heads, width).transpose(0, 1))
    assert len(keys) == model.n_layers
    return torch.stack(keys)


@every_rotation
def test_unrotated_keys_are_the_projection_s_output(name: str, load_random: Load) -> None:
    model = load_random(name)
    ids = model.encode(PROMPTS[1])
    expected = unrotated_keys(model, ids)
    for end in (2, 5, len(ids)):  # the prompt's first tokens, so that no sliding window has dropped them
        cached = torch.stack([x.keys[0, :, -1] for x in reference.prefill(model.hf, ids[:end]).layers])[None]
        position = torch.tensor([end - 1])
        found = model.rotary.unrotate(cached, position)
        torch.testing.assert_close(found[0], expected[:, :, end - 1], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model.rotary.rotate(found, position), cached, atol=2e-5, rtol=1e-4)
        assert (found - cached).abs().max() > 0.05, "there must be a rotation to undo"


@every_rotation
def test_position_free_vectors_are_the_mean_of_projections(name: str, load_random: Load) -> None:
    model = load_random(name)
    positive, negative = ["Step 1: add 2 and 3 to get 5. What?", "a dog"], ["What?", "The quick brown fox jumps, a dog"]
    pairs = kv.ContrastiveSet.from_texts(positive, negative)
    vectors = kv.extract(model, pairs, keys="position_free", progress=False)
    ids = [[model.tokenizer(t, add_special_tokens=False).input_ids for t in side] for side in (positive, negative)]
    expected = (
        sum(unrotated_keys(model, p)[:, :, -1] - unrotated_keys(model, q)[:, :, -1] for p, q in zip(*ids, strict=True))
        / 2
    )
    torch.testing.assert_close(vectors.keys, expected, atol=2e-5, rtol=1e-4)
    rotated = kv.extract(model, pairs, progress=False)
    assert vectors.card.keys == "position_free" and rotated.card.keys == "post_rope"
    assert (rotated.keys - expected).norm() > 0.1 * expected.norm(), "prompts of different length must mix in rotation"
    assert torch.equal(rotated.values, vectors.values)


@every_rotation
def test_position_free_keys_land_where_the_prompt_ends(name: str, load_random: Load) -> None:
    """The edit is the same as projecting `key + vector` there: un-rotated, each row's slot moved by exactly the
    vector.
    """
    model = load_random(name)
    vectors = vectors_for(model, keys="position_free")
    steering = kv.CacheSteering(vectors, 1.5, 4.0, layers=range(model.n_layers))
    lengths = [len(model.encode(p)) for p in PROMPTS]
    for prompt, n, (delta,) in zip(PROMPTS, lengths, steering.deltas(model, lengths), strict=True):
        cache = model.prefill(prompt)
        before, at = torch.stack([x.keys[:, :, -1] for x in cache.layers], 1), torch.tensor([n - 1])
        kv.apply(cache, [delta])
        after = torch.stack([x.keys[:, :, -1] for x in cache.layers], 1)
        moved = model.rotary.unrotate(after, at) - model.rotary.unrotate(before, at)
        torch.testing.assert_close(moved[0], 1.5 * vectors.keys, atol=5e-5, rtol=1e-4)
    steered = kv.generate(model, PROMPTS, steering, generation={"max_new_tokens": 6})
    apart = [kv.generate(model, p, steering, generation={"max_new_tokens": 6}).token_ids[0] for p in PROMPTS]
    assert steered.token_ids == apart
    assert steered.token_ids != kv.generate(model, PROMPTS, generation={"max_new_tokens": 6}).token_ids


def test_a_llama_is_steered_at_any_position_as_its_own_rotation_says(load_random: Load) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model = load_random("llama, yarn")
    vectors = vectors_for(model, keys="position_free")
    ids = model.encode(PROMPTS[1])
    cos, sin = model.hf.model.rotary_emb(torch.zeros(1), torch.tensor([[len(ids) - 1]]))
    rotated = torch.stack(
        [apply_rotary_pos_emb(k[None, :, None], k[None, :, None], cos, sin)[1][0, :, 0] for k in vectors.keys]
    )
    ours = kv.generate(
        model, PROMPTS[1], kv.CacheSteering(vectors, 3.0, 0.0, layers=range(4)), generation={"max_new_tokens": 8}
    )
    assert ours.token_ids == [reference.steered(model.hf, ids, newline(model), 3.0 * rotated, 0 * rotated, 8)]
    assert ours.token_ids != [reference.steered(model.hf, ids, newline(model), 3.0 * vectors.keys, 0 * rotated, 8)]


@every_rotation
def test_turning_back_undoes_turning(name: str, load_random: Load) -> None:
    model = load_random(name)
    keys = torch.randn(3, model.n_layers, model.n_kv_heads, model.head_dim, generator=torch.Generator().manual_seed(1))
    at = torch.tensor([0, 100, 500])
    there = model.rotary.rotate(keys, at)
    torch.testing.assert_close(model.rotary.unrotate(there, at), keys, atol=5e-6, rtol=1e-5)
    assert not torch.allclose(there[2], keys[2], atol=0.1)
    assert torch.equal(keys, torch.randn(keys.shape, generator=torch.Generator().manual_seed(1))), (
        "the argument is left as it was"
    )


@pytest.mark.parametrize(
    ("name", "modes"),
    [
        ("llama", ("half",) * 4),
        ("cohere", ("interleaved",) * 4),
        ("glm4", ("interleaved",) * 4),
        ("smollm3", ("half", "half", "half", "none")),
        ("gpt2", ("none",) * 4),
        ("falcon, alibi", ("none",) * 4),
    ],
)
def test_the_mode_of_each_layer_is_found(name: str, modes: tuple[str, ...], load_random: Load) -> None:
    assert load_random(name).rotary.modes == modes


def test_layers_with_angles_of_their_own_use_them(load_random: Load) -> None:
    rotary = load_random("gemma3").rotary
    at = torch.tensor([100])
    local, far = rotary.angles(at, 0, "half")[0], rotary.angles(at, 3, "half")[0]
    assert not torch.allclose(local, far), "sliding and full layers rotate with different bases"


def test_the_unrotated_part_of_a_key_passes_through(load_random: Load) -> None:
    model = load_random("phi3, half rotated")
    keys = torch.randn(1, 4, 2, 16)
    turned = model.rotary.rotate(keys, torch.tensor([50]))
    assert torch.equal(turned[..., 8:], keys[..., 8:]) and not torch.allclose(turned[..., :8], keys[..., :8])


@pytest.mark.parametrize("mode", ["half", "interleaved"])
def test_turning_keeps_norms_and_adds_up(mode: str) -> None:
    angle = torch.rand(1, 1, 4)
    angle = torch.cat([angle, angle], -1) if mode == "half" else angle.repeat_interleave(2, -1)
    keys = torch.randn(1, 2, 8)
    once = turn(keys, angle.cos(), angle.sin(), mode, back=False)
    twice = turn(once, angle.cos(), angle.sin(), mode, back=False)
    torch.testing.assert_close(once.norm(dim=-1), keys.norm(dim=-1))
    torch.testing.assert_close(twice, turn(keys, (2 * angle).cos(), (2 * angle).sin(), mode, back=False))
    assert not torch.allclose(once, keys)


@pytest.mark.parametrize("name", ["gpt2", "falcon, alibi"])
def test_without_rotation_both_modes_agree_and_the_card_says_so(name: str, load_random: Load) -> None:
    model = load_random(name)
    pairs = kv.ContrastiveSet.from_texts(["Step 1: add", "a dog"], ["What?", "The quick brown fox"])
    plain, free = (kv.extract(model, pairs, keys=mode, progress=False) for mode in ("post_rope", "position_free"))  # type: ignore[arg-type]
    assert torch.equal(plain.keys, free.keys) and torch.equal(plain.values, free.values)
    assert "post_rope and position_free are the same" in plain.card.note
    rows = kv.generate(
        model,
        PROMPTS,
        [kv.CacheSteering(v, 5, 50, name=n) for v, n in ((plain, "plain"), (free, "free"))],
        generation={"max_new_tokens": 6},
    )
    assert [r.token_ids for r in rows.of("plain")] == [r.token_ids for r in rows.of("free")]
    assert [list(r.token_ids) for r in rows.of("plain")] != kv.generate(
        model, PROMPTS, generation={"max_new_tokens": 6}
    ).token_ids


def test_a_rotating_model_s_card_carries_no_such_note(model: kv.Model) -> None:
    pairs = kv.ContrastiveSet.from_texts(["Step 1: add"], ["What?"])
    assert kv.extract(model, pairs, progress=False).card.note == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [("llama, dynamic", "dynamic RoPE"), ("gptj", "(inside its attention layers|a way that can't be undone)")],
)
def test_a_rotation_that_cannot_be_undone_is_refused_in_position_free_mode_only(
    name: str, reason: str, tokenizer: Any
) -> None:
    model = kv.load(build(name), tokenizer)
    pairs = kv.ContrastiveSet.from_texts(["Step 1: add"], ["What?"])
    with pytest.raises(ValueError, match=rf"{reason}.*use keys='post_rope'"):
        kv.extract(model, pairs, keys="position_free", progress=False)
    with pytest.raises(ValueError, match=reason):
        kv.generate(model, PROMPTS, kv.CacheSteering(vectors_for(model, keys="position_free"), 1, 1))
    vectors = kv.extract(model, pairs, progress=False)
    assert vectors.keys.abs().max() > 0 and vectors.card.note == ""


def test_longrope_is_refused_beyond_the_length_where_its_angles_change(load_random: Load) -> None:
    model = load_random("phi3, longrope")
    assert model.rotary.reach == 128
    ids = torch.randint(20, 300, (1, 140))
    short, long = (cache_of(model.hf(input_ids=ids[:, :n], use_cache=True)).layers[0].keys[:, :, 5] for n in (100, 140))
    assert not torch.allclose(short, long), "the whole sequence is rotated anew"
    pairs = kv.ContrastiveSet.from_texts(["dog " * 50], ["What?"])
    with pytest.raises(
        ValueError, match=r"more than 128 tokens by other angles; use shorter prompts or keys='post_rope'"
    ):
        kv.extract(model, pairs, keys="position_free", progress=False)
    assert kv.extract(model, pairs, progress=False).keys.abs().max() > 0


def test_an_unknown_mode_is_refused(model: kv.Model) -> None:
    with pytest.raises(ValueError, match="keys='pre_rope' is unknown; choose one of: post_rope, position_free"):
        kv.extract(model, kv.ContrastiveSet.from_texts(["a"], ["b"]), keys="pre_rope", progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotation_is_found_in_half_precision_too(dtype: torch.dtype, tokenizer: Any) -> None:
    for name in ("llama, yarn", "cohere", "smollm3"):
        model = kv.load(build(name).to(dtype), tokenizer)
        assert model.rotary.modes == kv.load(build(name), tokenizer).rotary.modes, name


def test_every_steered_architecture_has_a_rotation_or_none(load_random: Load) -> None:
    for name in CONFIGS:
        assert load_random(name).rotary.rotates == (name not in ("gpt2", "falcon, alibi")), name
