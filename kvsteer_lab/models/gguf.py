"""Loading a GGUF file: the model's weights, its tokenizer and its chat template, all from that file.

transformers reads the file and dequantises its weights; what it would leave out or get wrong without saying so is
refused here, with the reason: rotations that it doesn't take over, numbers of the architecture, weights. The loaded
model is a plain one: it can be saved with `model.hf.save_pretrained`, and loads much faster from there.
"""

from __future__ import annotations

import math
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from .architectures import UnsteerableModelError, refuse_by_config
from .gguf_header import GGUFHeader, read_header
from .gguf_tokenizer import split_as_trained
from .lock import locked

_PARTS = {
    "clip": "the image part of a model",
    "mmproj": "the image part of a model",
    "adapter": "an adapter",
    "imatrix": "an importance matrix",
}
_SAME = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "attention.scale": "attention_multiplier",
}
"""Numbers that change logits: the file's name for each, and the config's."""
_ROTATIONS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that a path means: the file itself, or the only one in a folder without a `config.json`.

    Args:
        path: what was given.

    Returns:
        The file, or `None` where the path means something else.

    Raises:
        ValueError: the folder holds several.

    >>> find_gguf(Path("tiny")) is None
    True
    """
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(p for p in path.iterdir() if p.suffix.lower() == ".gguf" and "mmproj" not in p.name)
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise ValueError(f"The folder {path} holds {len(found)} GGUF files ({names}); give one of them.")
    return found[0] if found else None


@locked
def read_gguf(
    path: Path,
    tokenizer: Any = None,
    *,
    device_map: Any = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Load the model and the tokenizer of a GGUF file. The config then says how the weights were quantised.

    Args:
        path: the file.
        tokenizer: used instead of the file's own, which may then be missing.
        device_map, attn_implementation: as in transformers.
        dtype: of the dequantised weights; by default float32.

    Returns:
        The model and its tokenizer.

    Raises:
        ValueError: the file is damaged, or holds something that isn't taken over; the message says what.
        UnsteerableModelError: such models can't be steered.

    >>> read_gguf(Path("model.gguf"))
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'model.gguf'
    """
    header = _read_header(path)
    if tokenizer is None:
        _check_tokenizer(header)
    with _alone(path) as folder, _plain_errors(path):
        config = _read_config(folder, header)
        hf, report = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=path.name,
            config=config,
            device_map=device_map,
            dtype=torch.float32 if dtype in (None, "auto") else dtype,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
        )
        own = AutoTokenizer.from_pretrained(folder, gguf_file=path.name) if tokenizer is None else None
    _check_weights(header, hf, report)
    _forget_the_quantiser(hf, path, header.quantisation)
    return hf, tokenizer if own is None else _finish_tokenizer(own, header)


@locked
def read_gguf_outline(path: Path) -> tuple[PreTrainedConfig, Any]:
    """The config and the tokenizer of a GGUF file, whose weights aren't read.

    Args:
        path: the file.

    Raises:
        ValueError, UnsteerableModelError: as `read_gguf`.

    >>> read_gguf_outline(Path("model.gguf"))
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'model.gguf'
    """
    header = _read_header(path)
    _check_tokenizer(header)
    with _alone(path) as folder, _plain_errors(path):
        config = _read_config(folder, header)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    config.name_or_path = str(path)
    return config, _finish_tokenizer(tokenizer, header)


def _read_header(path: Path) -> GGUFHeader:
    if find_spec("gguf") is None:
        raise ValueError("Reading a GGUF file needs the package gguf; install it with pip install gguf.")
    header = read_header(path)
    _refuse_parts(header)
    return header


def _check_tokenizer(header: GGUFHeader) -> None:
    if "tokenizer.ggml.model" not in header.fields or not header.fields.get("tokenizer.ggml.tokens"):
        raise ValueError(f"{header.path} holds no tokenizer; pass the original one: tokenizer=, its folder or hub id.")


def _read_config(folder: str, header: GGUFHeader) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(folder, gguf_file=header.path.name)
    refuse_by_config(config)
    _compare_with_config(header, config)
    return config


def _finish_tokenizer(tokenizer: Any, header: GGUFHeader) -> Any:
    split_as_trained(tokenizer, header)
    tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = str(header.path)
    return tokenizer


def _refuse_parts(header: GGUFHeader) -> None:
    """Refuse files that hold something other than one whole language model."""
    if header.architecture == "controlvector":
        raise ValueError(
            f"{header.path} holds control vectors, not a model; read them with kv.ActivationVectors.from_repeng."
        )
    for kind in (header.architecture, str(header.fields.get("general.type", ""))):
        if kind in _PARTS:
            raise ValueError(f"{header.path} holds {_PARTS[kind]}, not a language model; give the model's own file.")
    if header.fields.get("split.count") not in (None, 0, 1):
        raise ValueError(
            f"{header.path} is one of {header.fields['split.count']} parts of a model; join them with"
            " `llama-gguf-split --merge FIRST_PART OUT.gguf` and give the result."
        )
    if not header.architecture or not header.tensors:
        raise ValueError(f"{header.path} names no architecture or holds no weights, so it is not a model.")


def _compare_with_config(header: GGUFHeader, config: Any) -> None:
    """Refuse a file whose numbers transformers has not taken over into the config."""
    lost = [name for name in _ROTATIONS if name in header.tensors]
    scaling = str(header.own("rope.scaling.type") or "none")
    factor = header.own("rope.scaling.factor")
    if scaling not in ("none", "default") and factor not in (None, 0.0, 1.0) and not _rotates_by(config, float(factor)):
        lost.append(f"rope.scaling ({scaling}, {factor:g})")
    for there, here in _SAME.items():
        value = header.own(there)
        if value and not math.isclose(value, getattr(config, here, None) or math.inf, rel_tol=1e-4):
            lost.append(f"{there} ({value:g})")
    if lost:
        raise ValueError(
            f"{header.path} can't be loaded as it was made: transformers leaves out {', '.join(lost)}, and the model"
            " would compute something else; load the original checkpoint instead."
        )
    window, own = header.own("attention.sliding_window"), getattr(config, "sliding_window", None)
    if isinstance(window, int) and window and window != own:
        warnings.warn(
            f"{header.path} asks for a sliding window of {window} tokens, which transformers leaves out: texts longer"
            " than that are read otherwise than by the original model.",
            stacklevel=4,
        )


def _rotates_by(config: Any, factor: float) -> bool:
    """Whether a rotation in the config is scaled by that factor."""
    rotations = getattr(config, "rope_parameters", None) or {}
    kinds = [rotations, *(one for one in rotations.values() if isinstance(one, dict))]
    return any(math.isclose(float(one.get("factor") or 1.0), factor, rel_tol=1e-4) for one in kinds)


def _check_weights(header: GGUFHeader, hf: PreTrainedModel, report: Any) -> None:
    """Refuse a model with weights that the file doesn't hold, or a file with weights that the model doesn't use."""
    if missing := sorted(report["missing_keys"]) or [str(one[0]) for one in report["mismatched_keys"]]:
        raise ValueError(
            f"{header.path} lacks {len(missing)} of the model's weights ({', '.join(missing[:3])}), or has them in"
            " another shape; get the complete file, or the original checkpoint."
        )
    taken = sum(weight.numel() for weight in hf.parameters())
    kept = sum(buffer.numel() for name, buffer in hf.named_buffers() if name in hf.state_dict())
    if header.n_values not in (taken, taken + kept):
        raise ValueError(
            f"{header.path} holds {header.n_values} weights, of which the model of transformers takes {taken}, so it"
            " would compute something else; load the original checkpoint instead."
        )


def _forget_the_quantiser(hf: PreTrainedModel, path: Path, quantisation: str | None) -> None:
    """Make a dequantised model a plain one, whose config says how its weights were quantised."""
    for owner, name in ((hf, "hf_quantizer"), (hf.config, "quantization_config"), (hf, "quantization_method")):
        if name in vars(owner):
            delattr(owner, name)
    hf.is_quantized = False
    for name in ("_model_name_or_path", "unk_token_id"):
        hf.config.__dict__.pop(name, None)
    hf.config.name_or_path = str(path)
    if quantisation is not None:
        hf.config.quantised_weights = f"GGUF {quantisation}"


@contextmanager
def _alone(path: Path) -> Iterator[str]:
    """A folder with a link to the file alone: no tokenizer or template that happens to lie beside it is read."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Path(folder, path.name).symlink_to(path.resolve())
        except (OSError, NotImplementedError):  # Windows without the right to make links
            yield str(path.parent)
            return
        yield folder


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """What transformers raises on a file that it can't read, in one sentence."""
    try:
        yield
    except UnsteerableModelError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, struct.error) as error:
        lines = str(error).strip().splitlines()
        told = lines[0].rstrip(" .") if lines else type(error).__name__
        if str(path) in told:  # our own
            raise
        raise ValueError(f"transformers can't read {path}: {told}; load the original checkpoint instead.") from error
