"""Planning: one row a text to be generated or scored, and which rows may share a batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..edits.addition import Add
from ..edits.base import CacheEdit, SlotEdit
from ..edits.hiding import HiddenSlot
from ..edits.residual import ResidualDelta
from ..edits.rounding import check_cast
from ..edits.slots import slot_from_end
from ..interventions.base import Intervention
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.shared_prefix import counts_slots
from .row_edits import Inserted, look_up


@dataclass(frozen=True)
class Row:
    """One text to be generated (or scored).

    Attributes:
        prompt_ids: what the cache is filled with.
        tail: what is read next, from the edited cache: the offset token, the response prefill.
        deltas: what is done to the cache, in order, with slots by number.
        noise_key: which noise a sampled row sees.
        residuals: what is added to the residual stream.
        uses_cache: whether decoding reads the cache.
        forced: the end of the tail that is the beginning of the answer.
        hidden: slots of the prompt that what is read next doesn't read.
        label: of the intervention, for error messages.
        bank: slots before the prompt, which its tokens read.
        lasting: what is done to every slot that is cached after the prompt.
        method: the intervention, for backends that name vectors instead of sending them.
    """

    prompt_ids: tuple[int, ...]
    tail: tuple[int, ...]
    deltas: tuple[CacheEdit, ...]
    noise_key: str = ""
    residuals: tuple[ResidualDelta, ...] = ()
    uses_cache: bool = True
    forced: tuple[int, ...] = ()
    hidden: tuple[HiddenSlot, ...] = ()
    label: str = ""
    bank: Inserted | None = None
    lasting: tuple[SlotEdit, ...] = ()
    method: Intervention | None = field(default=None, repr=False, compare=False)

    @property
    def cached(self) -> tuple[int, ...]:
        """The ids that fill the cache. At least one token must be left to read."""
        return self.prompt_ids if self.tail else self.prompt_ids[:-1]

    @property
    def inserted(self) -> int:
        """How many slots lie before the prompt."""
        return 0 if self.bank is None else len(self.bank.bank)

    @property
    def anew(self) -> bool:
        """Whether every pass has to compute the row from its start, because it steers the newest position alone."""
        return any(delta.newest for delta in self.residuals)

    @property
    def read(self) -> tuple[int, ...]:
        """What is read from the cache before the first new token: the tail, or else the prompt's last token."""
        return self.tail or self.prompt_ids[-1:]

    @property
    def residual_slots(self) -> list[tuple[ResidualDelta, int]]:
        """Its residual deltas with their slots as indices into the prompt."""
        return [(delta, delta.slot % len(self.prompt_ids)) for delta in self.residuals]

    @property
    def bank_hidden(self) -> tuple[HiddenSlot, ...]:
        """The slots of its bank that some layers don't read, counted from the bank's first."""
        return () if self.bank is None else self.bank.hidden


def make_rows(
    model: Model,
    intervention: Intervention,
    prompts: Sequence[Sequence[int]],
    offset: int | None,
    noise_keys: Sequence[str] = (),
    chats: Sequence[Prompt] = (),
) -> list[Row]:
    """One row a prompt, under one intervention.

    Args:
        model: the model that runs.
        intervention: the method.
        prompts: token ids.
        offset: the run's offset token.
        noise_keys: one a prompt, which noise a sampled row sees.
        chats: what the ids were made from, for spans by message.

    Raises:
        ValueError: the intervention edits the prompt's last slot, but no token is left to read it (no offset), or the
            prompt is a single token without one; a slot is out of range; a residual delta doesn't fit the model; or the
            cache is both edited and left unused.
    """
    offset = intervention.offset_id(model.tokenizer, offset)
    tail = tuple(intervention.tail(model.tokenizer, offset))
    lengths = [len(ids) if tail else len(ids) - 1 for ids in prompts]
    if min(lengths) < 1:
        raise ValueError("A prompt of a single token needs an offset token; pass offset='\\n' or a longer prompt.")
    deltas = intervention.deltas(model, lengths)
    hidden = intervention.hidden(model, lengths)
    deltas, hidden, banks, lasting = look_up(model, deltas, hidden, prompts, lengths, chats)
    done = "steered" if any(deltas) else "hidden"
    if not tail and (any(deltas) or any(hidden)):
        raise ValueError(
            f"{intervention.label!r} needs an offset token: the last slot is {done}, and a token must be left to read"
            " it. Pass offset='\\n'."
        )
    if not intervention.uses_cache and (any(deltas) or any(hidden) or any(banks)):
        done = "edits the cache" if any(deltas) or any(banks) else "hides a slot of the cache"
        raise ValueError(f"{intervention.label!r} {done}, so decoding must read it; don't turn the cache off.")
    residuals = intervention.residuals(model, [len(ids) for ids in prompts])
    for delta in {id(d): d for row in residuals for d in row}.values():
        delta.check(model)
        if delta.newest and intervention.uses_cache:
            raise ValueError(
                f"{intervention.label!r} steers the newest position of each pass alone, and a cache would keep it"
                " steered; turn the cache off, or steer from a slot onward."
            )
    for edit in {id(d): d for row in deltas for d in row if isinstance(d, Add)}.values():
        check_cast(edit, model.dtype, intervention.label)
    for row, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        for slot in [*(d.slot for d in deltas[row] if isinstance(d, Add)), *(h.slot for h in hidden[row])]:
            slot_from_end(slot, length, row)
        for delta in residuals[row]:
            slot_from_end(delta.slot, len(ids), row)
    keys = noise_keys or [""] * len(prompts)
    uses_cache, forced = bool(intervention.uses_cache), tail[offset is not None :]
    each = zip(prompts, deltas, keys, residuals, hidden, banks, lasting, strict=True)
    return [
        Row(tuple(ids), tail, d, key, r, uses_cache, forced, h, intervention.label, bank, last, intervention)
        for ids, d, key, r, h, bank, last in each
    ]


def check_context(model: Model, rows: Sequence[Row], new: int) -> None:
    """Refuse rows whose prompt, tail and new tokens exceed the model's context."""
    longest = max(rows, key=lambda r: r.inserted + len(r.prompt_ids) + len(r.tail))
    need = longest.inserted + len(longest.prompt_ids) + len(longest.tail) + new
    if model.context is not None and need > model.context:
        raise ValueError(
            f"A prompt of {len(longest.prompt_ids)} tokens and {new} new ones need {need} slots, but the context of"
            f" {model.name} is {model.context}; shorten the prompt or lower max_new_tokens."
        )


def warn_of_windows(model: Model, rows: Sequence[Row], new: int) -> None:
    """Warn where a steered layer's sliding window moves past the slot before the text ends."""
    if said := window_warning(model, rows, new):
        warnings.warn(said, stacklevel=3)


def window_warning(model: Model, rows: Sequence[Row], new: int) -> str:
    """What `warn_of_windows` warns of; empty if there is nothing. For threads, which mustn't touch the process's
    warnings.
    """
    short = {layer: window for layer, window in enumerate(model.shape.windows) if window is not None}
    distinct = {
        id(d): (d, len(row.prompt_ids), len(row.tail))
        for row in rows
        if short
        for d in row.deltas
        if isinstance(d, Add)
    }
    forgetful = set()
    for delta, prompt, tail in distinct.values():
        # how far back the last query finds the slot
        behind = (prompt - delta.slot if delta.slot >= 0 else -delta.slot) - 1 + tail + new - 1
        steered = {layer for layer in short if delta.keys[layer].any() or delta.values[layer].any()}
        forgetful |= {layer for layer in steered if behind >= short[layer]}
    if not forgetful:
        return ""
    first = min(short[layer] for layer in forgetful)
    numbers = ", ".join(map(str, sorted(forgetful)))
    return (
        f"The steered slot leaves the sliding window (layers {numbers}; {first} tokens or more) before {new} new tokens"
        " are generated; steer other layers or lower max_new_tokens."
    )


def group_rows(model: Model, rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows that may share a left-padded batch: equal prompts side by side, short ones first.

    Tails of different length are padded between the cached prompt and the tail. A masked hole there changes nothing
    where attention goes by positions; where it counts slots, only equally long tails go together. Rows that leave the
    cache unused go by themselves, and so do those that can't use it.

    Args:
        model: the model that runs.
        rows: what is to be batched.

    Returns:
        Groups of row numbers.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt_ids), rows[i].prompt_ids, len(rows[i].tail), i))
    holes = not counts_slots(model)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        groups.setdefault(batch_key(rows[i], holes), []).append(i)
    return [groups[key] for key in sorted(groups)]


def batch_key(row: Row, holes: bool) -> tuple[int, ...]:
    """What rows of one batch have in common.

    Args:
        row: one of them.
        holes: whether a masked hole in a row changes nothing: not where attention counts slots.
    """
    width = 0 if holes or not row.uses_cache else len(row.read)
    prompt = len(row.prompt_ids) if row.inserted and not holes else 0  # behind a bank a short prompt leaves a hole
    return int(row.uses_cache), int(row.anew), width, row.inserted, prompt
