"""A behaviour's questions: divided into splits, and as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..tasks.base import ListedTask, Question, Rule, by_hash, content_ids

SHOWN, NOT_SHOWN = "shown", "not shown"
DEV, TEST = 0.3, 0.4  # shares of the questions; each of the others gives several pairs


class BehaviourTask(ListedTask):
    """A behaviour's questions, for `kv.evaluate` and `kv.tune`: a reply is correct if it shows the behaviour."""

    styles: tuple[str, ...] = ()
    max_new_tokens = 48

    def __init__(self, name: str, listed: Mapping[str, Sequence[Question]], rule: Rule) -> None:
        self.name, self._listed, self._rule = name, listed, rule

    @property
    def listed(self) -> Mapping[str, Sequence[Question]]:
        """Split -> its questions."""
        return self._listed

    @property
    def rules(self) -> Mapping[str, Rule]:
        """One rule: whether the reply shows the behaviour."""
        return {"shows": self._rule}

    def read_answer(self, text: str) -> str | None:
        """`"shown"` or `"not shown"`, for behaviours that don't depend on the question."""
        return self._rule(Question("", "", SHOWN), text)


def in_splits(texts: Sequence[str]) -> dict[str, list[Question]]:
    """Questions by split, by a hash of their text.

    Args:
        texts: distinct questions.

    >>> {split: len(found) for split, found in in_splits([f"{i}?" for i in range(100)]).items()}
    {'extraction': 33, 'dev': 22, 'test': 45}
    """
    questions = [Question(i, text, SHOWN) for i, text in zip(content_ids(texts), texts, strict=True)]
    return by_hash(questions, DEV, TEST)
