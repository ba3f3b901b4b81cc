"""Readers of activation vectors that other packages wrote: repeng's control vectors, and those of steering-vectors and
steering-lite.

No pickle is ever opened, since opening one can run code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from safetensors import SafetensorError, safe_open

from .._util.json import read_json
from ..models.layers import hidden_size
from ..models.model import Model
from .activation import ActivationVectors
from .cards import Card

_PICKLED = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".npy", ".npz"}
_LITE_ADDS = ("mean_diff", "pca")
_UNKNOWN_WEIGHTS = "Read from {}; which weights they were made with is not recorded there."


def from_repeng(source: Any, model: Model) -> ActivationVectors:
    """Vectors of repeng; see `ActivationVectors.from_repeng`."""
    if hasattr(source, "directions"):
        directions, kind, origin = (
            dict(source.directions),
            getattr(source, "model_type", None),
            "repeng's ControlVector",
        )
    else:
        path = _existing(source, ".gguf", "export it with vector.export_gguf(path)")
        directions, kind = _read_gguf(path)
        origin = path.name
    if kind not in (None, model.model_type):
        raise ValueError(
            f"{origin} is of a {kind}, the model is a {model.model_type}; train a control vector on this model."
        )
    return fill_layers(model, directions, origin, _UNKNOWN_WEIGHTS.format("repeng"))


def from_steering_vectors(source: Any, model: Model) -> ActivationVectors:
    """Vectors of steering-vectors; see `ActivationVectors.from_steering_vectors`."""
    if hasattr(source, "layer_activations"):
        activations, origin = dict(source.layer_activations), "the SteeringVector"
        place = getattr(source, "layer_type", "decoder_block")
        if place != "decoder_block":
            raise ValueError(
                f"{origin} is for {place!r}, not for the residual stream; train it with layer_type='decoder_block'."
            )
    else:
        remedy = (
            "write its layer_activations with safetensors.torch.save_file({f'layer.{n}': v.contiguous() for n, v in"
            " ...}, path)"
        )
        path = _existing(source, ".safetensors", remedy)
        activations, origin = _read_safetensors(path), path.name
    return fill_layers(model, activations, origin, _UNKNOWN_WEIGHTS.format("steering-vectors"))


def from_steering_lite(source: Any, model: Model) -> ActivationVectors:
    """Vectors of steering-lite; see `ActivationVectors.from_steering_lite`."""
    remedy = "write it with its own vector.save('NAME.safetensors')"
    path = _existing(source, ".safetensors", remedy)
    tensors, metadata = _read_tensors(path)
    try:
        config = read_json(metadata["cfg"], what=f"The configuration in {path.name}")
        method = config["method"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} holds no configuration of steering-lite; {remedy}.") from error
    if method not in _LITE_ADDS:
        raise ValueError(
            f"{path.name} holds a vector of steering-lite's method {method!r}, which does more than add one; only"
            f" {', '.join(_LITE_ADDS)} can be read."
        )
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"layer(\d+)\.v", name)
        if match is None:
            raise ValueError(f"{path.name} holds a tensor {name!r}; steering-lite's must be called layerN.v.")
        found[int(match[1])] = tensor
    coefficient = config.get("coeff", 1.0)
    note = f"{_UNKNOWN_WEIGHTS.format('steering-lite')} Its coefficient there was {coefficient}."
    return fill_layers(model, found, path.name, note)


def _existing(source: Any, suffix: str, remedy: str) -> Path:
    if not isinstance(source, str | Path):
        raise ValueError(
            f"A {type(source).__name__} doesn't hold activation vectors; give the package's own vector, or a path"
            f" ending in {suffix}."
        )
    path = Path(source)
    if path.suffix in _PICKLED:
        raise ValueError(
            f"{path.name} may be a pickle, which can run code when it is opened, so it isn't; where it was made,"
            f" {remedy}."
        )
    if path.suffix != suffix:
        raise ValueError(f"{path.name} doesn't end in {suffix}; {remedy}.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}; give the path of an existing one.")
    return path


def _read_gguf(path: Path) -> tuple[dict[int, Any], str | None]:
    """Directions by layer, and the type of model that they are for."""
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as error:
        raise ValueError("Reading GGUF files needs the gguf package: pip install gguf.") from error
    try:
        reader = GGUFReader(path)
        text = {
            key: field.contents() if (field := reader.get_field(key)) else None
            for key in ("general.architecture", "controlvector.model_hint")
        }
        tensors = {tensor.name: dequantize(tensor.data, tensor.tensor_type).copy() for tensor in reader.tensors}
    # What gguf raises on a damaged file, and on a tensor type that it can't dequantise.
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError, NotImplementedError) as error:
        raise ValueError(f"{path} isn't a complete GGUF file ({error}); export or download it again.") from error
    if text["general.architecture"] != "controlvector":
        raise ValueError(
            f"{path.name} is a GGUF file of architecture {text['general.architecture']!r}, not of a control vector."
        )
    return _by_layer(tensors, "direction", path), text["controlvector.model_hint"]


def _read_safetensors(path: Path) -> dict[int, Any]:
    return _by_layer(_read_tensors(path)[0], "layer", path)


def _read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a file, and its metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} isn't a complete safetensors file ({error}); save or download it again.") from error


def _by_layer(tensors: Mapping[str, Any], word: str, path: Path) -> dict[int, Any]:
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"{word}\.(-?\d+)", name)
        if match is None:
            raise ValueError(
                f"{path.name} holds a tensor {name!r}; the vectors must be called {word}.N, N the decoder layer counted"
                " from 0."
            )
        found[int(match[1])] = tensor
    return found


def fill_layers(model: Model, vectors: Mapping[int, Any], origin: str, note: str) -> ActivationVectors:
    """Vectors by layer, with zeros where there are none, and a card that says where they come from.

    Args:
        model: the model to be steered.
        vectors: layer -> vector; negative layers count from the end.
        origin: where they come from, for messages and the card.
        note: what else the card says.

    Raises:
        ValueError: no vectors, a layer that the model doesn't have, two for one layer, or another width.
    """
    n, width = model.n_layers, hidden_size(model.hf)
    if not vectors:
        raise ValueError(f"{origin} holds no vectors; train it first.")
    residuals, taken = torch.zeros(n, width), set()
    for given, vector in vectors.items():
        whole = isinstance(given, SupportsIndex) and not isinstance(given, bool)
        layer = given.__index__() if whole else given
        if not whole or not -n <= layer < n:
            raise ValueError(
                f"{origin} has a vector for layer {layer!r}, but {model.name} has layers 0 to {n - 1}; is it of another"
                " model?"
            )
        row = torch.as_tensor(vector).detach().to("cpu", torch.float32).flatten()
        if row.shape != (width,):
            raise ValueError(
                f"{origin} has vectors of width {row.numel()}, but the residual stream of {model.name} is {width} wide;"
                " is it of another model?"
            )
        if layer % n in taken:
            raise ValueError(f"{origin} has two vectors for layer {layer % n}; keep one of them.")
        taken.add(layer % n)
        residuals[layer] = row
    card = Card(
        model=model.name,
        model_type=model.model_type,
        fingerprint=model.read_fingerprint(),
        dtype=str(model.dtype),
        keys=None,
        offset_id=None,
        template_hash=None,
        n_pairs=0,
        recipe={"made": origin, "layers": sorted(taken)},
        note=note,
    )
    return ActivationVectors(residuals, card)
