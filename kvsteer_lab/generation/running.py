"""Texts decoded in a batch that finished rows leave and waiting rows join, so that few steps are spent on texts that
have ended.

A batch runs until a quarter of its rows have ended. These leave the cache; waiting rows are prefilled, say their first
token by themselves, and join the others. A row's text doesn't depend on its company: all rows end in the same column,
and what stands to their left is masked. The first text of all is handed out at once: a progress bar moves soon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from .._util.batching import check_batch_size, free_memory, in_batches, is_out_of_memory, smaller_batch
from ..models.cache_rows import join_rows, keep_rows, rows_can_move
from ..models.footprint import cached_rows_fit, fit, memory_budget, rows_that_fit, rows_to_prefill
from ..models.lock import locked
from ..models.model import Model
from .decoding import continue_ids, decode
from .editing import Columns, editing
from .filling import fill_rows
from .processors import Beginnings, FiniteGuard, split_off_beginnings
from .rows import Row
from .sampling import SharedNoise
from .settings import Settings
from .stopping import StopsAtStrings, cut

_ENDED = 0.25
"""The share of a batch that has ended when it is closed up and refilled."""
_FULL = 0.875
"""The share of its places from which a batch counts as full: a few stay free sooner than part the rows of a prompt."""

Finished = list[tuple[int, list[int]]]
"""Numbers of rows whose texts have ended, with their new token ids."""


def decode_queue(
    model: Model, rows: Sequence[Row], order: Sequence[int], settings: Settings, seed: int, batch_size: int
) -> Iterator[Finished]:
    """Decode rows that may share a batch, and hand each text out soon after it has ended.

    Args:
        model: the model that runs.
        rows: all rows.
        order: numbers of those to decode, a group of `group_rows`.
        settings: from `resolve`.
        seed: of the noise, where texts are sampled.
        batch_size: rows decoded together at most, fewer where they wouldn't fit into memory; halved where it runs out.

    Yields:
        Numbers of finished rows with their new ids, end tokens kept; each row once.

    Raises:
        ValueError: a batch size below 1.
        NotFiniteError: some row's logits are NaN or infinite.
        torch.OutOfMemoryError: not even one row fits.
    """
    check_batch_size(batch_size)
    if not rows[order[0]].uses_cache:  # every pass reads the rows from their start, and there is nothing to keep
        for numbers, texts in in_batches(
            order,
            batch_size,
            lambda some: decode(model, [rows[i] for i in some], settings, seed),
            lambda some: rows_that_fit(model, [_length(rows[i]) + settings.max_new_tokens for i in some]),
        ):
            yield list(zip(numbers, texts, strict=True))
        return
    waiting, most, budget = deque(order), batch_size, memory_budget(model.device)
    batch: _Batch | None = None
    begun_to_yield = False
    while waiting or batch is not None:
        finished: Finished = []
        running: list[int] = [] if batch is None else list(batch.numbers)
        try:
            if batch is None or (batch.open and len(running) <= (1 - _ENDED) * most):
                while waiting and len(running) <= _FULL * most and (batch is None or batch.open):
                    begun = _next(model, rows, waiting, most - len(running), batch, settings, budget)
                    if not begun:
                        break
                    running += begun
                    joining = _Batch.begin(model, begun, [rows[i] for i in begun], settings, seed)
                    if batch is None:
                        batch = joining
                    else:
                        finished += [*batch.read_tails(), *joining.read_tails()]
                        batch.join(joining)
            assert batch is not None
            if batch.numbers:
                finished += batch.run(share=_ENDED if begun_to_yield else 0)
            if not batch.numbers:
                batch = None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            most = smaller_batch(len(running), error)
            done = {number for number, _ in finished}
            waiting.extendleft(number for number in reversed(running) if number not in done)
            batch = None
            joining = None
            free_memory()
        if finished:
            begun_to_yield = True
            yield finished


def _next(
    model: Model,
    rows: Sequence[Row],
    waiting: deque[int],
    room: int,
    batch: _Batch | None,
    settings: Settings,
    budget: float,
) -> list[int]:
    """Take the next rows from the queue: as many as are prefilled in one pass and fit into memory beside the batch, or
    a few less so as not to part rows of one prompt, which would be prefilled twice. At least one if nothing runs.
    """
    few = [waiting[i] for i in range(min(room, len(waiting)))]
    prompts = list(dict.fromkeys(rows[i].cached for i in few))
    prompts = prompts[: rows_to_prefill(model, list(map(len, prompts)), budget)]
    most = next((n for n, i in enumerate(few) if rows[i].cached not in prompts), len(few))
    running = 0 if batch is None else len(batch.numbers)
    longest = 0 if batch is None else batch.final_columns
    ends = [max(longest, _length(rows[i]) + settings.max_new_tokens) for i in few[:most]]
    if running and not cached_rows_fit(model, running + 1, ends[0], budget):
        return []
    most = fit(ends, lambda more, tokens: cached_rows_fit(model, running + more, tokens, budget))
    if most < len(waiting) and rows[waiting[most]].cached == rows[few[most - 1]].cached:
        cut_off = next(n for n, i in enumerate(few) if rows[i].cached == rows[few[most - 1]].cached)
        most = cut_off if cut_off > _FULL * most else most
    return [waiting.popleft() for _ in range(most)]


def _length(row: Row) -> int:
    """Tokens before the first new one."""
    return row.inserted + len(row.prompt_ids) + len(row.tail)


class _Enough(StoppingCriteria):
    """Ends all rows once enough of them have ended."""

    def __init__(self, ended: Callable[[Int[Tensor, "rows new"]], Bool[Tensor, " rows"]], width: int, enough: int):
        self.ended, self.width, self.enough = ended, width, enough

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Tensor:
        stop = self.ended(input_ids[:, self.width :]).sum() >= self.enough
        return stop.expand(input_ids.shape[0])


@dataclass(eq=False)
class _Batch:
    """Rows that are being decoded: their cache, which holds all their ids but the last, and where they stand in it."""

    model: Model
    settings: Settings
    beginnings: Any
    numbers: list[int]
    rows: list[Row]
    new: list[list[int]]
    cache: DynamicCache
    ids: Int[Tensor, "rows columns"]
    mask: Int[Tensor, "rows columns"]
    columns: Columns
    noise: SharedNoise | None

    @classmethod
    @locked
    @torch.no_grad()
    def begin(cls, model: Model, numbers: list[int], rows: list[Row], settings: Settings, seed: int) -> _Batch:
        """Prefill rows."""
        cache, ids, mask = fill_rows(model, rows)
        # With a cache that covers everything, generate would silently process the prompt a second time.
        assert cache.get_seq_length() < ids.shape[1], "the cache leaves no token to read"
        noise = SharedNoise([row.noise_key for row in rows], seed) if settings.sample else None
        config, beginnings = split_off_beginnings(settings.config)
        settings = replace(settings, config=config)
        new: list[list[int]] = [[] for _ in rows]
        return cls(
            model, settings, beginnings, list(numbers), list(rows), new, cache, ids, mask, Columns.of(rows), noise
        )

    @property
    def open(self) -> bool:
        """Whether rows can leave, and join."""
        return rows_can_move(self.cache)

    @property
    def final_columns(self) -> int:
        """How many columns the batch has when its youngest row has all its tokens."""
        return self.ids.shape[1] + self.settings.max_new_tokens - min(map(len, self.new), default=0)

    def read_tails(self) -> Finished:
        """Decode the first token where that isn't done, so that one token a row is left to read."""
        return self.run(most=1) if self.rows and not self.new[0] else []

    @locked
    @torch.no_grad()
    def run(self, share: float = _ENDED, most: int | None = None) -> Finished:
        """Decode until this share of the rows has ended (0: the first), or one reaches its last token, or `most` new
        tokens are there; rows that have ended leave.
        """
        left = self.settings.max_new_tokens - max(map(len, self.new))
        self.settings.config.max_new_tokens = left if most is None else min(left, most)
        width, ends = self.ids.shape[1], self.settings.eos
        guard = FiniteGuard(len(self.rows))
        begin = [] if self.beginnings is None else [Beginnings(self.beginnings, list(map(len, self.new)))]
        noise = [] if self.noise is None else [*self.settings.warpers, self.noise]
        stopping = None
        if (ends and self.open) or self.settings.stop:
            ending = torch.tensor(sorted(ends), dtype=torch.long, device=self.ids.device)
            enough = max(1, int(share * len(self.rows))) if self.open else len(self.rows)
            strings = StopsAtStrings(self.settings.stop, width, self.new)
            over = _Enough(lambda new: torch.isin(new, ending).any(1) | strings.over, width, enough)
            stopping = StoppingCriteriaList([strings, over])
        with editing(self.model, self.rows, self.columns):
            new = continue_ids(
                self.model,
                self.ids,
                self.mask,
                self.cache,
                self.settings,
                [*begin, guard, *noise],
                stopping=stopping,
            )
        if self.noise is not None:
            self.noise.take_back(len(new[0]))
        stop, known = self.settings.stop, self.new
        self.new = [stop.cut(before + cut(row, ends)) for before, row in zip(known, new, strict=True)]
        guard.check(
            [len(row) - len(before) for before, row in zip(known, self.new, strict=True)],
            [row.label for row in self.rows],
        )
        fresh = torch.tensor(new, device=self.ids.device)
        self.ids, self.mask = torch.cat([self.ids, fresh], 1), torch.cat([self.mask, torch.ones_like(fresh)], 1)
        most_new = self.settings.max_new_tokens
        ended = [row[-1] in ends or len(row) == most_new or stop.found(row) for row in self.new]
        finished = [(self.numbers[i], self.new[i]) for i, over in enumerate(ended) if over]
        self._keep([i for i, over in enumerate(ended) if not over])
        return finished

    def _keep(self, rows: list[int]) -> None:
        """Let all other rows go, and the columns that only they needed."""
        self.numbers, self.rows = [self.numbers[i] for i in rows], [self.rows[i] for i in rows]
        self.new = [self.new[i] for i in rows]
        if not rows:
            return
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[index]
        unused = int(mask.any(0).int().argmax())
        self.mask, self.ids = mask[:, unused:], self.ids[index, unused:]
        self.columns = Columns(
            self.ids.shape[1] - 1,
            tuple(self.columns.prompts[i] - unused for i in rows),
            tuple(self.columns.tails[i] - unused for i in rows),
            tuple(self.columns.banks[i] - unused for i in rows),
        )
        keep_rows(self.cache, index, unused)
        if self.noise is not None:
            self.noise.keep_rows(rows)

    @locked
    @torch.no_grad()
    def join(self, other: _Batch) -> None:
        """Take in another batch's rows, all of which have said their first token."""
        if not self.rows or not other.rows:
            self.__dict__.update(other.__dict__ if other.rows else {})
            return
        width = max(self.ids.shape[1], other.ids.shape[1])
        wider = [width - part.ids.shape[1] for part in (self, other)]
        self.ids, self.mask = (
            torch.cat([torch.nn.functional.pad(x, (by, 0), value=value) for x, by in zip(pair, wider, strict=True)])
            for pair, value in (((self.ids, other.ids), self.settings.pad), ((self.mask, other.mask), 0))
        )
        self.columns = Columns(
            width - 1,
            tuple(c + by for part, by in zip((self, other), wider, strict=True) for c in part.columns.prompts),
            tuple(c + by for part, by in zip((self, other), wider, strict=True) for c in part.columns.tails),
            tuple(c + by for part, by in zip((self, other), wider, strict=True) for c in part.columns.banks),
        )
        join_rows(self.cache, other.cache)
        self.numbers, self.rows, self.new = (
            self.numbers + other.numbers,
            self.rows + other.rows,
            self.new + other.new,
        )
        if self.noise is not None and other.noise is not None:
            self.noise.join(other.noise)
