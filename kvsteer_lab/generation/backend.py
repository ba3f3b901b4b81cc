"""Where texts are decoded: by transformers in this process, or by a backend that is given the same rows.

A backend gets rows whose prompts, offset tokens and deltas are fixed, and gives back token ids. So labels, noise,
texts, scores and stored runs are the same whatever decodes, and what it can't do is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import getattr_static
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits.addition import Add
from ..edits.slots import slot_from_end
from ..models.model import Model
from .rows import Row
from .settings import Settings

Finished = list[tuple[int, list[int]]]
"""Numbers of rows whose texts have ended, with their new token ids, the end token kept."""


class Backend(Protocol):
    """What decodes rows. Make one from `kv.backends`, or write a class with these three.

    Attributes:
        about: what its texts depend on besides the model and the rows; a stored run's identity holds it.
    """

    @property
    def about(self) -> Mapping[str, Any]:
        """What its texts depend on besides the model and the rows."""

    def check(self, model: Model, rows: Sequence[Row], settings: Settings) -> None:
        """Raise a `ValueError` that names what can't be done, before anything runs."""

    def decode(self, model: Model, rows: Sequence[Row], settings: Settings, seed: int) -> Iterator[Finished]:
        """Decode all rows, each handed out once."""


_PARTS = ("about", "check", "decode")


def check_backend(backend: object) -> None:
    """Refuse what isn't a backend.

    Args:
        backend: what was given; `None` is transformers in this process.

    Raises:
        ValueError: something else.

    >>> check_backend("vllm")
    Traceback (most recent call last):
    ValueError: 'vllm' is no backend; make one from kv.backends, or leave it out for transformers in this process.
    """
    # looked up without asking for `about`: that may read a whole file, or ask a server, before anything is refused
    lacks = any(getattr_static(backend, part, None) is None for part in _PARTS)
    if backend is not None and (lacks or isinstance(backend, type)):
        raise ValueError(
            f"{backend!r} is no backend; make one from kv.backends, or leave it out for transformers in this process."
        )


def last_slot_addition(row: Row, backend: str) -> Float[Tensor, "part layers kv_heads head_dim"] | None:
    """What a row adds to its prompt's last slot, for backends that can do that and nothing else.

    Args:
        row: what is decoded.
        backend: its name, for the error.

    Returns:
        Float32 keys and values; `None` where nothing is added.

    Raises:
        ValueError: the row asks for something else; the message names it.

    >>> last_slot_addition(Row((1, 2, 3), (4,), ()), "llama.cpp") is None
    True
    """
    wants = None
    if row.residuals:
        wants = "edits the residual stream"
    elif row.hidden:
        wants = "hides a slot of the cache"
    elif row.bank is not None:
        wants = "inserts slots before the prompt"
    elif row.lasting:
        wants = "edits every slot that is cached after the prompt"
    elif not row.uses_cache:
        wants = "turns the cache off"
    elif not all(isinstance(edit, Add) and edit.plain for edit in row.deltas):
        wants = "edits the cache by more than an addition"
    elif any(slot_from_end(edit.slot, len(row.cached), 0) != 1 for edit in row.deltas if isinstance(edit, Add)):
        wants = "edits another slot than the prompt's last"
    if wants:
        raise ValueError(f"{row.label!r} {wants}, which {backend} can't; run it without backend=...")
    added = [torch.stack([edit.keys.float(), edit.values.float()]) for edit in row.deltas if isinstance(edit, Add)]
    return torch.stack(added).sum(0) if added and any(part.any() for part in added) else None


_PLAIN = ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


def check_greedy(settings: Settings, backend: str) -> None:
    """Refuse settings that change which token is the likeliest: such a backend chooses tokens itself.

    Args:
        settings: from `resolve`.
        backend: its name, for the error.

    Raises:
        ValueError: sampling (its noise couldn't be shared between interventions), penalties or banned tokens.

    >>> import kvsteer_lab as kv
    >>> from kvsteer_lab.generation.settings import resolve
    >>> check_greedy(resolve(kv.load("tiny"), {"do_sample": True}, chat=True), "the server")
    Traceback (most recent call last):
    ValueError: do_sample can't be done by the server, so that noise is shared; leave it out, or run without backend=...
    """
    if settings.sample:
        raise ValueError(
            f"do_sample can't be done by {backend}, so that noise is shared; leave it out, or run without backend=..."
        )
    check_plain(settings, backend)


def check_plain(settings: Settings, backend: str) -> None:
    """Refuse penalties and banned tokens, the caller's or the checkpoint's own.

    Args:
        settings: from `resolve`.
        backend: its name, for the error.

    Raises:
        ValueError: one that is set; the message names it.

    >>> import kvsteer_lab as kv
    >>> from kvsteer_lab.generation.settings import resolve
    >>> check_plain(resolve(kv.load("tiny"), {"repetition_penalty": 1.2}, chat=True), "llama.cpp")
    Traceback (most recent call last):
    ValueError: repetition_penalty=1.2 can't be done by llama.cpp; leave it out, or run without backend=...
    """
    asked = {name: getattr(settings.config, name, None) for name in (*_PLAIN, "min_new_tokens")}
    for name, value in asked.items():
        if value not in (None, 0, [], 1.0) or (name == "repetition_penalty" and value not in (None, 1.0)):
            raise ValueError(f"{name}={value} can't be done by {backend}; leave it out, or run without backend=...")


def ended(ids: Sequence[int], settings: Settings) -> bool:
    """Whether a row's new tokens are all that it will have.

    Args:
        ids: new tokens so far.
        settings: from `resolve`.

    >>> import kvsteer_lab as kv
    >>> from kvsteer_lab.generation.settings import resolve
    >>> ended([5, 6], resolve(kv.load("tiny"), {"max_new_tokens": 2}, chat=True))
    True
    """
    return bool(ids) and (ids[-1] in settings.eos or len(ids) >= settings.max_new_tokens or settings.stop.found(ids))
