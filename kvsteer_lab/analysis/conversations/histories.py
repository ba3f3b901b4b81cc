"""Histories of a conversation after an edited first turn. They differ in what is left of the edit: the reply's text,
that text's keys and values in the cache, and the edited slot itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...edits.addition import CacheDelta
from ...generation.conversation import Conversation
from ...generation.settings import Settings
from ...interventions.cache import CacheSteering
from ...models.lock import locked
from ...models.model import Model
from ..watched_token import log_odds

Ids = Sequence[int]


@dataclass(frozen=True)
class History:
    """What is left of the first turn's edit when the second turn begins.

    Attributes:
        text: whether the first reply is the steered one; otherwise it is replaced by the plain one.
        traces: whether the reply's own keys and values were computed beside the edited slot.
        slot: whether the slot is still edited.
        again: whether the slot of every later turn is edited afresh.
    """

    text: bool
    traces: bool
    slot: bool
    again: bool = False


HISTORIES = {
    "kept": History(text=True, traces=True, slot=True),
    "subtracted": History(text=True, traces=True, slot=False),
    "re-prefilled": History(text=True, traces=False, slot=False),
    "plain reply": History(text=False, traces=True, slot=True),
    "traces alone": History(text=False, traces=True, slot=False),
    "slot alone": History(text=False, traces=False, slot=True),
    "every turn": History(text=True, traces=True, slot=True, again=True),
}
"""By name; `follow_conversations` explains each."""


class Reply(NamedTuple):
    """A reply's ids, end token kept, and the log-odds log p / (1 - p) of the watched token at its first place."""

    ids: Ids
    odds: float


@dataclass(frozen=True)
class Dialogues:
    """Conversations to be held: what is read in every turn, and how it is answered.

    Attributes:
        model: the model that answers.
        prompts: by conversation and turn, what is read before the turn's slot: the first prompt, then what stands
            between two replies.
        tail: what reads the slot: the offset token.
        settings: how replies are generated.
        token: whose log-odds are watched.
    """

    model: Model
    prompts: Sequence[Sequence[Ids]]
    tail: Ids
    settings: Settings
    token: int

    @locked
    def plainly(self, batch: Sequence[int]) -> list[list[Reply]]:
        """All replies of some conversations in which nothing is added."""
        state = Conversation(self.model, [self.prompts[c][0] for c in batch])
        return _by_row([self._answer(state), *self._later(state, batch, None)])

    @locked
    def edited(
        self, units: Sequence[tuple[CacheSteering, int]], plain: Mapping[int, Sequence[Reply]], histories: Sequence[str]
    ) -> dict[str, list[list[Reply]]]:
        """By history, all replies of conversations whose first turn is edited: (steering, conversation) pairs, and the
        plain replies by conversation.

        What is the same in several histories (an edit that didn't change the first reply, say) is computed once.
        """
        batch = [c for _, c in units]
        known: dict[tuple[Any, ...], Sequence[Reply]] = {
            (row, tuple(plain[c][0].ids), False, False, False): plain[c][1:] for row, c in enumerate(batch)
        }
        found = {}
        first = Conversation(self.model, [self.prompts[c][0] for c in batch])
        deltas = placed(self.model, units, first.cached)
        first.add(deltas)
        steered = self._answer(first)
        for name in histories:
            history = HISTORIES[name]
            opening = steered if history.text else [plain[c][0] for c in batch]
            keys = [
                (row, tuple(reply.ids), history.traces, history.slot, history.again)
                for row, reply in enumerate(opening)
            ]
            fresh = [row for row, key in enumerate(keys) if key not in known]
            if fresh:
                own, added = [batch[row] for row in fresh], [deltas[row] for row in fresh]
                goes_on = history.text and history.traces
                state = (
                    first.fork(fresh)
                    if goes_on
                    else self._read(own, [opening[row] for row in fresh], added if history.traces else None)
                )
                if history.slot != history.traces:
                    state.add(added if history.slot else [minus(row) for row in added])
                later = _by_row(self._later(state, own, [units[row] for row in fresh] if history.again else None))
                known |= {keys[row]: replies for row, replies in zip(fresh, later, strict=True)}
            found[name] = [[reply, *known[key]] for reply, key in zip(opening, keys, strict=True)]
        return found

    def _read(
        self, batch: Sequence[int], replies: Sequence[Reply], deltas: Sequence[tuple[CacheDelta, ...]] | None
    ) -> Conversation:
        """First turns whose replies are given, read beside the edited slot or beside the plain one."""
        state = Conversation(self.model, [self.prompts[c][0] for c in batch])
        if deltas is not None:
            state.add(deltas)
        state.read([[*self.tail, *(r.ids[:-1] if r.ids[-1] in self.settings.eos else r.ids)] for r in replies])
        return state

    def _later(
        self, state: Conversation, batch: Sequence[int], edited: Sequence[tuple[CacheSteering, int]] | None
    ) -> list[list[Reply]]:
        """By turn, the replies of all turns but the first."""
        replies = []
        for turn in range(1, len(self.prompts[batch[0]])):
            state.read([self.prompts[c][turn] for c in batch])
            if edited is not None:
                state.add(placed(self.model, edited, state.cached))
            replies.append(self._answer(state))
        return replies

    def _answer(self, state: Conversation) -> list[Reply]:
        replies, logits = state.answer(self.tail, self.settings)
        odds = log_odds(logits.float(), self.token).tolist()
        return [Reply(ids, each) for ids, each in zip(replies, odds, strict=True)]


def _by_row(turns: Sequence[Sequence[Reply]]) -> list[list[Reply]]:
    return [list(row) for row in zip(*turns, strict=True)]


def placed(
    model: Model, units: Sequence[tuple[CacheSteering, int]], lengths: Sequence[int]
) -> list[tuple[CacheDelta, ...]]:
    """What each row's steering adds, with slots that stay right when the cache grows."""
    rows = [method.deltas(model, [length])[0] for (method, _), length in zip(units, lengths, strict=True)]
    return [
        tuple(replace(delta, slot=delta.slot % length) for delta in row if isinstance(delta, CacheDelta))
        for row, length in zip(rows, lengths, strict=True)
    ]


def minus(deltas: Sequence[CacheDelta]) -> tuple[CacheDelta, ...]:
    """What takes deltas out again."""
    return tuple(replace(delta, keys=-delta.keys, values=-delta.values) for delta in deltas)
