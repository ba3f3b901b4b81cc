"""What a task is: questions in disjoint splits, a chat for each, demonstrations in a style, and a score."""

from __future__ import annotations

import hashlib
import random
import unicodedata
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Message = dict[str, str]
"""One turn of a conversation: its `"role"` ("system", "user" or "assistant") and its `"content"`."""
Chat = list[Message]
"""A conversation, in order."""

SPLITS = ("extraction", "dev", "test")


@dataclass(frozen=True)
class Question:
    """One question, its gold answer, and the replies to it that are known.

    Attributes:
        id: stable over runs and machines; the splits hash it.
        text: the user's message.
        answer: the gold answer, as `Task.read_answer` would return it.
        replies: style -> the assistant's whole reply in that style.
        choices: letter (or whatever labels them: some questions have 1 to 4) -> text for a multiple-choice question, in
            the order shown; empty for an open one.

    >>> Question("q1", "What is 2 + 2?", "4", {"direct": "The answer is 4."})
    Question(id='q1', text='What is 2 + 2?', answer='4')
    """

    id: str
    text: str
    answer: str
    replies: Mapping[str, str] = field(default_factory=dict, repr=False)
    choices: Mapping[str, str] = field(default_factory=dict, repr=False)


Rule = Callable[[Question, str], str | None]
"""What reads the answer out of a reply to a question: the answer, or `None` where it finds none."""
Extractor = Rule
"""The former name of `Rule`, kept for one release."""


def split_of(question_id: str, dev: float = 0.15, test: float = 0.15) -> str:
    """The split a question belongs to, by a hash of its id: the same for ever, on any machine.

    Args:
        question_id: the id that is hashed (SHA-256).
        dev: share of the questions in `"dev"`.
        test: share of the questions in `"test"`; the rest is `"extraction"`.

    >>> split_of("q1"), split_of("q1", test=1)
    ('extraction', 'test')
    """
    u = int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8], "big") / 2**64
    return "test" if u < test else "dev" if u < test + dev else "extraction"


class Task(ABC):
    """Questions with gold answers. A new task is a name, its styles, and the two abstract methods.

    >>> class Doubling(Task):
    ...     name, styles = "doubling", ("direct",)
    ...
    ...     def questions(self, split, n=None, seed=None):
    ...         return [Question(str(i), f"{i} + {i}?", str(2 * i), {"direct": f"{2 * i}"}) for i in range(9)][:n]
    ...
    ...     def read_answer(self, text):
    ...         return text.strip(" .") or None
    >>> task = Doubling()
    >>> task.is_correct(task.questions("dev", 2)[1], "2."), list(task.rules)
    (True, ['answer'])
    """

    name: str
    styles: tuple[str, ...]
    """The styles that `demonstrate` can write, `"direct"` among them."""
    splits: tuple[str, ...] = SPLITS
    """The splits that `questions` knows; no question is in two of them."""
    max_new_tokens: int = 128
    """Where replies are cut unless the caller says otherwise; long enough for most of them to end."""
    closing: str | None = None
    """Words that are put after a finished reply, for the model to complete them with its choice; `None`: the answer is
    read in the reply itself.
    """

    @abstractmethod
    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        """`n` distinct questions of a split, in an order fixed by `seed` (`None`: the task's own order).

        Raises:
            ValueError: an unknown split, or more questions asked for than there are.
        """

    @abstractmethod
    def read_answer(self, text: str) -> str | None:
        """The answer that a reply gives, or `None` if it gives none."""

    @property
    def rules(self) -> Mapping[str, Rule]:
        """All rules that read answers, by name: accuracy is computed by the first, the others show how much depends on
        it.
        """
        return {"answer": lambda question, text: self.read_answer(text)}

    extractors = rules
    """The former name of `rules`, kept for one release."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, other in (("rules", "extractors"), ("extractors", "rules")):
            if name in vars(cls) and other not in vars(cls):
                setattr(cls, other, vars(cls)[name])

    def chat(self, question: Question) -> Chat:
        """The conversation that asks the question; it ends with the user's message."""
        return [{"role": "user", "content": question.text}]

    def demonstrate(self, question: Question, style: str) -> str:
        """The assistant's reply to `question` in `style`, for few-shot examples.

        Raises:
            ValueError: the task has no reply in that style.
        """
        if style not in question.replies:
            known = ", ".join(self.styles)
            raise ValueError(f"Task {self.name!r} has no replies in style {style!r}; choose one of: {known}.")
        return question.replies[style]

    def is_correct(self, question: Question, text: str) -> bool:
        """Whether the answer that the main rule reads in the reply is the gold answer.

        >>> import kvsteer_lab as kv
        >>> task = kv.tasks.get("tiny-arithmetic")
        >>> question = task.questions("dev", 1)[0]
        >>> task.is_correct(question, question.replies["stepwise"]), task.is_correct(question, "I don't know.")
        (True, False)
        """
        rule = next(iter(self.rules.values()))
        return rule(question, text) == question.answer


class ListedTask(Task):
    """A task whose questions are listed once and for all, not drawn."""

    @property
    @abstractmethod
    def listed(self) -> Mapping[str, Sequence[Question]]:
        """Split -> its questions, in the task's own order; ids are distinct over all splits."""

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        """`n` questions of a split (`None`: all), in the task's own order or (`seed`) shuffled.

        Raises:
            ValueError: an unknown or an empty split, or more questions asked for than there are.
        """
        check_split(split, self.splits)
        found = list(self.listed[split])
        if not found:
            raise ValueError(
                f"The {split} split of {self.name} is empty; it has questions in:"
                f" {', '.join(s for s in self.splits if self.listed[s])}."
            )
        if n is not None and not 0 <= n <= len(found):
            fewer = f"has {len(found)} questions, fewer than {n}" if n > 0 else f"can't give {n} questions"
            raise ValueError(
                f"The {split} split of {self.name} {fewer}; ask for 0 to {len(found)}, or leave n out for all."
            )
        if seed is not None:
            random.Random(seed).shuffle(found)
        return found[:n]


def same_text(text: str) -> str:
    """The text by which questions are compared: composed characters (NFC), and one space for each run of white space.

    >>> same_text("What is\\n 2 + 2? ") == same_text("What is 2 + 2?")
    True
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def content_ids(texts: Iterable[str]) -> list[str]:
    """An id for each text, made from nothing but the text: a version-5 UUID in the DNS namespace, as in the paper's
    released files.

    A text that occurs again keeps its place: the second one's id ends in "-2", and so on.

    >>> content_ids(["What is 2 + 2?"])
    ['f1d5f6ca-7813-5f2d-badc-34d9b97889f8']
    """
    seen: Counter[str] = Counter()
    ids = []
    for text in texts:
        seen[text] += 1
        ids.append(str(uuid.uuid5(uuid.NAMESPACE_DNS, text)) + (f"-{seen[text]}" if seen[text] > 1 else ""))
    return ids


def by_hash(questions: Iterable[Question], dev: float = 0.15, test: float = 0.15) -> dict[str, list[Question]]:
    """The questions by split, each where `split_of` puts its id. Questions with the same text go where the first of
    them goes, so that none is in two splits.

    >>> twice = [Question("a", "Why?", "1"), Question("b", "Why?", "1")]
    >>> {split: len(found) for split, found in by_hash(twice).items()}
    {'extraction': 2, 'dev': 0, 'test': 0}
    """
    found: dict[str, list[Question]] = {split: [] for split in SPLITS}
    places: dict[str, str] = {}
    for question in questions:
        place = places.setdefault(same_text(question.text), split_of(question.id, dev, test))
        found[place].append(question)
    return found


def check_task(task: object) -> None:
    """Raise a `ValueError` that says where tasks come from, unless `task` is one.

    >>> check_task("gsm8k")
    Traceback (most recent call last):
    ValueError: A task is asked for, not 'gsm8k'; get it with kv.tasks.get('gsm8k').
    """
    if not isinstance(task, Task):
        named = isinstance(task, str)
        found = f"{task!r}" if named else f"something of type {type(task).__name__}"
        remedy = f"get it with kv.tasks.get({task!r})" if named else "get one with kv.tasks.get or kv.tasks.from_frame"
        raise ValueError(f"A task is asked for, not {found}; {remedy}.")


def check_split(split: str, splits: Sequence[str] = SPLITS) -> None:
    """Raise a `ValueError` that names the splits unless `split` is one of them."""
    if split not in splits:
        raise ValueError(f"Unknown split {split!r}; choose one of: {', '.join(splits)}.")
