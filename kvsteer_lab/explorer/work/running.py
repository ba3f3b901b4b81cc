"""Decoding that shows each token as it comes and can be stopped between two tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ..._util.batching import in_batches
from ...generation.decoding import decode
from ...generation.rows import Row, group_rows
from ...generation.settings import Settings
from ...generation.streaming import StoppedBy
from ...models.architectures import UnsteerableModelError
from ...models.layers import layers_path
from ...models.lock import LOCK
from ...models.model import Model
from ..threads import Cancelled, CancelledError

OnTokens = Callable[[int, list[int]], None]
"""Is given a row's number and all its tokens so far."""


_POLL = 0.1  # seconds


@contextmanager
def holding_the_model(model: Model, cancelled: Cancelled) -> Iterator[None]:
    """Hold the lock on models; while another thread has it, a cancel is noticed all the same, and while a prompt is
    read, too: before each layer.

    Raises:
        CancelledError: `cancelled` was set before the lock was had, or while a prompt was read.
    """

    def look(*unused: Any) -> None:
        if cancelled.is_set():
            raise CancelledError

    while not LOCK.acquire(timeout=_POLL):
        look()
    hooks = []
    try:
        look()
        # prompts are read by the traced modules; decoding, which looks after each token, pays nothing for the hooks
        hooks = [layer.register_forward_pre_hook(look) for layer in _read_by(model)]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        LOCK.release()


def _read_by(model: Model) -> list[torch.nn.Module]:
    """The layers that read prompts; none where the model's layers can't be told from other lists of modules."""
    try:
        return [layer._module for layer in model.traced.get(layers_path(model.hf))]
    except UnsteerableModelError:
        return []


class _Rows(BaseStreamer):
    """Tells of each row's tokens as they are generated, up to its end token."""

    def __init__(self, rows: Sequence[int], eos: frozenset[int], on_tokens: OnTokens) -> None:
        self.rows, self.eos, self.on_tokens = rows, eos, on_tokens
        self.ids: list[list[int]] = [[] for _ in rows]
        self.prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:  # the first thing that comes is what was read
            self.prompt = False
            return
        for row, ids, token in zip(self.rows, self.ids, value.flatten().tolist(), strict=True):
            if not ids or ids[-1] not in self.eos:
                ids.append(token)
                self.on_tokens(row, list(ids))

    def end(self) -> None:
        self.prompt = True


def run_rows(
    model: Model,
    rows: Sequence[Row],
    settings: Settings,
    seed: int,
    cancelled: Cancelled,
    on_tokens: OnTokens | None = None,
    batch_size: int = 64,
) -> Iterator[list[tuple[int, list[int]]]]:
    """Decode rows in as few forked batches as can be; after each batch, the numbers of its rows and their new tokens.

    Args:
        model, rows, settings, seed: as in `decode`.
        cancelled: when it is set, decoding stops at the next token, and reading a prompt before the next layer.
        on_tokens: is told of every token. Where memory runs out a batch is begun again in halves, and so are its rows.
        batch_size: rows decoded together.

    Raises:
        CancelledError: `cancelled` was set.
    """

    def run(batch: Sequence[int]) -> list[list[int]]:
        streamer: Any = None if on_tokens is None else _Rows(batch, settings.eos, on_tokens)
        with holding_the_model(model, cancelled):
            return decode(
                model, [rows[i] for i in batch], settings, seed, streamer, StoppingCriteriaList([StoppedBy(cancelled)])
            )

    for group in group_rows(model, rows):
        for batch, ids in in_batches(group, batch_size, run):
            if cancelled.is_set():
                raise CancelledError
            yield list(zip(batch, ids, strict=True))
