"""Loading a model, or saying why it can't be steered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from nnsight import Envoy
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Pipeline, PreTrainedConfig
from transformers.utils import logging

from .._util.json import read_json
from .._util.text import visible
from .architectures import UnsteerableModelError, refuse_by_config
from .fetching import fetch
from .gguf import find_gguf, read_gguf
from .loading_call import write_call
from .loading_report import IncompleteError, check_report
from .lock import locked
from .missing import BUNDLED, known_names, refuse_missing_path
from .model import Model
from .named import find_named
from .templates import PlainTemplate, with_template
from .wrapping import refuse_hooks, share_weights, unpack, without_peft, wrap

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}


@locked
def load(
    source: str | Path | nn.Module | Pipeline | Model,
    tokenizer: Any = None,
    *,
    device_map: Any = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    template: str | PlainTemplate | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> Model:
    """Load a model that can be steered, or say why it can't be.

    Args:
        source: `"tiny"` or `"tiny-control"`; `"smollm2-135m"` or `"gemma3-270m"`, which are fetched once (`kvsteer
            fetch` does it beforehand); a folder; a `.gguf` file, or a folder with one; a hub id; or a loaded
            transformers (or PEFT, or nnsight) model or pipeline, which is left as it is: its weights are shared, its
            modules are not.
        tokenizer: for a loaded model, or its name or folder; by default the one of the checkpoint it came from.
        device_map: as in transformers; by default the GPU if there is one.
        dtype: by default float32 for models with a short name and GGUF files, the checkpoint's own for others.
        attn_implementation: as in transformers.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the checkpoint. Only if you trust it.
        template: for base models, how prompts are written as plain text: `kv.PlainTemplate("Question: {q}\\nAnswer:")`;
            or a chat template in Jinja, in place of the tokenizer's own.
        template_arguments: what the chat template is told, such as `{"enable_thinking": False}`.

    Returns:
        The model.

    Raises:
        ValueError: nothing is found under that name, weights are missing from the checkpoint, or a loaded model comes
            without a tokenizer.
        OSError: a model with a short name is not in the cache, and can't be fetched now.
        UnsteerableModelError: its cache can't be steered; the message says why.

    >>> import kvsteer_lab as kv
    >>> kv.load("tiny").n_layers
    4
    """
    if isinstance(source, nn.Module | Pipeline | Envoy | Model):
        inner, tokenizer = unpack(source, tokenizer)
        own = without_peft(inner)
        refuse_by_config(own.config)
        refuse_hooks(own)
        hf = share_weights(own)
        name = str(getattr(hf.config, "_name_or_path", "") or hf.config.model_type)
        tokenizer = _tokenizer_of(name) if tokenizer is None else _tokenizer(tokenizer)
        return wrap(hf, with_template(tokenizer, template, template_arguments), name, own)
    if not isinstance(source, str | Path):
        raise ValueError(
            f"A model can't be loaded from something of type {type(source).__name__}; give a name, a folder, a file or"
            " a loaded transformers model."
        )
    name = str(source)
    given = dict(
        tokenizer=tokenizer,
        device_map=device_map,
        dtype=dtype,
        attn_implementation=attn_implementation,
        revision=revision,
        trust_remote_code=trust_remote_code,
        template=template,
        template_arguments=template_arguments,
    )
    device_map = device_map if device_map is not None else ("cuda" if torch.cuda.is_available() else None)
    if (file := find_gguf(Path(name).expanduser())) is not None:
        hf, tokenizer = read_gguf(
            file,
            None if tokenizer is None else _tokenizer(tokenizer),
            device_map=device_map,
            dtype=_dtype(dtype),
            attn_implementation=attn_implementation,
        )
        return replace(wrap(hf, with_template(tokenizer, template, template_arguments), name), call=_call(name, given))
    path = _place(name)
    if name in BUNDLED and dtype is None:
        dtype = torch.float32
    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **arguments)
        _check_layers(name, config)
        refuse_by_config(config)
        with _silent() if path != name else nullcontext():
            hf, report = AutoModelForCausalLM.from_pretrained(
                path,
                device_map=device_map,
                dtype=_dtype(dtype),
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported, and refused below
                **arguments,
            )
        check_report(name, report)
        tokenizer = AutoTokenizer.from_pretrained(path, **arguments) if tokenizer is None else _tokenizer(tokenizer)
    except (UnsteerableModelError, IncompleteError):
        raise
    except Exception as error:  # a damaged checkpoint makes transformers raise almost anything
        raise ValueError(f"Cannot load {name!r}: {_reason(error)}. {known_names(name)}") from error
    return replace(wrap(hf, with_template(tokenizer, template, template_arguments), name), call=_call(name, given))


def _call(name: str, given: Mapping[str, Any]) -> str | None:
    """The call that gives the model again, also from another folder."""
    path = Path(name).expanduser()
    short = name in BUNDLED or find_named(name) is not None
    return write_call(name if short or not path.exists() else str(path.resolve()), given)


_MOST_LAYERS = 10_000


def _check_layers(name: str, config: PreTrainedConfig) -> None:
    """Before the layers are made: a number that is damaged would be made for hours."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise IncompleteError(f"The config of {name!r} asks for {layers} layers; get the complete checkpoint.")


def _reason(error: Exception) -> str:
    """The first line of an error, and the second where the first only introduces it."""
    lines = [line.strip() for line in visible(str(error)).splitlines() if line.strip()] or [type(error).__name__]
    first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return (first if len(first) <= _LONGEST else first[: _LONGEST - 1] + "…").rstrip(" .:")


_LONGEST = 300


def _place(name: str) -> str:
    """Where a model lies: a bundled one's folder, a fetched one's, a folder, or the hub id as it is."""
    if name in BUNDLED:
        return str(files(__package__) / "bundled" / name)
    if (named := find_named(name)) is not None:
        return str(fetch(*named))
    refuse_missing_path(name)
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            try:
                found = read_json(path / "adapter_config.json", what="The adapter's config")
                base = found.get("base_model_name_or_path")
            except (ValueError, AttributeError):
                base = None
            raise ValueError(
                f"The folder {name} holds an adapter for {base or 'another model'}, not a model; load both with"
                " peft.AutoPeftModelForCausalLM.from_pretrained and pass the model that it returns."
            )
        raise ValueError(f"The folder {path} holds no config.json; give a folder written by save_pretrained.")
    return str(path) if name.startswith("~") else name


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """A dtype, also by one of its short names."""
    if dtype is None or dtype == "auto":
        return "auto"
    named = _DTYPES.get(str(dtype), str(dtype).removeprefix("torch."))
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, named, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise IncompleteError(
            f"dtype={dtype!r} is not a dtype of weights; choose 'float32', 'bfloat16', 'float16' or 'auto'."
        )
    return found


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bar for what loads in a blink."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tokenizer(given: Any) -> Any:
    """A tokenizer as it is, or found by its name or folder."""
    if not isinstance(given, str | Path):
        return given
    try:
        return AutoTokenizer.from_pretrained(_place(str(given)))
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0].rstrip(" .:")
        raise IncompleteError(
            f"Cannot load the tokenizer {str(given)!r}: {first_line}. Give its folder, its hub id, or the tokenizer."
        ) from error


def _tokenizer_of(origin: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(origin)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"No tokenizer was given and none is found under {origin!r}; pass"
            " tokenizer=AutoTokenizer.from_pretrained(...)."
        ) from error
