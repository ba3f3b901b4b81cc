"""One sequence at a time: requests wait for their turn, are steered in the cache, and end with their client."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio.to_thread
import numpy as np
import torch
from jaxtyping import Float

from ..generation.backend import ended
from ..generation.sampling import SharedNoise
from .admission import Refusal
from .catalogue import Catalogue
from .completion import Asked

MOST_WAITING = 64
"""Requests that may wait; more are refused."""
SELF_TEST = "The history of the sea is long, and many ships have crossed it."


class Engine(Protocol):
    """What decodes: `LlamaEngine`, or anything else with a cache that can be taken out and given back."""

    context: int

    def prefill(self, ids: Sequence[int]) -> None:
        """Begin anew with a prompt, which may be empty."""

    def read(self, ids: Sequence[int]) -> Float[np.ndarray, " vocabulary"]:
        """Read tokens behind what is cached; the logits of the next one."""

    def state(self) -> bytearray:
        """The sequence's cache."""

    def restore(self, state: bytearray, length: int) -> None:
        """Go on from a state of `length` tokens."""

    def added(
        self, state: bytearray, length: int, keys: Float[np.ndarray, "l h d"], values: Float[np.ndarray, "l h d"]
    ) -> bytearray:
        """A copy of a state with something added to its last slot."""


class Gone(Exception):
    """The client has left."""


@dataclass
class OneSequence:
    """An engine and the requests that wait for it.

    Attributes:
        engine: with room for one sequence.
        catalogue: what may be added.
        order: where each entry of the engine's keys stands in those of the vectors, `head_dim` places.
        counts: steered requests by vectors (`requests:NAME`), others, edits, new tokens.
        edit_seconds: spent on taking states out, adding, and giving them back.
        stopping: whether the server is being stopped: no further token is read.
        waiting: requests that wait or run.
    """

    engine: Engine
    catalogue: Catalogue
    order: Sequence[int]
    stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.edit_seconds = 0.0
        self.waiting = 0
        self._turn = asyncio.Lock()

    async def decode(self, asked: Asked, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[tuple[int, int]]:
        """New tokens of each text, one text behind the other, as they come; end tokens are kept.

        Args:
            asked: the request.
            gone: whether the client has left; asked before each token.

        Yields:
            The number of the text, and a token.

        Raises:
            Gone: the client has left.
            Refusal: too many requests wait, the server is being stopped, or what is added makes numbers infinite.
        """
        if self.waiting >= MOST_WAITING:
            raise Refusal(503, f"{MOST_WAITING} requests wait already; try again later.")
        self.waiting += 1
        try:
            async with self._turn:
                await self._check(gone)
                name = "unsteered" if asked.steering is None else f"requests:{asked.steering.vectors}"
                self.counts[name] += 1
                state = await anyio.to_thread.run_sync(self._prefill, asked)
                for number in range(asked.n):
                    scores = await anyio.to_thread.run_sync(self._begin, asked, state, number)
                    noise = [SharedNoise([str(number)], asked.seed)] if asked.settings.sample else []
                    new = list[int]()
                    while True:
                        new.append(choose(scores, asked, new, noise))
                        self.counts["tokens"] += 1
                        yield number, new[-1]
                        if ended(new, asked.settings):
                            break
                        await self._check(gone)
                        scores = await anyio.to_thread.run_sync(self._read, new[-1:])
        finally:
            self.waiting -= 1

    async def _check(self, gone: Callable[[], Awaitable[bool]]) -> None:
        if self.stopping():
            raise Refusal(503, "The server is being stopped; ask again once it is back.")
        if await gone():
            raise Gone

    def _prefill(self, asked: Asked) -> bytearray | None:
        """The state that each text begins with; `None`: the engine is left in it, for the only text."""
        cached, _ = _parts(asked, self.catalogue)
        self.engine.prefill(cached)
        steering = asked.steering
        if not cached or (asked.n == 1 and (steering is None or not steering.adds)):
            return None
        begin = time.perf_counter()
        state = self.engine.state()
        if steering is not None and steering.adds:
            keys, values = self.catalogue.added(steering).numpy()
            try:
                state = self.engine.added(state, len(cached), np.ascontiguousarray(keys[..., list(self.order)]), values)
            except ValueError as error:
                raise Refusal(400, str(error)) from error
            self.counts["edits"] += 1
            self.edit_seconds += time.perf_counter() - begin
        return state

    def _begin(self, asked: Asked, state: bytearray | None, number: int) -> Float[np.ndarray, " vocabulary"]:
        cached, read = _parts(asked, self.catalogue)
        begin = time.perf_counter()
        if state is not None:
            self.engine.restore(state, len(cached))
            if asked.steering is not None and asked.steering.adds:
                self.edit_seconds += time.perf_counter() - begin
        elif number:
            self.engine.prefill(cached)
        return self._read(read)

    def _read(self, ids: Sequence[int]) -> Float[np.ndarray, " vocabulary"]:
        scores = self.engine.read(ids)
        if not np.isfinite(scores).all():
            raise Refusal(400, "The logits are NaN or infinite; lower the coefficients.")
        return scores

    def metrics(self) -> str:
        """As Prometheus reads them."""
        lines = ["# TYPE kvsteer:requests_total counter"]
        for name, count in sorted(self.counts.items()):
            if name.startswith("requests:"):
                lines.append(f'kvsteer:requests_total{{vectors="{name.partition(":")[2]}"}} {count}')
        for name, value in (
            ("unsteered_requests_total", self.counts["unsteered"]),
            ("edits_total", self.counts["edits"]),
            ("edit_seconds_total", round(self.edit_seconds, 6)),
            ("generated_tokens_total", self.counts["tokens"]),
        ):
            lines += [f"# TYPE kvsteer:{name} counter", f"kvsteer:{name} {value}"]
        lines += ["# TYPE kvsteer:requests_open gauge", f"kvsteer:requests_open {self.waiting}"]
        return "\n".join(lines) + "\n"

    def self_test(self, ids: Sequence[int]) -> None:
        """Steer one prompt with every vectors and compare with coefficients of zero.

        Args:
            ids: the prompt.

        Raises:
            ValueError: the next token's logits are the same, so the edit doesn't reach the model.
        """
        dose = min(4.0, self.catalogue.limit)
        self.engine.prefill(ids)
        state = self.engine.state()
        for name, own in self.catalogue.vectors.items():
            request = self.catalogue.read({"vectors": name, "ck": dose, "cv": dose})
            keys, values = self.catalogue.added(request).numpy()
            keys = np.ascontiguousarray(keys[..., list(self.order)])
            found = []
            for start in (state, state, self.engine.added(state, len(ids), keys, values)):
                self.engine.restore(bytearray(start), len(ids))
                found.append(self.engine.read([own.offset_id]))
            zero, again, steered = found
            noise, moved = np.abs(again - zero).max(), np.abs(steered - zero).max()
            if not moved > 2 * noise:
                raise ValueError(
                    f"The self-test failed: vectors {name!r} at ck={dose:g} cv={dose:g} change no logit (by"
                    f" {moved:.2g}, and {noise:.2g} without steering), so this server would answer unsteered."
                )


def choose(
    scores: Float[np.ndarray, " vocabulary"], asked: Asked, new: Sequence[int], noise: Sequence[SharedNoise]
) -> int:
    """The next token.

    Args:
        scores: logits.
        asked: how tokens are chosen.
        new: tokens so far.
        noise: of a sampled text; none: the likeliest token.
    """
    ids = torch.tensor([[*asked.prompt_ids, *new]])
    found = torch.from_numpy(scores)[None]
    for processor in (*asked.settings.warpers, *noise):
        found = processor(ids, found)
    return int(found.argmax())


def _parts(asked: Asked, catalogue: Catalogue) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What fills the cache, and what is read from it before the first new token."""
    if asked.steering is None:
        return asked.prompt_ids[:-1], asked.prompt_ids[-1:]
    own = catalogue.vectors[asked.steering.vectors]
    return asked.prompt_ids, (own.offset_id, *own.forced)
