"""One text, token by token as it is generated."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

from ..interventions.base import Intervention
from ..interventions.checks import check_intervention
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from ..models.token_texts import text_after
from ..models.tokens import offset_token
from .asking import asked_under
from .decoding import decode
from .rows import check_context, make_rows, warn_of_windows
from .sampling import noise_key
from .settings import resolve
from .stopping import StopStrings


class StoppedBy(StoppingCriteria):
    """Ends all rows once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **unused: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


class _Pieces(BaseStreamer):
    """Turns tokens into pieces of text, to be iterated over in another thread. Joined they are the text that
    `kv.generate` gives: each is what the tokens so far say, decoded together, beyond what was handed out before.

    Args:
        tokenizer: decodes.
        forced: tokens that stand before the text.
        eos: tokens that end it, which have no text.
        stop: texts that end it; what may be the beginning of one is kept back until it is known.
    """

    def __init__(self, tokenizer: Any, forced: Sequence[int], eos: frozenset[int], stop: StopStrings) -> None:
        self.tokenizer, self.forced, self.eos, self.stop = tokenizer, list(forced), eos, stop
        self.ids: list[int] = []
        self.said = ""
        self.begun = False
        self.pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def put(self, value: torch.Tensor) -> None:
        if not self.begun:  # the prompt comes first
            self.begun = True
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self.eos]
        text = text_after(self.tokenizer, self.forced, self.ids)
        if not text.endswith("\ufffd"):  # part of a character
            self._hand_out(text, self.stop.held_back(text))

    def end(self) -> None:
        self._hand_out(text_after(self.tokenizer, self.forced, self.ids))
        self.pieces.put(None)

    def _hand_out(self, text: str, held_back: int = 0) -> None:
        at = self.stop.begins(text)
        text = text[: len(text) - held_back if at is None else at]
        if text.startswith(self.said) and len(text) > len(self.said):
            self.pieces.put(text[len(self.said) :])
            self.said = text

    def __iter__(self) -> Iterator[str]:
        while (piece := self.pieces.get()) is not None:
            yield piece


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

    >>> import kvsteer_lab as kv
    >>> model, short = kv.load("tiny"), {"max_new_tokens": 8}
    >>> "".join(kv.stream(model, "2 + 3?", generation=short)) == kv.generate(model, "2 + 3?", generation=short).texts[0]
    True
    """
    given = as_list(prompt)
    if len(given) != 1:
        raise ValueError(f"kv.stream takes one prompt, not {len(given)}; use kv.generate for several.")
    method = check_intervention(model, intervention)
    settings = resolve(model, generation, chat=chat)
    asked = asked_under(method, given[0], chat=chat)
    ids, noise = model.encode(asked, chat=chat), noise_key(given[0], 0)
    rows = make_rows(model, method, [ids], offset_token(model.tokenizer, offset), [noise], chats=[asked])
    check_context(model, rows, settings.max_new_tokens)
    warn_of_windows(model, rows, settings.max_new_tokens)
    return _pieces(model, rows, settings, seed)


def _pieces(model: Model, rows: Any, settings: Any, seed: int) -> Iterator[str]:
    streamer = _Pieces(model.tokenizer, rows[0].forced, settings.eos, settings.stop)
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
        yield from streamer
    finally:
        cancelled.set()
        thread.join()
    if not failed.empty():
        raise failed.get()
