"""Worked examples: which of a task's questions are shown before another one, and how they are written as a
chat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..tasks.base import Chat, Question, Task

SPARE = 32
"""How many examples are tried instead of ones that are too long."""


@dataclass(frozen=True)
class WorkedExample:
    """A question and the replies to it that can be shown, by style."""

    question: Question
    replies: Mapping[str, str] = field(repr=False)

    def __len__(self) -> int:
        """Characters of the question and of all replies."""
        return len(self.question.text) + sum(map(len, self.replies.values()))


def worked(task: Task, styles: Sequence[str], seed: int | None) -> list[WorkedExample]:
    """The extraction questions of a task that can be answered in every one of `styles`, in the order of `seed`.

    Raises:
        ValueError: there is none.
    """
    found: list[WorkedExample] = []
    refusal: ValueError | None = None
    for question in task.questions("extraction", None, seed):
        try:
            found.append(WorkedExample(question, {style: task.demonstrate(question, style) for style in styles}))
        except ValueError as error:  # traces cover some questions only
            refusal = error
    if refusal is not None and not found:
        raise refusal
    if not found:
        raise ValueError(f"Task {task.name!r} has no questions for extraction.")
    return found


def shots_chat(task: Task, shots: Sequence[WorkedExample], style: str) -> Chat:
    """The examples as turns of a conversation, answered in `style`; system messages are left to the question that
    follows.
    """
    chat: Chat = []
    for shot in shots:
        chat += [
            *(m for m in task.chat(shot.question) if m["role"] != "system"),
            {"role": "assistant", "content": shot.replies[style]},
        ]
    return chat


def put_before(shots: Sequence[Mapping[str, str]], chat: Chat) -> Chat:
    """The chat with worked examples before it, after its system message if it has one."""
    opening = 1 if chat and chat[0]["role"] == "system" else 0
    return [*chat[:opening], *(dict(m) for m in shots), *chat[opening:]]


def at_random(rng: random.Random, n: int, asked: Sequence[int], shots: int) -> list[list[int]]:
    """For each index in `asked`, distinct other indices below `n`: `shots` to be shown, and some to take instead."""
    first = [_others(rng, n, q, shots) for q in asked]
    spare = [_others(rng, n, q, min(n - 1, shots + SPARE)) for q in asked]
    return [taken + [i for i in more if i not in taken][:SPARE] for taken, more in zip(first, spare, strict=True)]


def shared(rng: random.Random, n: int, asked: Sequence[int]) -> list[list[int]]:
    """The same order of examples for every index in `asked`: all indices below `n` that aren't asked."""
    rest = sorted(set(range(n)) - set(asked))
    rng.shuffle(rest)
    return [rest for _ in asked]


def _others(rng: random.Random, n: int, index: int, k: int) -> list[int]:
    return [i + (i >= index) for i in rng.sample(range(n - 1), k)]


def by_nearness(texts: Sequence[str], asked: Sequence[int], encoder: str | None) -> list[list[int]]:
    """For each index in `asked`, all other indices, the nearest text first.

    Args:
        texts: what is compared, by cosine.
        asked: the indices to rank for.
        encoder: `None` for TF-IDF, or the name of a sentence-transformers model.

    Raises:
        ValueError: an encoder is named, but sentence-transformers isn't installed.
    """
    similarity = _tfidf(texts, asked) if encoder is None else _encoded(texts, asked, encoder)
    return [[int(i) for i in row.argsort()[::-1] if i != q] for q, row in zip(asked, similarity, strict=True)]


def fit(order: Sequence[int], shots: int, size: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """The first `shots` of `order`, but that the prompt fits: the longest gives way to a later, shorter one, or to none
    where there is none.

    Args:
        order: indices of examples, those to be shown first; at most `SPARE` more are tried.
        shots: how many are shown.
        size: how long each example is, by index.
        fits: whether a prompt with these examples fits.

    Returns:
        The examples, new ones last; empty if not even a single one fits.
    """
    kept, spare = list(order[:shots]), list(order[shots : shots + SPARE])
    while kept and not fits(kept):
        longest = max(kept, key=lambda i: size[i])
        kept.remove(longest)
        while spare:
            if size[instead := spare.pop(0)] < size[longest]:
                kept.append(instead)
                break
    return kept


def _tfidf(texts: Sequence[str], asked: Sequence[int]) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer().fit_transform(texts)
    return (vectors[list(asked)] @ vectors.T).toarray()


def _encoded(texts: Sequence[str], asked: Sequence[int], encoder: str) -> np.ndarray:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"encoder={encoder!r} needs the package sentence-transformers: pip install sentence-transformers, or leave"
            " it out for TF-IDF."
        ) from error
    vectors = np.asarray(SentenceTransformer(encoder).encode(list(texts), normalize_embeddings=True))
    return vectors[list(asked)] @ vectors.T
