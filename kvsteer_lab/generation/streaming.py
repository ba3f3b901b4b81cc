"""One text, token by token as it is generated."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from ..interventions.base import Intervention
from ..models.model import Model
from ..models.prompts import Prompt, as_list, offset_token
from .decoding import decode
from .generate import _digest, check_intervention
from .rows import asked_under, check_context, make_rows, warn_of_windows
from .settings import resolve


class StoppedBy(StoppingCriteria):
    """Ends all rows once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **unused: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


class _TextOnly(TextIteratorStreamer):
    """Leaves out the end token, which need not be a special one."""

    eos: frozenset[int] = frozenset()

    def put(self, value: torch.Tensor) -> None:
        if self.next_tokens_are_prompt or int(value) not in self.eos:
            super().put(value)


def stream(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Yield pieces of one text; joined they are the text that `kv.generate` gives. Leaving the loop stops the model.

    Args:
        model, chat, offset, generation, seed: as in `kv.generate`.
        prompt: one prompt.
        intervention: one of them; `None`: the baseline.

    Raises:
        ValueError: several prompts, or what `kv.generate` refuses; before the first piece.
    """
    given = as_list(prompt)
    if len(given) != 1:
        raise ValueError(f"kv.stream takes one prompt, not {len(given)}; use kv.generate for several.")
    method = check_intervention(model, intervention)
    settings = resolve(model, generation, chat=chat)
    ids = model.encode(asked_under(method, given[0], chat=chat), chat=chat)
    rows = make_rows(model, method, [ids], offset_token(model.tokenizer, offset), [f"{_digest(given[0])}|0"])
    check_context(model, rows, settings.max_new_tokens)
    warn_of_windows(model, rows, settings.max_new_tokens)
    return _pieces(model, rows, settings, seed)


def _pieces(model: Model, rows: Any, settings: Any, seed: int) -> Iterator[str]:

    streamer = _TextOnly(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer.eos = settings.eos
    failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    cancelled = threading.Event()

    def work() -> None:
        try:
            decode(model, rows, settings, seed, streamer, StoppingCriteriaList([StoppedBy(cancelled)]))
        except BaseException as error:  # handed to the caller's thread
            failed.put(error)
            streamer.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        cancelled.set()
        thread.join()
    if not failed.empty():
        raise failed.get()
