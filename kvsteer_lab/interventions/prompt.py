"""Interventions that only add words: an instruction to think, worked examples, or the first words of the answer."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..models.tokens import encode
from ..tasks.base import Chat, Message, Task
from ..vectors.shots import put_before, shots_chat, worked
from .base import Intervention

STEP_BY_STEP = "Let's think step by step."
_COMMON = 0.5  # of the replies: an opening of fewer is hardly a style's


@dataclass(frozen=True)
class CoTPrompt(Intervention):
    """Chain-of-thought prompting: an instruction at the end of the user's last message (Kojima et al. 2022).

    Args:
        text: the instruction.
        name: the label, if it isn't to be "CoT prompt".

    Raises:
        ValueError: a chat without a message of the user; when it is used.

    Example:
        >>> import kvsteer_lab as kv
        >>> kv.CoTPrompt().chat([{"role": "user", "content": "How many?"}])
        [{'role': 'user', 'content': "How many?\\nLet's think step by step."}]
    """

    text: str = STEP_BY_STEP
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or "CoT prompt"

    def chat(self, chat: Chat) -> Chat:
        asked = [i for i, message in enumerate(chat) if message["role"] == "user"]
        if not asked:
            raise ValueError(f"{self.label!r} follows the user's last message, but this chat has none; add one.")
        last = chat[asked[-1]]
        return [*chat[: asked[-1]], {**last, "content": f"{last['content']}\n{self.text}"}, *chat[asked[-1] + 1 :]]


@dataclass(frozen=True)
class ForcedPrefix(Intervention):
    """Give the first words of the answer, and let the unsteered model go on from there.

    The control to beat: if forcing a style's first token does all that steering does, steering may do no more than
    choose that token. The words follow the offset token; they count as part of the answer, not as generated.

    Args:
        text: the words.
        name: the label, if it isn't to be made from the words.

    Raises:
        ValueError: no text; when it is used.

    Example:
        >>> import kvsteer_lab as kv
        >>> (text,) = kv.generate(kv.load("tiny"), "What is 2 + 3?", kv.ForcedPrefix("The answer"))
        >>> text.answer.startswith("The answer")
        True
    """

    text: str
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"forced {self.text!r}"

    @classmethod
    def of_style(cls, task: Task, tokenizer: Any, style: str, tokens: int = 1) -> ForcedPrefix:
        """The words that most of a task's replies in `style` begin with, cut after `tokens` tokens.

        Where fewer than half of them do, these words are hardly the style's, and a warning says so; `commonest` gives
        several openings.

        Args:
            task: whose replies are looked at: up to 200 of its extraction split.
            tokenizer: the model's.
            style: the style.
            tokens: how many tokens are forced.

        Raises:
            ValueError: fewer than one token, no replies in that style, or tokens that end within a character or a word
                that is encoded in another way by itself.

        Warns:
            UserWarning: the commonest opening is that of fewer than half of the replies.

        Example:
            >>> import kvsteer_lab as kv
            >>> task = kv.tasks.get("tiny-arithmetic")
            >>> kv.ForcedPrefix.of_style(task, kv.load("tiny").tokenizer, "stepwise", tokens=2).text
            'Step 1'
        """
        opening, share = openings(task, tokenizer, style, tokens)[0]
        text = tokenizer.decode(opening)
        if tuple(encode(tokenizer, text)) != opening:
            raise ValueError(
                f"The first {tokens} tokens of replies in style {style!r} make {text!r}, which this tokenizer encodes"
                " in another way; ask for more tokens, or pass the words to kv.ForcedPrefix."
            )
        if share < _COMMON:
            warnings.warn(
                f"Only {share:.0%} of the replies in style {style!r} begin with {text!r}, the commonest opening, so it"
                " is hardly the style's; take several as controls: kv.ForcedPrefix.commonest(task, tokenizer, style).",
                stacklevel=2,
            )
        return cls(text)

    @classmethod
    def commonest(cls, task: Task, tokenizer: Any, style: str, k: int = 5, tokens: int = 1) -> list[ForcedPrefix]:
        """The k commonest openings of a task's replies in `style`, the commonest first; each is a control by itself.

        Openings that this tokenizer encodes in another way by themselves are left out, so there may be fewer.

        Args:
            task, tokenizer, style, tokens: as in `of_style`.
            k: how many.

        Returns:
            Forced prefixes whose labels say how many of the replies begin with them.

        Raises:
            ValueError: fewer than one opening or token, or no replies in that style.

        Example:
            >>> import kvsteer_lab as kv
            >>> task = kv.tasks.get("tiny-arithmetic")
            >>> [p.label for p in kv.ForcedPrefix.commonest(task, kv.load("tiny").tokenizer, "stepwise", k=2)]
            ["forced 'Step' (100%)"]
        """
        if k < 1:
            raise ValueError(f"At least 1 opening must be asked for, not {k}.")
        found: list[ForcedPrefix] = []
        for opening, share in openings(task, tokenizer, style, tokens):
            text = tokenizer.decode(opening)
            if tuple(encode(tokenizer, text)) == opening and len(found) < k:
                found.append(cls(text, f"forced {text!r} ({share:.0%})"))
        return found

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        if not isinstance(self.text, str) or not self.text:
            raise ValueError(f"A response prefill needs some text, not {self.text!r}.")
        return super().tail(tokenizer, offset) + encode(tokenizer, self.text)


def openings(task: Task, tokenizer: Any, style: str, tokens: int = 1) -> list[tuple[tuple[int, ...], float]]:
    """The first tokens of a task's replies in a style, the commonest first, each with the share of replies that begin
    so.

    Args:
        task: whose replies are looked at: up to 200 of its extraction split.
        tokenizer: the model's.
        style: the style.
        tokens: how many tokens count as the opening.

    Raises:
        ValueError: fewer than one token, or no replies in that style.

    >>> import kvsteer_lab as kv
    >>> openings(kv.tasks.get("tiny-arithmetic"), kv.load("tiny").tokenizer, "stepwise")[0][1]
    1.0
    """
    if tokens < 1:
        raise ValueError(f"A response prefill needs at least 1 token, not {tokens}.")
    shown = worked(task, (style,), seed=0)[:200]
    counted = Counter(tuple(encode(tokenizer, w.replies[style])[:tokens]) for w in shown)
    return [(opening, count / len(shown)) for opening, count in counted.most_common()]


@dataclass(frozen=True)
class CoTPrefix(Intervention):
    """Chain-of-thought prompting as the paper does it: the assistant's first words, not the user's last (Belitsky et
    al. 2025).

    Args:
        text: the words; they count as part of the answer.
        name: the label, if it isn't to be "CoT prefix".

    Example:
        >>> import kvsteer_lab as kv
        >>> kv.CoTPrefix().label, kv.CoTPrefix().text
        ('CoT prefix', "Let's think step by step.")
    """

    text: str = STEP_BY_STEP
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or "CoT prefix"

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        return ForcedPrefix(self.text).tail(tokenizer, offset)


@dataclass(frozen=True)
class FewShot(Intervention):
    """Worked examples before the question, the same ones before every question.

    Args:
        examples: messages of the user and the assistant in turn, as in a chat.
        name: the label, if it isn't to be made from the number of examples.

    Raises:
        ValueError: no examples, or messages that don't alternate.

    Example:
        >>> import kvsteer_lab as kv
        >>> shot = ({"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"})
        >>> [message["content"] for message in kv.FewShot(shot).chat([{"role": "user", "content": "2 + 2?"}])]
        ['1 + 1?', '2', '2 + 2?']
    """

    examples: tuple[Message, ...] = field(repr=False)
    name: str | None = None

    def __post_init__(self) -> None:
        given = self.examples if isinstance(self.examples, Iterable) else ()
        object.__setattr__(self, "examples", tuple(given))
        roles = [message.get("role") if isinstance(message, Mapping) else None for message in self.examples]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                "Few-shot examples are messages of the user and the assistant in turn, beginning with the user; pass at"
                " least one of each."
            )

    @property
    def label(self) -> str:
        return self.name or f"{len(self.examples) // 2}-shot"

    @classmethod
    def of_style(cls, task: Task, style: str, shots: int = 5, seed: int = 0) -> FewShot:
        """`shots` examples from a task's extraction split, answered in `style`.

        Args:
            task: whose replies are shown.
            style: the style.
            shots: how many.
            seed: which.

        Raises:
            ValueError: fewer than one example, or fewer replies in that style than asked for.

        Example:
            >>> import kvsteer_lab as kv
            >>> kv.FewShot.of_style(kv.tasks.get("tiny-arithmetic"), "stepwise", shots=2).label
            '2-shot stepwise'
        """
        if shots < 1:
            raise ValueError(f"shots must be at least 1, not {shots}.")
        pool = worked(task, (style,), seed)
        if shots > len(pool):
            raise ValueError(
                f"Task {task.name!r} has {len(pool)} questions for extraction with replies in style {style!r}, fewer"
                f" than {shots}; ask for fewer."
            )
        chosen = random.Random(seed).sample(pool, shots)
        return cls(tuple(shots_chat(task, chosen, style)), f"{shots}-shot {style}")

    def chat(self, chat: Chat) -> Chat:
        return put_before(self.examples, chat)
