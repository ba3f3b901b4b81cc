"""The call of `kv.load` that gives a model again, written down."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from .templates import PlainTemplate


def write_call(source: str, arguments: Mapping[str, Any]) -> str | None:
    """The call as Python, which runs in another folder, too; `None` if one of the arguments can't be written down.

    Args:
        source: a short name, a folder, a GGUF file or a hub id.
        arguments: what else `kv.load` was given, by name; `None` and `False` are left out, as its defaults.

    >>> write_call("smollm2-135m", {"dtype": torch.float16, "template": None})
    "kv.load('smollm2-135m', dtype='float16')"
    >>> write_call("mine", {"template": PlainTemplate("Ask {q} Answer")})
    "kv.load('mine', template=kv.PlainTemplate('Ask {q} Answer'))"
    >>> write_call("tiny", {"tokenizer": object()}) is None
    True
    """
    given = [repr(source)]
    for name, value in arguments.items():
        if value is None or value is False:
            continue
        written = _write(value)
        if written is None:
            return None
        given.append(f"{name}={written}")
    return f"kv.load({', '.join(given)})"


def _write(value: Any) -> str | None:
    """A value as Python, if that gives it again."""
    if isinstance(value, torch.dtype):
        return repr(str(value).removeprefix("torch."))
    if isinstance(value, Path):
        return repr(str(value.expanduser().resolve()))
    if isinstance(value, PlainTemplate):
        own = [(field, getattr(value, field.name)) for field in fields(value)]
        text = [repr(value.text), *(f"{f.name}={v!r}" for f, v in own[1:] if v != f.default)]
        return f"kv.PlainTemplate({', '.join(text)})"
    try:
        return repr(value) if ast.literal_eval(repr(value)) == value else None
    except (ValueError, SyntaxError):
        return None
