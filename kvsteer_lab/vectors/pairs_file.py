"""The file of a contrastive set: JSON lines, a header with the recipe and then one pair a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .._util.files import write_atomically
from .._util.json import first_fault, read_json

_FORMAT: Literal["kvsteer_lab.contrastive_set.1"] = "kvsteer_lab.contrastive_set.1"


class _Header(BaseModel):
    """The first line of a file: what all of its pairs have in common."""

    model_config = ConfigDict(strict=True, frozen=True)
    format: Literal["kvsteer_lab.contrastive_set.1"]
    n: int
    recipe: dict[str, Any]
    template_hash: str | None
    last_token: str | None


class _Pair(BaseModel):
    """Each further line."""

    model_config = ConfigDict(strict=True, frozen=True)
    positive: str
    negative: str


def write_pairs(
    path: str | Path,
    positive: Sequence[str],
    negative: Sequence[str],
    recipe: Mapping[str, Any],
    template_hash: str | None,
    last_token: str | None,
) -> Path:
    """Write one file; an existing one is replaced in one step.

    Args:
        path: of the file.
        positive, negative, recipe, template_hash, last_token: as in `ContrastiveSet`.

    Returns:
        The path.
    """
    about = dict(recipe=dict(recipe), template_hash=template_hash, last_token=last_token)
    pairs = [{"positive": p, "negative": q} for p, q in zip(positive, negative, strict=True)]
    lines = [{"format": _FORMAT, "n": len(pairs), **about}, *pairs]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_pairs(
    path: str | Path,
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any], str | None, str | None]:
    """Read a file that `write_pairs` wrote.

    Args:
        path: of the file.

    Returns:
        What was written, in the same order.

    Raises:
        ValueError: no such file, a foreign or a truncated one.
    """
    try:
        # Not splitlines: texts may hold characters that it takes for the end of a line.
        first, *others = Path(path).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        for number, line in enumerate((first, *others), 1):
            read_json(line, what=f"line {number}")
        header, rows = _Header.model_validate_json(first), [_Pair.model_validate_json(line) for line in others]
        if header.n != len(rows):
            raise ValueError(f"{header.n} pairs announced, {len(rows)} found")
    except OSError as error:
        raise ValueError(f"There is no contrastive set at {path}: {error.strerror}.") from error
    except ValueError as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error).rstrip(".")
        raise ValueError(
            f"{path} is not a complete contrastive set ({reason}); save it again with ContrastiveSet.save."
        ) from error
    positive, negative = (tuple(getattr(row, side) for row in rows) for side in ("positive", "negative"))
    return positive, negative, header.recipe, header.template_hash, header.last_token
