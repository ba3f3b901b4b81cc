"""A task whose extraction questions are answered by traces."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import replace

from ..base import Chat, Question, Rule, Task, check_task, same_text
from .reading import Trace, Traces


class TracedTask(Task):
    """A task whose extraction questions are those that traces answer; all else is as in the task.

    In a style that the traces have, only they count; in other styles (mostly `"direct"`) the task's own replies do.

    Args:
        task: what is asked and how answers are read.
        traces: replies to some of its extraction questions, found by their id in the task, or else by the question's
            text.

    Raises:
        ValueError: no trace belongs to an extraction question, or one names the id of a question with another text.
    """

    def __init__(self, task: Task, traces: Traces) -> None:
        self.task, self.traces = task, traces
        self.name, self.splits, self.closing = task.name, task.splits, task.closing
        self.max_new_tokens = task.max_new_tokens
        self.styles = tuple(dict.fromkeys((*task.styles, *traces.styles)))
        by_id: dict[str, dict[str, Trace]] = {}
        by_text: dict[str, dict[str, Trace]] = {}
        for trace in traces:
            if trace.id is not None:
                by_id.setdefault(trace.id, {})[trace.style] = trace
            if trace.question is not None:  # also where there is an id: it may be of the traces' own
                by_text.setdefault(same_text(trace.question), {}).setdefault(trace.style, trace)
        self._pool = []
        for question in task.questions("extraction"):
            found = {**by_text.get(same_text(question.text), {}), **by_id.get(question.id, {})}
            if found:
                _check_same(question, found, traces)
                own = {style: reply for style, reply in question.replies.items() if style not in traces.styles}
                self._pool.append(
                    replace(question, replies={**own, **{style: trace.text for style, trace in found.items()}})
                )
        if not self._pool:
            raise ValueError(
                f"None of the {len(traces)} traces from {traces.source} answers an extraction question of task"
                f" {task.name!r}; their 'id' must be a question's id there, or their 'question' its text."
            )

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        if split != "extraction":
            return self.task.questions(split, n, seed)
        found = list(self._pool)
        if seed is not None:
            random.Random(seed).shuffle(found)
        if n is not None and n > len(found):
            raise ValueError(
                f"Traces answer {len(found)} extraction questions of {self.name}, fewer than {n}; ask for fewer."
            )
        return found[:n]

    def read_answer(self, text: str) -> str | None:
        return self.task.read_answer(text)

    @property
    def rules(self) -> Mapping[str, Rule]:
        return self.task.rules

    def chat(self, question: Question) -> Chat:
        return self.task.chat(question)

    def demonstrate(self, question: Question, style: str) -> str:
        if style in question.replies:
            return question.replies[style]
        if style in self.traces.styles:
            raise ValueError(f"No trace answers question {question.id!r} in style {style!r}.")
        return self.task.demonstrate(question, style)

    def is_correct(self, question: Question, text: str) -> bool:
        return self.task.is_correct(question, text)


class TracesTask(Task):
    """A task of traces alone, to extract from: all questions are extraction questions, and there is no rule to read
    answers.

    Args:
        traces: each with its question's text.
        name: the task's name in recipes.

    Raises:
        ValueError: a trace without its question.

    Example:
        >>> import kvsteer_lab as kv
        >>> rows = [{"question": "2 + 3?", "style": "direct", "text": "The answer is 5."}]
        >>> kv.traces.TracesTask(kv.traces.Traces.from_rows(rows)).questions("extraction", 1)[0].text
        '2 + 3?'
    """

    splits = ("extraction",)

    def __init__(self, traces: Traces, name: str = "traces") -> None:
        self.traces, self.name, self.styles = traces, name, traces.styles
        asked: dict[str, Question] = {}
        for trace in traces:
            if trace.question is None:
                raise ValueError(
                    f"The trace of id {trace.id!r} has no 'question'; without a task the question's text is needed."
                )
            key = same_text(trace.question)
            made = asked.get(key) or Question(
                trace.id or hashlib.sha256(key.encode()).hexdigest()[:16], trace.question, trace.answer or ""
            )
            asked[key] = replace(made, replies={**made.replies, trace.style: trace.text})
        self._asked = list(asked.values())

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        if split != "extraction":
            raise ValueError(f"Traces alone have no {split} split; evaluate on a task, kv.tasks.get('gsm8k') say.")
        found = list(self._asked)
        if seed is not None:
            random.Random(seed).shuffle(found)
        if n is not None and n > len(found):
            raise ValueError(f"The traces answer {len(found)} questions, fewer than {n}; ask for fewer.")
        return found[:n]

    def read_answer(self, text: str) -> str | None:
        raise ValueError("Traces alone have no rule to read answers; evaluate on a task, kv.tasks.get('gsm8k') say.")


def with_traces(task: Task | None, traces: Traces) -> Task:
    """A task whose extraction questions are answered by `traces`, for `ContrastiveSet.few_shot`, `FewShot.of_style` and
    the like.

    Args:
        task: what the traces answer; `None`: nothing that is known, so that the traces must bring their questions'
            texts and replies on both sides.
        traces: from `kv.traces.Traces.load` or `kv.traces.write_traces`.

    Raises:
        ValueError: no trace belongs to an extraction question of the task, or (without a task) one has no question.

    >>> rows = [{"question": "What is 2 + 2?", "style": "stepwise", "text": "Step 1: 2 + 2 = 4. The answer is 4."}]
    >>> task = with_traces(None, Traces.from_rows(rows))
    >>> task.questions("extraction")[0].replies["stepwise"]
    'Step 1: 2 + 2 = 4. The answer is 4.'
    """
    if task is None:
        return TracesTask(traces)
    check_task(task)
    return TracedTask(task, traces)


def _check_same(question: Question, found: Mapping[str, Trace], traces: Traces) -> None:
    for trace in found.values():
        if trace.question is not None and same_text(trace.question) != same_text(question.text):
            raise ValueError(
                f"The trace of id {trace.id!r} from {traces.source} answers another question than the one that task has"
                " under this id; leave 'id' out to go by the text."
            )
