"""Vectors of the residual stream: what is extracted, how big it is, and its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activation_pairs import NEGATIVE, PAIRS, POSITIVE, layers_of
from random_models import CONFIGS, PROMPTS, activations_for, build, card_of
from safetensors.torch import save_file

import kvsteer_lab as kv


@torch.no_grad()
def residuals(hf: Any, layers: Any, ids: list[int]) -> torch.Tensor:
    """Behind each decoder layer, at the last token of one prompt: `[layers, hidden]`."""
    seen: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1]))
        for layer in layers
    ]
    states = hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    # transformers' own list has the embedding first, and the final norm on the last.
    torch.testing.assert_close(torch.stack(seen[:-1]), torch.stack([h[0, -1] for h in states[1:-1]]))
    return torch.stack(seen).double()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_it_is_the_mean_difference_behind_each_layer(name: str, load_random: Callable[[str], kv.Model]) -> None:
    model = load_random(name)
    found = kv.extract_activations(model, PAIRS, batch_size=3, progress=False)
    sides = [
        [residuals(model.hf, layers_of(model.hf), model.encode(t, chat=False)) for t in side]
        for side in (POSITIVE, NEGATIVE)
    ]
    expected = (torch.stack(sides[0]) - torch.stack(sides[1])).mean(0).float()
    torch.testing.assert_close(found.residuals, expected, atol=1e-4, rtol=1e-4)
    assert found.residuals.shape == (model.n_layers, 64) and found.residuals.norm(dim=-1).min() > 0.1


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_do_not_matter(batch_size: int, model: kv.Model) -> None:
    one, other = (kv.extract_activations(model, PAIRS, batch_size=n, progress=False) for n in (batch_size, 8))
    torch.testing.assert_close(one.residuals, other.residuals, atol=1e-5, rtol=1e-5)


def test_a_planted_direction_is_recovered(tokenizer: Any) -> None:
    """Layers 0 and 1 write nothing, and the last tokens' embeddings differ by `direction`; layer 2 adds something of
    its own.
    """
    hf = build("llama")
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))
    fox, dog = (tokenizer(t, add_special_tokens=False).input_ids[-1] for t in ("x", "g"))
    with torch.no_grad():
        hf.model.embed_tokens.weight[fox] = hf.model.embed_tokens.weight[dog] + direction
        for layer in hf.model.layers[:2]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model = kv.load(hf, tokenizer)
    pairs = kv.ContrastiveSet.from_texts([f"{p} x" for p in PROMPTS], [f"{p} g" for p in PROMPTS])
    found = kv.extract_activations(model, pairs, progress=False)
    torch.testing.assert_close(found.residuals[:2], direction.expand(2, -1), atol=1e-5, rtol=1e-5)
    assert (found.residuals[2] - direction).norm() > 0.1 * direction.norm()


def test_memory_does_not_grow_with_the_number_of_pairs(model: kv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    import kvsteer_lab.vectors.activation_extraction as activations

    alive: list[Any] = []
    most = [0]
    original = activations.last_residuals

    def counting(*arguments: Any) -> Any:
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        found = original(*arguments)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(activations, "last_residuals", counting)
    kv.extract_activations(
        model, kv.ContrastiveSet.from_texts(POSITIVE * 4, NEGATIVE * 4), batch_size=2, progress=False
    )
    assert len(alive) == 16 and most[0] <= 2


def test_the_card_says_where_they_come_from(model: kv.Model) -> None:
    card = kv.extract_activations(model, PAIRS, progress=False).card
    assert (card.model, card.model_type, card.fingerprint, card.dtype) == (
        model.name,
        "llama",
        model.fingerprint,
        "torch.float32",
    )
    assert (card.keys, card.n_pairs, card.recipe, card.version, card.note) == (
        None,
        4,
        {"made": "from_texts"},
        kv.__version__,
        "",
    )


def test_a_prompt_beyond_the_context_is_refused(model: kv.Model) -> None:
    with pytest.raises(
        ValueError, match=r"The negative prompt of pair 0 has \d+ tokens, but the context of .* is 512; use fewer shots"
    ):
        kv.extract_activations(model, kv.ContrastiveSet.from_texts(["fox"], ["dog " * 500]), progress=False)


def test_a_dose_is_relative_to_the_residual_s_own_norm(model: kv.Model) -> None:
    vectors = activations_for(model)
    table = vectors.relative_to(model, PROMPTS)
    assert list(table.columns) == ["layer", "residuals"] and table.layer.tolist() == [0, 1, 2, 3]
    own = torch.stack([residuals(model.hf, layers_of(model.hf), model.encode(p)).norm(dim=-1) for p in PROMPTS])
    np.testing.assert_allclose(table.residuals, (vectors.residuals.norm(dim=-1) / own).mean(0), rtol=1e-4)
    np.testing.assert_allclose(vectors.norms().residuals, vectors.residuals.norm(dim=-1), rtol=1e-6)


def test_tensors_are_float32_on_the_cpu_and_finite(model: kv.Model) -> None:
    card = card_of(model)
    assert (
        kv.ActivationVectors(torch.ones(4, 64, dtype=torch.bfloat16, requires_grad=True), card).residuals.dtype
        == torch.float32
    )
    with pytest.raises(ValueError, match=r"need the shape \[layers, hidden\], not \(4, 2, 16\)"):
        kv.ActivationVectors(torch.ones(4, 2, 16), card)
    for bad in ("nan", "inf"):
        with pytest.raises(ValueError, match="activation vectors hold NaN or infinity; extract them again"):
            kv.ActivationVectors(torch.full((4, 64), float(bad)), card)


def test_another_model_is_refused_and_other_weights_warn(
    model: kv.Model, load_random: Callable[[str], kv.Model], tokenizer: Any, folder: Path
) -> None:
    vectors = activations_for(model)
    message = (
        r"These vectors are of a llama with 4 layers of width 64, the model is a {}; extract vectors from this model\."
    )
    with pytest.raises(ValueError, match=message.format("qwen3 with 4 layers of width 64")):
        vectors.check_fits(load_random("qwen3"))
    with pytest.raises(ValueError, match=message.format("llama with 2 layers of width 64")):
        vectors.relative_to(kv.load(build("llama", num_hidden_layers=2), tokenizer), "fox")
    with pytest.warns(UserWarning, match="extracted from other weights"):
        vectors.check_fits(kv.load(build("llama", seed=1), tokenizer))
    with pytest.warns(UserWarning, match=r"rounded: extracted in torch\.float32, the model runs in torch\.bfloat16"):
        vectors.check_fits(kv.load(folder, dtype=torch.bfloat16))


# --- files ----------------------------------------------------------------------------------------------------


def test_a_file_keeps_tensor_and_card(model: kv.Model, tmp_path: Path) -> None:
    vectors = activations_for(model, recipe={"style": "stepwise", "questions": ["ä", "日本"]})
    path = vectors.save(tmp_path / "new" / "activations.safetensors")
    for source in (path, str(path), path.parent):
        again = kv.ActivationVectors.load(source)
        assert torch.equal(again.residuals, vectors.residuals) and again.card == vectors.card
    assert [p.name for p in path.parent.iterdir()] == ["activations.safetensors"], "no temporary file is left"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, model: kv.Model, tmp_path: Path) -> None:
    path = activations_for(model).save(tmp_path / "a.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"is not a complete safetensors file .*save or download it again"):
        kv.ActivationVectors.load(path)


def test_a_foreign_or_missing_file_is_refused(model: kv.Model, vectors: kv.KVVectors, tmp_path: Path) -> None:
    save_file({"residuals": torch.ones(4, 64)}, tmp_path / "plain.safetensors")
    vectors.save(tmp_path / "kv.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04pickle" * 9)
    for name in ("plain", "kv"):
        with pytest.raises(
            ValueError, match=r"holds no steering vectors: it was not written by ActivationVectors\.save"
        ):
            kv.ActivationVectors.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"is not a complete safetensors file .*save or download it again"):
        kv.ActivationVectors.load(tmp_path / "pickle.safetensors")
    with pytest.raises(
        ValueError,
        match=r"There are no vectors at .*; give a file, a folder with activations\.safetensors, or a hub repository",
    ):
        kv.ActivationVectors.load(tmp_path / "none.safetensors")
    activations = activations_for(model).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"it was not written by KVVectors\.save"):
        kv.KVVectors.load(activations)
    about = _metadata(activations)
    nan = {"residuals": torch.full((4, 64), float("nan"))}
    save_file(nan, tmp_path / "nan.safetensors", metadata=about)
    with pytest.raises(ValueError, match="is damaged: it holds other vectors than were saved"):
        kv.ActivationVectors.load(tmp_path / "nan.safetensors")
    save_file(nan, tmp_path / "nan.safetensors", metadata={k: v for k, v in about.items() if k != "check"})
    with pytest.raises(ValueError, match="NaN or infinity"):
        kv.ActivationVectors.load(tmp_path / "nan.safetensors")


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())
