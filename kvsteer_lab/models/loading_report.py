"""What transformers reports of a checkpoint that it has loaded: weights that were missing would be random."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


class IncompleteError(ValueError):
    """The checkpoint lacks weights, or a part of the call is wrong: not an unknown name."""


def check_report(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint without all of the model's weights; warn of weights that the model doesn't use. Tied weights
    are not counted as missing: transformers ties them first.

    Args:
        name: of the checkpoint, for the message.
        report: what `from_pretrained(..., output_loading_info=True)` gives.

    Raises:
        IncompleteError: missing or mismatched weights, or errors.

    >>> kinds = "missing_keys", "mismatched_keys", "unexpected_keys"
    >>> check_report("mine", dict.fromkeys(kinds, ()))
    """
    missing = sorted(report["missing_keys"])
    shapes = {str(key): (tuple(has), tuple(wants)) for key, has, wants in report["mismatched_keys"]}
    if missing:
        raise IncompleteError(
            f"The checkpoint {name!r} lacks {len(missing)} of the model's weights ({_few(missing)}), which would be"
            " random; get the complete checkpoint, or mend its config."
        )
    if shapes:
        told = _few([f"{key} is {has}, not {wants}" for key, (has, wants) in sorted(shapes.items())])
        raise IncompleteError(
            f"{len(shapes)} weights of the checkpoint {name!r} have other shapes than its config asks for ({told}); get"
            " the matching config."
        )
    if errors := report.get("error_msgs"):
        raise IncompleteError(f"The checkpoint {name!r} was not loaded completely: {_few(list(map(str, errors)))}.")
    if unexpected := sorted(report["unexpected_keys"]):
        warnings.warn(
            f"The checkpoint {name!r} holds {len(unexpected)} weights that the model doesn't use ({_few(unexpected)}).",
            stacklevel=4,
        )


def _few(names: list[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
