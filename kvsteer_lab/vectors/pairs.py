"""Contrastive sets: pairs of prompts that differ in how their examples answer, and in nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .._util.html import Html
from .._util.pair_html import pair_html
from ..models.prompts import check_text, render, template_hash
from ..models.tokens import encode
from ..tasks.base import Chat, Task
from .contrasts import ACT_AS, as_texts, fill, from_instructions, opened, sides
from .few_shot import few_shot_contrasts
from .pairs_file import read_pairs, write_pairs


@dataclass(frozen=True)
class ContrastiveSet:
    """Pairs of rendered prompts. Vectors are read at the last token of each.

    Attributes:
        positive, negative: the rendered texts; pair i is `positive[i]`, `negative[i]`.
        recipe: how the pairs were made (task, style, shots, selection, seed, question ids).
        template_hash: of the chat template that rendered them, `None` for verbatim texts.
        last_token: the text of the token that is extracted, where a tokenizer was at hand.

    Raises:
        ValueError: no pairs, sides of unequal length, an empty string, a pair whose two prompts are the same.

    >>> import kvsteer_lab as kv
    >>> pairs = kv.ContrastiveSet.from_texts(["Step 1: add."], ["The answer is 5."])
    >>> len(pairs)
    1
    """

    positive: tuple[str, ...] = field(repr=False)
    negative: tuple[str, ...] = field(repr=False)
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    template_hash: str | None = None
    last_token: str | None = None

    def __post_init__(self) -> None:
        if len(self.positive) != len(self.negative):
            raise ValueError(
                f"The sides are unequal: {len(self.positive)} positive and {len(self.negative)} negative prompts; pairs"
                " need both."
            )
        if not self.positive:
            raise ValueError("The contrastive set is empty; it needs at least one pair.")
        for side in ("positive", "negative"):
            for index, text in enumerate(getattr(self, side)):
                if not isinstance(text, str) or not text:
                    raise ValueError(f"The {side} prompt of pair {index} is empty; every prompt needs some text.")
                check_text(text, f"The {side} prompt of pair {index}")
        same = [i for i, (p, n) in enumerate(zip(self.positive, self.negative, strict=True)) if p == n]
        if same:
            many = (
                "every pair" if len(same) == len(self) else f"{len(same)} of {len(self)} pairs (the first is {same[0]})"
            )
            cause = (
                "give the two sides different texts"
                if self.template_hash is None
                else f"the chat template (hash {self.template_hash}) may leave out what differs, such as <think> blocks"
                " or what the assistant said; load the model with another template=..."
            )
            raise ValueError(f"The two prompts are the same in {many}, so the vectors would be zero: {cause}.")

    def __len__(self) -> int:
        return len(self.positive)

    def __repr__(self) -> str:
        made = ", ".join(f"{k}={v!r}" for k, v in self.recipe.items() if k != "questions")
        return f"ContrastiveSet({len(self)} pairs, {made})"

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(zip(self.positive, self.negative, strict=True))

    def __getitem__(self, chosen: slice) -> ContrastiveSet:
        """A part of the set, by a slice: `pairs[:10]`."""
        if not isinstance(chosen, slice):
            raise TypeError("Take a part of a contrastive set with a slice, as in pairs[:10].")
        ids = self.recipe.get("questions")
        recipe = {**self.recipe, "questions": ids[chosen]} if ids is not None else self.recipe
        return ContrastiveSet(self.positive[chosen], self.negative[chosen], recipe, self.template_hash, self.last_token)

    # --- builders ---------------------------------------------------------------------------------------------

    @classmethod
    def few_shot(
        cls,
        task: Task,
        tokenizer: Any,
        *,
        style: str,
        against: str = "direct",
        n: int = 100,
        shots: int = 5,
        select: Literal["random", "nearest", "shared"] = "random",
        encoder: str | None = None,
        max_prompt_tokens: int | None = None,
        seed: int = 0,
    ) -> ContrastiveSet:
        """Pairs of few-shot prompts: the same questions, answered in `style` and in `against` (Belitsky et al. 2025).

        Args:
            task: questions come from its extraction split: those that have replies in both styles.
            tokenizer: renders the chats.
            style: how the positive examples answer.
            against: how the negative examples answer.
            n: number of pairs; each ends in another question.
            shots: examples in each prompt.
            select: examples at random for each pair, as in the paper; those whose questions are nearest (the nearest
                last); or the same ones in all pairs, which are read once: far faster, but pairs then share what the
                examples happen to say.
            encoder: for the nearest: a sentence-transformers model by its name; `None`: TF-IDF.
            max_prompt_tokens: both prompts of a pair are kept within so many tokens. The longest example gives way to a
                shorter one, and where there is none, the prompts have fewer examples. The recipe counts the pairs that
                were changed.
            seed: fixes questions and examples.

        Raises:
            ValueError: a style that the task doesn't have, too few questions, an encoder that isn't installed, or a
                question that leaves no room for an example.
        """
        pairs, recipe = few_shot_contrasts(
            task,
            tokenizer,
            style=style,
            against=against,
            n=n,
            shots=shots,
            select=select,
            encoder=encoder,
            max_prompt_tokens=max_prompt_tokens,
            seed=seed,
        )
        return cls.from_chats([p.positive for p in pairs], [p.negative for p in pairs], tokenizer, recipe=recipe)

    @classmethod
    def from_chats(
        cls,
        positive: Sequence[Chat],
        negative: Sequence[Chat],
        tokenizer: Any,
        *,
        recipe: Mapping[str, Any] | None = None,
    ) -> ContrastiveSet:
        """Pairs of chats, rendered with the tokenizer's template and the generation prompt.

        Args:
            positive, negative: the two sides, pair by pair; both end with the user's message.
            tokenizer: the model's, with its chat template.
            recipe: how they were made, for the vectors' card.

        Raises:
            ValueError: no chat template, a role it doesn't know, unequal or empty sides.
        """
        sides = [tuple(render(tokenizer, chat) for chat in side) for side in (positive, negative)]
        last = tokenizer.decode(encode(tokenizer, sides[0][0])[-1:]) if sides[0] else None
        return cls(sides[0], sides[1], recipe or {"made": "from_chats"}, template_hash(tokenizer), last)

    @classmethod
    def from_system_prompts(
        cls,
        positive: str | Sequence[str],
        negative: str | Sequence[str],
        questions: str | Sequence[str],
        tokenizer: Any,
        *,
        style: str | None = None,
    ) -> ContrastiveSet:
        """Pairs that differ in the system message alone: every question under every pair of messages.

        Where the model's template has no system role, the message opens the user's.

        Args:
            positive, negative: system messages, one or several, pair by pair.
            questions: what the user asks.
            tokenizer: the model's, with its chat template.
            style: what the vectors are for; the steering's label says it.

        Raises:
            ValueError: unequal or empty sides, no questions, no chat template.

        Warns:
            UserWarning: a question that is listed twice; it is used once.

        >>> import kvsteer_lab as kv
        >>> tokenizer = kv.load("tiny").tokenizer
        >>> pairs = kv.ContrastiveSet.from_system_prompts("Be brief.", "Be wordy.", ["Why?"], tokenizer, style="brief")
        >>> pairs.recipe["style"], "Be brief." in pairs.positive[0]
        ('brief', True)
        """
        both = sides(positive, negative, "system message")
        asked = as_texts(questions, "question")
        pairs = from_instructions(tokenizer, *both, asked)
        recipe = dict(made="from_system_prompts", style=style, prompts=len(both[0]), asked=len(asked))
        return cls.from_chats([p.positive for p in pairs], [p.negative for p in pairs], tokenizer, recipe=recipe)

    @classmethod
    def from_personas(
        cls,
        positive: str | Sequence[str],
        negative: str | Sequence[str],
        questions: str | Sequence[str],
        tokenizer: Any,
        *,
        template: str = ACT_AS,
        style: str | None = None,
    ) -> ContrastiveSet:
        """Pairs of system messages that ask for two personas: "Act as if you're extremely happy." against "sad".

        Args:
            positive, negative: personas, one or several, pair by pair.
            questions, tokenizer: as in `from_system_prompts`.
            template: the message, with `{persona}` in it.
            style: what the vectors are for; `None`: the first positive persona.

        Raises:
            ValueError: a template without `{persona}`, or what `from_system_prompts` refuses.

        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_personas("happy", "sad", "How are you?", kv.load("tiny").tokenizer)
        >>> pairs.recipe["style"], "extremely sad" in pairs.negative[0]
        ('happy', True)
        """
        happy, sad = sides(positive, negative, "persona")
        told, against = ([fill(template, persona) for persona in side] for side in (happy, sad))
        return cls.from_system_prompts(told, against, questions, tokenizer, style=style or happy[0])

    @classmethod
    def from_openings(
        cls,
        template: str,
        openings: str | Sequence[str],
        tokenizer: Any,
        *,
        positive: str | Sequence[str],
        negative: str | Sequence[str],
        style: str | None = None,
    ) -> ContrastiveSet:
        """Pairs in which two personas have begun the same reply (repeng): the vectors are read at its last token.

        With a chat template the instruction is the user's message and the opening the reply's beginning, which is left
        open. Without one both are plain text, behind the tokenizer's beginning-of-text token where it puts one itself.

        Args:
            template: the instruction, with `{persona}` in it.
            openings: first words of replies, such as "I think that"; white space at their ends is left out.
            tokenizer: the model's.
            positive, negative: personas, one or several, pair by pair.
            style: what the vectors are for; `None`: the first positive persona.

        Raises:
            ValueError: a template without `{persona}`, no openings, unequal sides.

        Warns:
            UserWarning: an opening that is listed twice; it is used once.

        >>> import kvsteer_lab as kv
        >>> made = dict(positive="happy", negative="sad")
        >>> pairs = kv.ContrastiveSet.from_openings("Be {persona}.", ["I am", "We"], kv.load("tiny").tokenizer, **made)
        >>> len(pairs), pairs.positive[0].endswith("I am")
        (2, True)
        """
        happy, sad = sides(positive, negative, "persona")
        begun = as_texts(openings, "opening")
        texts = [
            tuple(opened(tokenizer, fill(template, persona), text) for text in begun for persona in side)
            for side in (happy, sad)
        ]
        recipe = dict(made="from_openings", style=style or happy[0], template=template, openings=len(begun))
        last = tokenizer.decode(encode(tokenizer, texts[0][0])[-1:])
        return cls(texts[0], texts[1], recipe, template_hash(tokenizer), last)

    @classmethod
    def from_texts(cls, positive: Sequence[str], negative: Sequence[str]) -> ContrastiveSet:
        """Pairs of rendered texts, taken verbatim: write special tokens as your template would.

        Raises:
            ValueError: two strings, unequal or empty sides, an empty text.

        Warns:
            UserWarning: the same pair listed twice.
        """
        if isinstance(positive, str) or isinstance(negative, str):
            raise ValueError("Pass two lists of texts, not two strings.")
        if len(set(zip(positive, negative, strict=False))) < min(len(positive), len(negative)):
            warnings.warn("A pair of texts is listed twice and counts for two; list it once.", stacklevel=2)
        return cls(tuple(positive), tuple(negative), {"made": "from_texts"})

    # --- files ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write JSON lines: a header with the recipe, then one pair a line."""
        return write_pairs(path, self.positive, self.negative, self.recipe, self.template_hash, self.last_token)

    @classmethod
    def load(cls, path: str | Path) -> ContrastiveSet:
        """Read a file that `save` wrote.

        Raises:
            ValueError: no such file, a foreign or a truncated one.
        """
        return cls(*read_pairs(path))

    # --- looking ----------------------------------------------------------------------------------------------

    def show(self, index: int = 0) -> Html:
        """One pair side by side: what differs is marked, and so is the token that is extracted.

        Raises:
            ValueError: no such pair.
        """

        if not 0 <= index < len(self):
            raise ValueError(f"There is no pair {index}; this set has pairs 0 to {len(self) - 1}.")
        return Html(pair_html(self.positive[index], self.negative[index], self.last_token))

    def _repr_html_(self) -> str:
        return self.show(0)._repr_html_()
