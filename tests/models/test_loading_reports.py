"""A checkpoint that doesn't hold all of the model's weights is refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from random_models import build
from safetensors.torch import load_file, save_file

import kvsteer_lab as kv

GONE = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer: Any) -> Path:
    build("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **tensors: Any) -> None:
    """Rewrite the weights: a tensor, or `None` to leave it out."""
    path = folder / "model.safetensors"
    weights = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({k: v.contiguous() for k, v in weights.items() if v is not None}, path, metadata={"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_missing_tensor_is_refused(checkpoint: Path) -> None:
    change(checkpoint, **{GONE.replace(".", "__"): None})
    with pytest.raises(ValueError, match=rf"lacks 1 of the model's weights \({GONE}\), which would be random"):
        kv.load(checkpoint)


def test_more_layers_in_the_config_are_refused(checkpoint: Path) -> None:
    configure(checkpoint, num_hidden_layers=5, layer_types=None)
    with pytest.raises(ValueError, match=r"lacks 9 of the model's weights \(model\.layers\.4\..* and 6 more\)"):
        kv.load(checkpoint)


def test_other_shapes_are_refused(checkpoint: Path) -> None:
    configure(checkpoint, intermediate_size=64)
    with pytest.raises(
        ValueError, match=r"12 weights .* have other shapes than its config asks for \(.* is \(64, 128\)"
    ):
        kv.load(checkpoint)


def test_weights_without_a_use_are_a_warning(checkpoint: Path) -> None:
    configure(checkpoint, num_hidden_layers=3, layer_types=None)
    with pytest.warns(UserWarning, match=r"holds 9 weights that the model doesn't use \(model\.layers\.3\."):
        assert kv.load(checkpoint).n_layers == 3


def test_tied_weights_are_not_missing(tmp_path: Path, tokenizer: Any) -> None:
    build("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = kv.load(tmp_path)
    assert model.hf.lm_head.weight is model.hf.model.embed_tokens.weight
