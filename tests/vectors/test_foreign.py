"""Vectors that other packages wrote: their layers are ours, and nothing is unpickled."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from activation_pairs import NEGATIVE, PAIRS, POSITIVE
from random_models import build
from safetensors.torch import save_file

import kvsteer_lab as kv


@dataclass
class ControlVector:
    """As repeng's: numbered by the decoder layer whose output is steered."""

    model_type: str
    directions: dict[int, np.ndarray]


@dataclass
class SteeringVector:
    """As that of steering-vectors."""

    layer_activations: Mapping[int, torch.Tensor]
    layer_type: str = "decoder_block"


def some(layers: range = range(1, 4), width: int = 64) -> dict[int, np.ndarray]:
    """Layer 0 is left out, as repeng does by default."""
    generator = np.random.default_rng(0)
    return {layer: generator.normal(size=width).astype(np.float32) for layer in reversed(layers)}


def write_gguf(
    path: Path,
    directions: Mapping[int, np.ndarray],
    kind: str = "llama",
    architecture: str = "controlvector",
    name: str = "direction",
) -> Path:
    """A file as repeng's `export_gguf` writes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", kind)
    writer.add_uint32(f"{architecture}.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"{name}.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def check(found: kv.ActivationVectors, vectors: Mapping[int, Any], model: kv.Model) -> None:
    assert found.residuals.shape == (4, 64)
    for layer in range(4):
        expected = torch.as_tensor(vectors.get(layer, np.zeros(64)), dtype=torch.float32)
        torch.testing.assert_close(found.residuals[layer], expected, atol=0, rtol=0)
    found.check_fits(model)


def test_repeng_s_vectors_load_from_a_file_and_from_memory(model: kv.Model, tmp_path: Path) -> None:
    directions = some()
    path = write_gguf(tmp_path / "happy.gguf", directions)
    for source in (path, str(path), ControlVector("llama", directions)):
        found = kv.ActivationVectors.from_repeng(source, model)
        check(found, directions, model)
        assert "which weights" in found.card.note and found.card.recipe["layers"] == [1, 2, 3]
    assert kv.ActivationVectors.from_repeng(path, model).card.recipe["made"] == "happy.gguf"
    half = {layer: row.astype(np.float16) for layer, row in directions.items()}
    check(kv.ActivationVectors.from_repeng(write_gguf(tmp_path / "half.gguf", half), model), half, model)


def test_a_file_that_repeng_wrote(model: kv.Model) -> None:
    """`fixtures/repeng.gguf` is from repeng 0.4.0: `ControlVector("llama", {n: n + arange(64) / 64 for n in (3, 2,
    1)}).export_gguf(path)`.
    """
    directions = {n: (n + np.arange(64) / 64).astype(np.float32) for n in (1, 2, 3)}
    check(
        kv.ActivationVectors.from_repeng(Path(__file__).parents[1] / "fixtures" / "repeng.gguf", model),
        directions,
        model,
    )


def test_steering_vectors_load_from_a_file_and_from_memory(model: kv.Model, tmp_path: Path) -> None:
    activations = {layer: torch.tensor(row) for layer, row in some(range(2, 4)).items()}
    save_file({f"layer.{n}": v for n, v in activations.items()}, tmp_path / "v.safetensors")
    for source in (tmp_path / "v.safetensors", SteeringVector(activations)):
        check(kv.ActivationVectors.from_steering_vectors(source, model), activations, model)
    check(
        kv.ActivationVectors.from_steering_vectors(SteeringVector({-1: activations[3]}), model),
        {3: activations[3]},
        model,
    )
    check(
        kv.ActivationVectors.from_steering_vectors(SteeringVector({1: activations[3].bfloat16()[None]}), model),
        {1: activations[3].bfloat16()},
        model,
    )


@torch.no_grad()
def test_their_layer_numbers_are_ours(model: kv.Model) -> None:
    """steering-vectors records the output of the n-th decoder layer; repeng's layer n is the hidden state n + 1, which
    is the same.
    """
    ours = kv.extract_activations(model, PAIRS, progress=False).residuals
    recorded: dict[int, list[torch.Tensor]] = {n: [] for n in range(4)}
    handles = [
        layer.register_forward_hook(
            lambda _m, _i, out, n=n: recorded[n].append((out[0] if isinstance(out, tuple) else out)[0, -1])
        )
        for n, layer in enumerate(model.hf.model.layers)
    ]
    hidden: dict[int, list[torch.Tensor]] = {n: [] for n in range(3)}  # behind the last layer comes the final norm
    try:
        for text in POSITIVE + NEGATIVE:
            states = model.hf(torch.tensor([model.encode(text, chat=False)]), output_hidden_states=True).hidden_states
            for n in hidden:
                hidden[n].append(states[n + 1][0, -1])
    finally:
        for handle in handles:
            handle.remove()

    def difference(rows: list[torch.Tensor]) -> torch.Tensor:
        return (torch.stack(rows[: len(POSITIVE)]) - torch.stack(rows[len(POSITIVE) :])).mean(0)

    theirs = SteeringVector({n: difference(rows) for n, rows in recorded.items()})
    torch.testing.assert_close(
        kv.ActivationVectors.from_steering_vectors(theirs, model).residuals, ours, atol=1e-4, rtol=1e-4
    )
    control = ControlVector("llama", {n: difference(rows).numpy() for n, rows in hidden.items()})
    torch.testing.assert_close(
        kv.ActivationVectors.from_repeng(control, model).residuals[:3], ours[:3], atol=1e-4, rtol=1e-4
    )
    assert (ours[1:] - ours[:-1]).norm(dim=-1).min() > 0.1, "neighbouring layers must differ for this to prove anything"


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".bin", ".npz"])
def test_pickles_are_never_opened(suffix: str, model: kv.Model, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    torch.save({1: torch.ones(64)}, path)
    with pytest.raises(
        ValueError,
        match=(
            rf"v\{suffix} may be a pickle, which can run code when it is opened, so it isn't; where it was made, write"
        ),
    ):
        kv.ActivationVectors.from_steering_vectors(path, model)
    with pytest.raises(
        ValueError, match=r"may be a pickle.* where it was made, export it with vector\.export_gguf\(path\)"
    ):
        kv.ActivationVectors.from_repeng(path, model)


def test_vectors_of_another_model_are_refused(model: kv.Model, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"v\.gguf is of a mistral, the model is a llama; train a control vector on this model"
    ):
        kv.ActivationVectors.from_repeng(write_gguf(tmp_path / "v.gguf", some(), kind="mistral"), model)
    with pytest.raises(
        ValueError, match=r"deep\.gguf has a vector for layer 7, but .* has layers 0 to 3; is it of another model\?"
    ):
        kv.ActivationVectors.from_repeng(write_gguf(tmp_path / "deep.gguf", some(range(1, 8))), model)
    with pytest.raises(
        ValueError, match=r"has vectors of width 32, but the residual stream of .* is 64 wide; is it of another model\?"
    ):
        kv.ActivationVectors.from_repeng(ControlVector("llama", some(width=32)), model)
    found = kv.ActivationVectors.from_repeng(ControlVector("llama", some()), model)
    with pytest.raises(
        ValueError, match="These vectors are of a llama with 4 layers of width 64, the model is a llama with 2 layers"
    ):
        found.check_fits(kv.load(build("llama", num_hidden_layers=2), tokenizer))


def test_other_files_are_refused(model: kv.Model, tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "v.gguf", some()).read_bytes()
    for size in (0, 3, 40, 200, len(good) - 300):
        (tmp_path / "cut.gguf").write_bytes(good[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf isn't a complete GGUF file .*export or download it again"):
            kv.ActivationVectors.from_repeng(tmp_path / "cut.gguf", model)
    with pytest.raises(
        ValueError, match=r"model\.gguf is a GGUF file of architecture 'llama', not of a control vector"
    ):
        kv.ActivationVectors.from_repeng(write_gguf(tmp_path / "model.gguf", some(), architecture="llama"), model)
    with pytest.raises(ValueError, match=r"holds a tensor 'blk\.\d'; the vectors must be called direction\.N"):
        kv.ActivationVectors.from_repeng(write_gguf(tmp_path / "blk.gguf", some(), name="blk"), model)
    save_file({"weight": torch.ones(64)}, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError,
        match=(
            r"w\.safetensors holds a tensor 'weight'; the vectors must be called layer\.N, N the decoder layer counted"
            r" from 0"
        ),
    ):
        kv.ActivationVectors.from_steering_vectors(tmp_path / "w.safetensors", model)
    (tmp_path / "w.safetensors").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"isn't a complete safetensors file .*save or download it again"):
        kv.ActivationVectors.from_steering_vectors(tmp_path / "w.safetensors", model)


def test_what_is_no_vector_is_refused(model: kv.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no file .*none\.gguf; give the path of an existing one"):
        kv.ActivationVectors.from_repeng(tmp_path / "none.gguf", model)
    with pytest.raises(ValueError, match=r"v\.txt doesn't end in \.gguf; export it with"):
        kv.ActivationVectors.from_repeng("v.txt", model)
    with pytest.raises(
        ValueError, match="A dict doesn't hold activation vectors; give the package's own vector, or a path"
    ):
        kv.ActivationVectors.from_steering_vectors({1: torch.ones(64)}, model)
    with pytest.raises(
        ValueError, match="is for 'self_attn', not for the residual stream; train it with layer_type='decoder_block'"
    ):
        kv.ActivationVectors.from_steering_vectors(SteeringVector({1: torch.ones(64)}, "self_attn"), model)
    with pytest.raises(ValueError, match="the SteeringVector holds no vectors"):
        kv.ActivationVectors.from_steering_vectors(SteeringVector({}), model)
    with pytest.raises(ValueError, match="the SteeringVector has two vectors for layer 3"):
        kv.ActivationVectors.from_steering_vectors(SteeringVector({3: torch.ones(64), -1: torch.ones(64)}), model)
    with pytest.raises(ValueError, match="NaN or infinity"):
        kv.ActivationVectors.from_steering_vectors(SteeringVector({3: torch.full((64,), float("nan"))}), model)


def test_without_the_gguf_package_memory_still_works(
    model: kv.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "v.gguf", some())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"Reading GGUF files needs the gguf package: pip install gguf\."):
        kv.ActivationVectors.from_repeng(path, model)
    check(kv.ActivationVectors.from_repeng(ControlVector("llama", some()), model), some(), model)
