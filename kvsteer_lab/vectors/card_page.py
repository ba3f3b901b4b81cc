"""A card as a markdown page: what a reader of a model hub sees of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cards import Card

CLAIM = "claim"
"""Where in a card's recipe it lies what the vectors are said to do."""
_LINE = "| {} | {} |"


def describe(card: Card, title: str, *, licence: str = "mit", shape: str = "", load: str = "") -> str:
    """The page: model, pairs, what is claimed with its relative strength and its random controls, how to load it.

    Args:
        card: of the vectors.
        title: of the page.
        licence: of the vectors, as the hub calls it.
        shape: of the tensors, in words.
        load: a line of code that loads them.

    Returns:
        Markdown with the hub's front matter.

    >>> card = Card("m", "llama", "f", "torch.float32", "post_rope", 1, None, 2, {"style": "brief"})
    >>> page = describe(card, "me/brief")
    >>> page.splitlines()[0], "| pairs | 2 |" in page, "No claim" in page
    ('---', True, True)
    """
    recipe = {key: value for key, value in card.recipe.items() if key not in ("questions", CLAIM)}
    rows = {
        "model": f"`{card.model}` ({card.model_type}, {card.dtype.removeprefix('torch.')})",
        "fingerprint of its weights": f"`{card.fingerprint}`",
        "pairs": str(card.n_pairs),
        "how they were made": ", ".join(f"{key}: {value}" for key, value in recipe.items()),
        "keys": card.keys or "residual stream",
        "shape": shape,
        "done since": "; ".join(card.history),
        "note": card.note,
        "version": f"kvsteer_lab {card.version}" if card.version else "",
    }
    table = [_LINE.format(key, _cell(value)) for key, value in rows.items() if value]
    return "\n".join(
        [
            "---",
            f"license: {licence}",
            "library_name: kvsteer_lab",
            f"base_model: {card.model}",
            "tags: [steering-vectors, kv-cache-steering]",
            "---",
            "",
            f"# {title}",
            "",
            "Vectors for KV cache steering (arXiv 2507.08799).",
            "",
            "|  |  |",
            "|---|---|",
            *table,
            "",
            "## What they do",
            "",
            *_claimed(card.recipe.get(CLAIM)),
            *(["## Use", "", "```python", "import kvsteer_lab as kv", "", load, "```", ""] if load else []),
        ]
    )


def _claimed(claim: Mapping[str, Any] | None) -> list[str]:
    if claim is None:
        return ["No claim is made: nobody has measured on the card what these vectors do.", ""]
    drawn = claim["random"]
    chosen = (("layers", claim.get("layers")), ("heads", claim.get("heads")))
    at = f"c_k = {claim['ck']:g}, c_v = {claim['cv']:g}, position {claim['slot']}"
    at += "".join(f", {what} {value}" for what, value in chosen if value is not None)
    lines = [
        f"At {at} they shift the log-odds of the target replies by **{claim['nats']:+.3f} nats** on"
        f" {len(claim['prompts'])} prompts (mean over prompts, against unsteered).",
        "",
    ]
    if drawn:
        reached = sum(one >= claim["nats"] if claim["nats"] >= 0 else one <= claim["nats"] for one in drawn)
        lines += [
            f"{len(drawn)} random vectors of the same size: {min(drawn):+.3f} to {max(drawn):+.3f} nats;"
            f" {reached} of them shift as far that way.",
            "",
        ]
    lines += [f"Replication: {claim.get('verdict') or 'none yet'}.", ""]
    return [*lines, "`kvsteer verify FILE` measures it again.", ""]


def _cell(text: str) -> str:
    """A table's cell: no line breaks, no bars."""
    return " ".join(str(text).split()).replace("|", "\\|")
