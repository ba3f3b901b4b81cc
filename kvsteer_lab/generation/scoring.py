"""How likely given continuations are, on the same path as generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._util.batching import in_batches
from ..interventions.base import Intervention
from ..interventions.checks import check_intervention
from ..models.finite import refuse_broken
from ..models.footprint import rows_that_fit
from ..models.lock import LOCK, locked
from ..models.model import Model
from ..models.prompts import Prompt, as_list, check_text
from ..models.token_texts import token_pieces
from ..models.tokens import encode, offset_token, pad_left, positions
from .asking import asked_under
from .editing import editing
from .filling import fill_rows
from .rows import Row, check_context, group_rows, make_rows

_LOGITS = 2**26  # logits that are held at a time: 256 MB in float32


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of continuations, one entry a prompt.

    Attributes:
        token_ids: the continuation's tokens.
        logprobs: the natural log of each token's probability, given the prompt, the tail and the tokens before.
        tokens: each token as text.
        greedy: whether each token of the continuation is the likeliest there, so that greedy decoding would write it.
    """

    token_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[Float[Tensor, " tokens"], ...] = field(repr=False)
    tokens: tuple[tuple[str, ...], ...] = field(repr=False)
    greedy: tuple[bool, ...] = field(repr=False)

    @property
    def totals(self) -> list[float]:
        """The log-probability of each whole continuation."""
        return [float(row.sum()) for row in self.logprobs]

    def to_frame(self) -> pd.DataFrame:
        """One row a token: `prompt`, `step`, `token_id`, `token`, `logprob`."""
        return table_of_tokens(self.token_ids, self.tokens, self.logprobs, "logprob")


def score(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    continuations: str | Sequence[str | Sequence[int]],
    intervention: Intervention | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    batch_size: int = 32,
) -> Scores:
    """Per-token log-probabilities of one continuation a prompt, read from the edited cache.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        continuations: texts (tokenised verbatim) or token ids, one a prompt.
        intervention: what acts on the prompt; `None`: nothing.
        chat, offset: as in `kv.generate`.
        batch_size: rows scored together at most, fewer where they wouldn't fit into memory; halved where it runs out.

    Raises:
        ValueError: not one continuation a prompt, an empty one, or what `kv.generate` refuses.

    Example:
        >>> import kvsteer_lab as kv
        >>> likely, unlikely = kv.score(kv.load("tiny"), ["2 + 3?"] * 2, ["The answer", "zzz zzz"]).totals
        >>> likely > unlikely
        True
    """
    given, targets = match_continuations(model, prompts, continuations)
    rows = rows_under(model, check_intervention(model, intervention), given, chat=chat, offset=offset)
    check_context(model, rows, max(map(len, targets)))
    found: dict[int, tuple[Tensor, bool]] = {}
    for group in group_rows(model, rows):
        for batch, part in in_batches(
            group,
            batch_size,
            lambda b: _score(model, [rows[i] for i in b], [targets[i] for i in b]),
            lambda b: rows_that_fit(
                model, [rows[i].inserted + len(rows[i].prompt_ids) for i in b], max(len(targets[i]) for i in b)
            ),
        ):
            found.update(zip(batch, part, strict=True))
    logprobs, greedy = zip(*(found[i] for i in range(len(rows))), strict=True)
    return Scores(tuple(targets), logprobs, texts_of(model, targets), greedy)


@torch.no_grad()
def _score(model: Model, rows: Sequence[Row], targets: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, bool]]:
    """Each row's log-probabilities, and whether all of its tokens are the likeliest."""
    parts, likeliest = [], []
    with LOCK:
        for logits, tokens in logits_along(model, rows, targets):
            here = tokens.to(logits.device)
            parts.append(logits.float().log_softmax(-1).gather(-1, here[..., None])[..., 0].cpu())
            likeliest.append((logits.argmax(-1) == here).cpu())
    columns = zip(torch.cat(parts, 1), torch.cat(likeliest, 1), targets, strict=True)
    return [(row[: len(t)], bool(first[: len(t)].all())) for row, first, t in columns]


# --- what reads continuations -------------------------------------------------------------------------------------


class Reading:
    """Rows whose edited caches are read on: first the tails, then the tokens that follow. Used with the lock held and
    without gradients.
    """

    def __init__(self, model: Model, rows: Sequence[Row]) -> None:
        self.model = model
        self.labels = [row.label for row in rows]
        self.cache, ids, self.mask = fill_rows(model, rows)
        self._editing = editing(model, rows)
        self._tails = ids[:, self.cache.get_seq_length() :]

    def start(self) -> Float[Tensor, "rows 1 vocab"]:
        """Read the tails; the logits after each row's last token."""
        return self._forward(self._tails, 1)

    def read(self, tokens: Int[Tensor, "rows n"]) -> Float[Tensor, "rows n vocab"]:
        """Read `tokens` in every row; the logits after each of them."""
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], 1)
        return self._forward(tokens, tokens.shape[1])

    @locked
    def _forward(self, tokens: Int[Tensor, "rows n"], keep: int) -> Float[Tensor, "rows keep vocab"]:
        arguments = {"input_ids": tokens, "attention_mask": self.mask, self.model.cache_argument: self.cache}
        arguments["use_cache"] = True
        if self.model.accepts("position_ids"):
            arguments["position_ids"] = positions(self.mask)[:, -tokens.shape[1] :]
        if self.model.accepts("logits_to_keep"):
            arguments["logits_to_keep"] = keep
        with self._editing:  # for each pass alone: several readings may take turns
            logits = self.model.hf(**arguments).logits[:, -keep:]
        refuse_broken(logits, self.labels)
        return logits


class Rereading(Reading):
    """Rows that have to be computed anew for each token: they steer the newest position alone, and a cache would keep
    what was steered. Slow: a pass over everything a token.
    """

    def __init__(self, model: Model, rows: Sequence[Row]) -> None:
        self.model = model
        self.labels = [row.label for row in rows]
        self.ids, self.mask = pad_left([row.prompt_ids + row.tail for row in rows], model.pad_id, model.device)
        self._editing = editing(model, rows, cached=False)

    @locked
    def start(self) -> Float[Tensor, "rows 1 vocab"]:
        with self._editing:
            arguments = self.model.forward_arguments(self.ids, self.mask)
            logits = self.model.hf(**arguments, use_cache=False).logits[:, -1:]
        refuse_broken(logits, self.labels)
        return logits

    def read(self, tokens: Int[Tensor, "rows n"]) -> Float[Tensor, "rows n vocab"]:
        found = []
        for column in tokens.split(1, dim=1):
            self.ids, self.mask = (torch.cat([x, y], 1) for x, y in ((self.ids, column), (self.mask, column * 0 + 1)))
            found.append(self.start())
        return torch.cat(found, 1)


def read_rows(model: Model, rows: Sequence[Row]) -> Reading:
    """What reads on from rows of one group of `group_rows`."""
    return Rereading(model, rows) if rows[0].anew else Reading(model, rows)


def logits_along(
    model: Model, rows: Sequence[Row], targets: Sequence[Sequence[int]], in_step_with: int | None = None
) -> Iterator[tuple[Float[Tensor, "rows n vocab"], Int[Tensor, "rows n"]]]:
    """The logits before each token of the rows' continuations, and these tokens, some steps at a time.

    Short continuations are padded by repeating their last token, which no earlier token sees. How many steps come at
    once depends on the
    rows and the vocabulary: memory does not grow with the continuations' length.

    Args:
        model: the model.
        rows: what is read on from.
        targets: a continuation a row.
        in_step_with: how many rows another reading has that takes turns with this one, so that both come with as many
            steps.
    """
    width = max(map(len, targets))
    padded = torch.tensor([[*t, *[t[-1]] * (width - len(t))] for t in targets], device=model.device)
    reading = read_rows(model, rows)
    logits = reading.start()
    yield logits, padded[:, :1]
    size = max(1, _LOGITS // ((in_step_with or len(rows)) * logits.shape[-1]))
    for start in range(1, width, size):
        following = padded[:, start : start + size]
        yield reading.read(padded[:, start - 1 : start - 1 + following.shape[1]]), following


def match_continuations(
    model: Model, prompts: Prompt | Sequence[Prompt], continuations: str | Sequence[str | Sequence[int]]
) -> tuple[list[Prompt], list[tuple[int, ...]]]:
    """The prompts as a list, and each one's continuation as token ids.

    Raises:
        ValueError: not one continuation a prompt, or an empty one.
    """
    given = as_list(prompts)
    wanted = [continuations] if isinstance(continuations, str) else list(continuations)
    if len(wanted) != len(given):
        raise ValueError(f"There are {len(given)} prompts but {len(wanted)} continuations; pass one for each.")
    targets = [
        tuple(encode(model.tokenizer, check_text(c, f"Continuation {i}")) if isinstance(c, str) else map(int, c))
        for i, c in enumerate(wanted)
    ]
    if not all(targets):
        raise ValueError(f"Continuation {[bool(t) for t in targets].index(False)} is empty; there is nothing to score.")
    return given, targets


def rows_under(
    model: Model, method: Intervention, prompts: Sequence[Prompt], *, chat: bool, offset: str | int | None
) -> list[Row]:
    """One row a prompt under one intervention."""
    asked = [asked_under(method, p, chat=chat) for p in prompts]
    ids = [model.encode(p, chat=chat) for p in asked]
    return make_rows(model, method, ids, offset_token(model.tokenizer, offset), chats=asked)


def texts_of(model: Model, rows: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
    """Each token as the text that it adds after those before it; special tokens by their names.

    Args:
        model: whose tokenizer decodes.
        rows: token ids, a row each.

    Returns:
        A text a token; a character of several tokens stands at its last one.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> texts_of(model, [model.encode("The answer", chat=False)])
    (('The', ' answer'),)
    """
    special = set(model.tokenizer.all_special_ids)

    def named(ids: Sequence[int]) -> tuple[str, ...]:
        pieces = token_pieces(model.tokenizer, ids)
        return tuple(
            str(model.tokenizer.decode([token])) if token in special else piece
            for token, piece in zip(ids, pieces, strict=True)
        )

    return tuple(named(list(row)) for row in rows)


def table_of_tokens(
    ids: Sequence[Sequence[int]], texts: Sequence[Sequence[str]], values: Sequence[Tensor], name: str
) -> pd.DataFrame:
    """One row a token: `prompt`, `step`, `token_id`, `token`, and the value under `name`."""
    rows = [
        (prompt, step, token_id, token, float(value))
        for prompt, row in enumerate(zip(ids, texts, values, strict=True))
        for step, (token_id, token, value) in enumerate(zip(*row, strict=True))
    ]
    return pd.DataFrame(rows, columns=["prompt", "step", "token_id", "token", name])
