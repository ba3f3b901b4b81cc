"""What to say when nothing is found under the name of a model: a path that isn't there, or a name that is misspelt."""

from __future__ import annotations

import re
from pathlib import Path

from .named import MODELS, similar_names

BUNDLED = ("tiny", "tiny-control")
"""The models that ship with the package."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ADDRESS = re.compile(r"https?://(?:(?:huggingface\.co|hf\.co)/(?P<id>[\w.-]+(?:/[\w.-]+)?))?", re.IGNORECASE)
_FILES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json", ".zip")


def refuse_missing_path(name: str) -> None:
    """Refuse a text that can only be meant as a path, if nothing is there; and a file that isn't a GGUF file.

    Args:
        name: what was given to `kv.load`.

    Raises:
        ValueError: how far the path exists, and what is there instead.

    >>> refuse_missing_path("./models/smollm.gguf")
    Traceback (most recent call last):
    ValueError: There is no file ./models/smollm.gguf: ...
    """
    if not name.strip():
        raise ValueError(f"The model's name is empty. {known_names('')}")
    if address := _ADDRESS.match(name):
        meant = f"hub id, {address['id']!r}" if address["id"] else "hub id or folder"
        raise ValueError(f"{name} is an address, and models aren't loaded from one; give the {meant}.")
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
            raise ValueError(
                f"{name} is a file of weights alone; give its folder, {path.parent}, with the config and the tokenizer."
            )
        raise ValueError(f"{name} is a file, and a model is a folder written by save_pretrained, or a .gguf file.")
    if path.exists() or not _is_a_path(name, path):
        return
    if _is_no_path(name) and (near := similar_names(name.strip(" /").replace(" ", "-"), (*BUNDLED, *MODELS))):
        raise ValueError(f"There is no model {name!r}. Did you mean {near[0]!r}?")
    there = next((one for one in path.parents if one.is_dir()), Path())
    kind = "file" if path.suffix.lower() in _FILES else "folder"
    if there != path.parent:
        raise ValueError(f"There is no {kind} {name}: {there.absolute()} has no {path.relative_to(there).parts[0]!r}.")
    known = tuple(one.name for one in there.iterdir() if one.is_dir() or one.suffix == ".gguf")
    near = similar_names(path.name, known)
    meant = f"; did you mean {there / near[0]}" if near else ""
    raise ValueError(f"There is no {kind} {name}: the folder {there.absolute()} holds none of that name{meant}.")


def known_names(name: str) -> str:
    """What could be given instead of a name under which nothing is found.

    >>> known_names("smolm2-135m")
    "Did you mean 'smollm2-135m'?"
    """
    near = similar_names(name, (*BUNDLED, *MODELS))
    if near and near[0] != name:
        return f"Did you mean {near[0]!r}?"
    names = ", ".join(repr(one) for one in (*BUNDLED, *MODELS))
    return f"Give {names}, a folder written by save_pretrained, a .gguf file, or a hub id."


def _is_no_path(name: str) -> bool:
    """Whether a text that is no name either is rather meant as one: `"SmolLM2 135M"`, `"smollm2-135m/"`."""
    return not name.startswith((".", "~", "/")) and "/" not in name.rstrip("/") and Path(name).suffix not in _FILES


def _is_a_path(name: str, path: Path) -> bool:
    if _HUB_ID.fullmatch(name) is None or name.startswith("."):
        return True
    return path.suffix.lower() in _FILES or (len(path.parts) > 1 and path.parent.is_dir())
