"""The second stage of multiple choice: after a finished reply, closing words ask for the letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from .._util.batching import in_batches
from .._util.progress import bar
from ..interventions.base import Intervention
from ..interventions.checks import check_interventions
from ..models.lock import LOCK
from ..models.model import Model
from ..models.prompts import Prompt, as_list
from ..models.tokens import encode
from .outputs import Generation, Generations
from .rows import Row, group_rows
from .scoring import read_rows, rows_under
from .settings import Settings, resolve
from .stopping import cut


@dataclass(frozen=True)
class Choice:
    """What the model says after the closing words.

    Attributes:
        text: the greedy continuation of the closing words, up to an end token.
        letter: the likeliest letter, whatever the text says.
        logprobs: letter -> natural log of its probability among the letters (they sum to one).
        mass: the probability of all letters together; where it is small, the model would have said something else.
    """

    text: str
    letter: str
    logprobs: dict[str, float]
    mass: float


@dataclass(frozen=True)
class Words:
    """The tokens that ask for a letter.

    Attributes:
        closing: the closing words.
        shared: what the tokenizer puts before every letter, a space of its own say; read with the closing words.
        letters: letter -> the token that tells it from the others.
    """

    closing: tuple[int, ...]
    shared: tuple[int, ...]
    letters: dict[str, int]


def elicit(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None,
    texts: Generations,
    *,
    closing: str,
    letters: Sequence[Sequence[str]],
    steered: bool = True,
    max_new_tokens: int = 8,
    chat: bool = True,
    offset: str | int | None = "\n",
    batch_size: int = 64,
    progress: bool = False,
) -> list[Choice]:
    """Put closing words after each reply, and read which letter the model chooses.

    The reply without its end token and the closing words are read from the same edited cache as the reply was, under
    every intervention; replies that were cut are closed all the same. A letter's token is the one that the tokenizer
    gives it after the closing words, after a space unless they end in one. Where the space is a token of its own, it
    belongs to the closing words.

    Args:
        model, prompts, interventions, chat, offset: as they were given to `kv.generate`.
        texts: what it returned.
        closing: the closing words, `"\\nSo the correct choice is"` say.
        letters: per prompt, the letters of its choices.
        steered: `False` reads prompt, reply and closing words without any edit, as the paper's own code does; the same
            tokens, offset included.
        max_new_tokens: how far the closing words are continued.
        batch_size: rows read together; halved where memory runs out.
        progress: whether to show a bar.

    Returns:
        One choice a generated text, in the order of `texts`.

    Raises:
        ValueError: texts of other prompts or interventions, letters that one token can't tell apart, a reply that
            leaves no room in the model's context, or what `kv.generate` refuses; before anything is computed.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-tracking")
        >>> question = task.questions("dev", 1)[0]
        >>> chats = [task.chat(question)]
        >>> texts = kv.generate(model, chats, kv.Nothing(), generation={"max_new_tokens": 8})
        >>> given = dict(closing="\\nSo the correct choice is", letters=[tuple(question.choices)])
        >>> choice = kv.elicit(model, chats, kv.Nothing(), texts, **given)[0]
        >>> choice.letter in question.choices
        True
    """
    given = as_list(prompts)
    methods = {method.label: method for method in check_interventions(model, interventions)}
    settings = resolve(model, {"max_new_tokens": max_new_tokens}, chat=chat)
    _check(given, list(methods), texts, closing, letters)
    asked = {label: rows_under(model, method, given, chat=chat, offset=offset) for label, method in methods.items()}
    known = {key: letter_tokens(model.tokenizer, closing, key) for key in set(map(tuple, letters))}
    rows: list[Row] = []
    words: list[Words] = []
    for g in texts:
        row, asking = asked[g.intervention][g.prompt], known[tuple(letters[g.prompt])]
        reply = g.token_ids[:-1] if g.finish_reason == "eos" else g.token_ids
        tail = (*row.tail, *reply, *asking.closing, *asking.shared)
        plain = Row(row.prompt_ids, tail, (), label=row.label)
        rows.append(replace(row, tail=tail, uses_cache=not row.anew) if steered else plain)
        words.append(asking)
        _check_room(model, rows[-1], g, max_new_tokens)
    found: dict[int, Choice] = {}
    with bar(len(rows), "elicit", "text", progress) as shown:
        for group in group_rows(model, rows):
            alike = _by_length(rows, group, batch_size)
            for batch, choices in in_batches(
                alike, batch_size, lambda b: _choose(model, [rows[i] for i in b], [words[i] for i in b], settings)
            ):
                found.update(zip(batch, choices, strict=True))
                shown.update(len(batch))
    return [found[i] for i in range(len(rows))]


_WINDOW = 4
"""Batches whose rows are sorted by the length of their replies. Padding costs what tokens cost, and so does a prompt in
each further batch that it is in. Of 440 replies of 47 tokens on 20 prompts of 83 (SmolLM2-135M) 48,000 tokens are read,
padding among them, if rows are sorted by prompt alone, 39,000 if all are sorted by length, 36,000 within four batches;
25,700 are there."""


def _by_length(rows: Sequence[Row], group: Sequence[int], batch_size: int) -> list[int]:
    """A group of rows for batches: tails of like length side by side, and a prompt's rows not far apart."""
    width = _WINDOW * max(1, batch_size)
    windows = (group[begin : begin + width] for begin in range(0, len(group), width))
    return [i for window in windows for i in sorted(window, key=lambda i: len(rows[i].tail))]


def letter_tokens(tokenizer: Any, closing: str, letters: Sequence[str]) -> Words:
    """The closing words' tokens, and for each letter the token that follows them.

    Raises:
        ValueError: a letter that melts into the closing words, or two that begin with the same token.
    """
    words = _following(tokenizer, closing)
    space = "" if closing[-1].isspace() else " "
    after = []
    for letter in letters:
        ids = _following(tokenizer, f"{closing}{space}{letter}")
        if ids[: len(words)] != words or len(ids) == len(words):
            raise ValueError(
                f"The choice {letter!r} is not a token of its own after {closing!r}; end the closing words with a whole"
                " word."
            )
        after.append(ids[len(words) :])
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*after, strict=False))
    shared = [column[0] for column in alike][: min(map(len, after)) - 1]
    tokens = {letter: ids[len(shared)] for letter, ids in zip(letters, after, strict=True)}
    if len(set(tokens.values())) < len(letters):
        raise ValueError(
            f"The choices {', '.join(letters)} can't be told apart by one token of this tokenizer; name them by single"
            " letters."
        )
    return Words(tuple(words), tuple(shared), tokens)


def _following(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` where it follows other text: SentencePiece puts a space before a text's first word."""
    stem, both = encode(tokenizer, "a"), encode(tokenizer, f"a{text}")
    return both[len(stem) :] if both[: len(stem)] == stem else encode(tokenizer, text)


def _check(
    prompts: Sequence[Prompt], labels: Sequence[str], texts: Generations, closing: str, letters: Sequence[Sequence[str]]
) -> None:
    if not closing:
        raise ValueError("The closing words are empty; give a text such as '\\nSo the correct choice is'.")
    if len(letters) != len(prompts):
        raise ValueError(
            f"There are {len(prompts)} prompts but letters for {len(letters)}; pass the letters of each prompt's"
            " choices."
        )
    for number, own in enumerate(letters):
        if not own or len(set(own)) < len(own) or not all(own):
            raise ValueError(
                f"The letters of prompt {number} are {list(own)}; every prompt needs letters, each named once."
            )
    for g in texts:
        if g.intervention not in labels:
            raise ValueError(
                f"A text is of {g.intervention!r}, but the interventions are {', '.join(labels)}; pass those that the"
                " texts were made with."
            )
        if g.prompt >= len(prompts):
            raise ValueError(
                f"A text is of prompt {g.prompt}, but there are {len(prompts)}; pass the prompts that the texts were"
                " made from."
            )


def _check_room(model: Model, row: Row, g: Generation, new: int) -> None:
    need = len(row.prompt_ids) + len(row.tail) + new
    if model.context is not None and need > model.context:
        raise ValueError(
            f"Prompt {g.prompt}, its reply under {g.intervention!r} ({len(g.token_ids)} tokens) and the closing words"
            f" need {need} slots, but the context of {model.name} is {model.context}; shorten the prompts or generate"
            " with a lower max_new_tokens."
        )


@torch.no_grad()
def _choose(model: Model, rows: Sequence[Row], words: Sequence[Words], settings: Settings) -> list[Choice]:

    ends = torch.tensor(sorted(settings.eos), dtype=torch.long, device=model.device)
    with LOCK:
        reading = read_rows(model, rows)
        logits = reading.start()[:, -1]
        first = logits.float().log_softmax(-1)
        chosen = [first[i, list(asking.letters.values())].double().cpu() for i, asking in enumerate(words)]
        said = [logits.argmax(-1).to(model.device)]
        ended = torch.isin(said[-1], ends)
        while len(said) < settings.max_new_tokens and not ended.all():
            said.append(reading.read(said[-1][:, None])[:, -1].argmax(-1).to(model.device))
            ended |= torch.isin(said[-1], ends)
    replies = [[t for t in cut(ids, settings.eos) if t not in settings.eos] for ids in torch.stack(said, 1).tolist()]
    return [_read(model, asking, ids, logprobs) for asking, ids, logprobs in zip(words, replies, chosen, strict=True)]


def _read(model: Model, words: Words, ids: list[int], logprobs: Tensor) -> Choice:
    def text(tokens: Sequence[int]) -> str:
        return str(model.tokenizer.decode(list(tokens), skip_special_tokens=True))

    said = text([*words.closing, *words.shared, *ids]).removeprefix(text(words.closing))
    among = logprobs.log_softmax(-1)
    letters = list(words.letters)
    return Choice(
        said, letters[int(among.argmax())], dict(zip(letters, among.tolist(), strict=True)), float(logprobs.exp().sum())
    )
