"""Conversations that go on in one cache: read, edit a slot, answer, read on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import StoppingCriteriaList

from ..edits.cache import Deltas, apply
from ..models.architectures import UnsteerableModelError
from ..models.lock import locked
from ..models.model import Model
from ..models.prefill import fill, fork_rows
from ..models.prompts import render
from ..models.shared_prefix import counts_slots
from ..models.tokens import encode, pad_left, positions
from ..tasks.base import Chat
from .decoding import continue_ids
from .processors import FiniteGuard
from .settings import Settings
from .stopping import StopsAtStrings, read_said

_REPLY = "kvsteerreply"


class Conversation:
    """Rows of conversations, each in its own part of one cache. Used with the lock held.

    In a row's part of the cache lie, in this order and with nothing between: the first prompt as the template renders
    it, generation prompt included; the tail of the first answer (the offset token); the reply's own tokens without its
    end token; what the template writes after a reply, up to and including the next generation prompt (`next_turn`);
    the tail of the second answer; and so on. So the tails stay where they were read, and a reply is kept as the tokens
    that were generated. Read anew, the same ids give the same conversation, but for what was added to slots.

    Positions are those of the ids; padding is taken out of the cache as soon as it came in.

    Attributes:
        ids: what was said, a list a row.
        cached: how many of them lie in the cache; after an answer that was cut off, all but its last token.

    Args:
        model: from `kv.load`.
        prompts: token ids, a row each.

    Raises:
        UnsteerableModelError: attention goes by slots (sliding windows, and what takes no positions): there earlier
            turns would come to lie elsewhere.
    """

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]]) -> None:
        check_going_on(model)
        self.model = model
        self.ids = [list(row) for row in prompts]
        self.cached = [len(row) for row in self.ids]
        self.cache = fill(model, *self._padded(self.ids))

    def fork(self, rows: Sequence[int] | None = None) -> Conversation:
        """The same conversations, or those of some rows, to go on by themselves."""
        other = copy.copy(self)
        index = list(range(len(self.ids)) if rows is None else rows)
        other.cache = copy.deepcopy(self.cache)
        fork_rows(other.cache, torch.tensor(index))
        other.ids, other.cached = [list(self.ids[i]) for i in index], [self.cached[i] for i in index]
        return other

    def add(self, deltas: Deltas) -> None:
        """Add to slots, as `kv.edits.apply` does; slots are indices into a row's cached ids."""
        apply(self.cache, deltas, lengths=self.cached)

    @locked
    @torch.no_grad()
    def read(self, tokens: Sequence[Sequence[int]]) -> None:
        """Read tokens in every row, and what the last answer left unread."""
        unread = [[*row[n:], *more] for row, n, more in zip(self.ids, self.cached, tokens, strict=True)]
        before, mask = self._padded([row[:n] for row, n in zip(self.ids, self.cached, strict=True)])
        ids, seen = self._padded(unread)
        mask = torch.cat([mask, seen], 1)
        arguments = {"input_ids": ids, "attention_mask": mask, self.model.cache_argument: self.cache, "use_cache": True}
        if self.model.accepts("position_ids"):
            arguments["position_ids"] = positions(mask)[:, before.shape[1] :]
        if self.model.accepts("logits_to_keep"):
            arguments["logits_to_keep"] = 1
        self.model.hf(**arguments)
        for row, more in zip(self.ids, tokens, strict=True):
            row += more
        self._keep(mask.bool())

    @locked
    @torch.no_grad()
    def answer(self, tail: Sequence[int], settings: Settings) -> tuple[list[list[int]], Float[Tensor, "rows vocab"]]:
        """Read `tail` in every row and answer greedily. Everything before must have been read.

        Returns:
            The replies' ids, end tokens kept, and the logits of their first tokens as the model gives them, before
            penalties and bans.
        """
        assert self.cached == [len(row) for row in self.ids], "read the next turn first"
        ids, mask = self._padded([[*row, *tail] for row in self.ids])
        guard = FiniteGuard(len(self.ids))
        first: list[Tensor] = []  # generate itself would keep the logits of every step
        handle = self.model.hf.register_forward_hook(
            lambda module, given, output: None if first else first.append(output.logits[:, -1].clone())
        )
        try:
            stopping = StoppingCriteriaList([StopsAtStrings(settings.stop, ids.shape[1])] if settings.stop else [])
            new = continue_ids(self.model, ids, mask, self.cache, settings, [guard], stopping=stopping)
        finally:
            handle.remove()
        replies = [settings.reply_of(row) for row in new]
        guard.check([len(reply) for reply in replies], [""] * len(replies))
        own = [read_said(settings.stop, settings.eos, reply).ids for reply in replies]
        for row, said in zip(self.ids, own, strict=True):
            row += [*tail, *said]
        fresh = self.cache.get_seq_length() - ids.shape[1]  # the last token of the longest reply was not read
        kept = torch.tensor(
            [[i < len(said) for i in range(fresh)] for said in own], dtype=torch.bool, device=mask.device
        ).reshape(len(own), fresh)
        self._keep(torch.cat([mask.bool(), kept], 1))
        return replies, first[0]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return pad_left(rows, self.model.pad_id, self.model.device)

    def _keep(self, kept: Bool[Tensor, "rows columns"]) -> None:
        """Leave these columns in the cache, pushed to the right, and count them."""
        self.cached = kept.sum(-1).tolist()
        if bool(kept.all()):
            return
        order = kept.int().sort(dim=1, stable=True).indices[:, -max(self.cached) :]
        for layer in self.cache.layers:
            index = order.to(layer.keys.device)[:, None, :, None]
            layer.keys = layer.keys.gather(2, index.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3]))
            layer.values = layer.values.gather(2, index.expand(-1, layer.values.shape[1], -1, layer.values.shape[3]))


def check_going_on(model: Model) -> None:
    """Refuse a model whose earlier turns can't be kept exactly.

    Raises:
        UnsteerableModelError: sliding windows, or attention that goes by slots.
    """
    if counts_slots(model):
        short = [window for window in model.shape.windows if window is not None]
        why = f"has sliding windows of {min(short)} tokens" if short else "counts slots instead of taking positions"
        raise UnsteerableModelError(
            f"{model.name} {why}, so a long conversation can't go on in one cache; choose a model with full attention,"
            " such as Llama."
        )


def next_turn(model: Model, turns: Sequence[Chat]) -> list[int]:
    """What stands between the last reply and the next: the end of the assistant's turn, the next messages, the
    generation prompt.

    Args:
        model: its tokenizer's template renders the conversation.
        turns: what the user says in each turn so far, a chat a turn, the next one last; between them stand replies,
            whatever they say.

    Raises:
        ValueError: a template that refuses the conversation, or leaves out or changes what was replied.
    """
    chat: Chat = []
    for turn in turns[:-1]:
        chat += [*turn, {"role": "assistant", "content": _REPLY}]
    text = render(model.tokenizer, [*chat, *turns[-1]])
    if text.count(_REPLY) != len(turns) - 1:
        raise ValueError(
            "The chat template doesn't write out what was replied before, so the conversation can't go on in one cache;"
            " set another template."
        )
    return encode(model.tokenizer, text.rpartition(_REPLY)[2])
