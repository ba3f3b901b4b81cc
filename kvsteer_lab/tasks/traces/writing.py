"""Writing traces: a model that is asked over HTTP answers a task's questions in a style, and the replies in which the
task's rule reads the gold answer are kept.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ..._util.progress import bar
from ..base import Question, Task
from ..styles import detect_style
from .completion import Completion
from .endpoint import Endpoint, Stopped
from .instructions import asked, instruction_for
from .journal import KEPT, Journal
from .reading import Traces


def write_traces(
    task: Task,
    style: str,
    out: str | Path,
    *,
    base_url: str,
    model: str,
    n: int = 100,
    seed: int = 0,
    instruction: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    max_tokens: int | None = 1024,
    temperature: float | None = 0.0,
    concurrency: int = 4,
    timeout: float = 120.0,
    retries: int = 6,
    pause: float = 1.0,
    progress: bool = True,
) -> Traces:
    """Let a model at an OpenAI-compatible endpoint answer a task's extraction questions in a style.

    Every reply is written to `out` as it comes, with a verdict: kept if the task's rule reads the gold answer in it,
    else why not. Called again with the same settings it goes on where it stopped and asks nothing twice; a larger `n`
    adds questions. The key is sent to the endpoint, and neither stored nor logged; it is struck out of replies and
    error messages that repeat it. One process at a time writes to a file.

    Args:
        task: whose extraction questions are asked; the chat ends with the instruction.
        style: one of `kvsteer_lab.tasks.styles.STYLES`, or any name with an `instruction` of your own.
        out: the file of JSON lines to write or to go on with.
        base_url: of the endpoint, as in `http://localhost:8000/v1`.
        model: the model's name there.
        n: how many questions are asked; replies that aren't kept count.
        seed: which questions.
        instruction: how to answer, instead of the style's own; the gold answer is told where it holds `{answer}`.
        api_key_env: the environment variable that holds the key; no key is sent where it is unset.
        max_tokens, temperature: as in the protocol; `None` leaves them out, which some models want.
        concurrency: requests at a time.
        timeout: seconds until a request counts as lost, whatever part of the answer has come by then.
        retries: how often a request is repeated after a fault that may pass (429, 5xx, lost or garbled replies).
        pause: seconds before the first repetition, doubled each time with jitter; `Retry-After` is honoured.
        progress: whether to show a bar.

    Returns:
        The traces that were kept, of all that `out` holds; `.rejected` counts the others by verdict.

    Raises:
        ValueError: bad settings, too few questions, a question that can't be sent, or a file of other traces, before
            anything is asked or written; another process that is writing to the file.
        ConnectionError: nothing answers at `base_url`, the key is refused, or a fault doesn't pass. What was answered
            is in `out`.
        KeyboardInterrupt: Ctrl-C; what was asked by then is waited for and kept.

    >>> import kvsteer_lab as kv
    >>> write_traces(kv.tasks.get("tiny-arithmetic"), "stepwise", "t.jsonl", base_url="localhost", model="m")
    Traceback (most recent call last):
    ValueError: base_url='localhost' is not an address; write one like 'http://localhost:8000/v1'.
    """
    if n < 1 or concurrency < 1:
        raise ValueError(f"n and concurrency must be at least 1, not {n} and {concurrency}.")
    endpoint = Endpoint(base_url, model, api_key_env, max_tokens, temperature, timeout, retries, pause)
    told = instruction_for(style, instruction)
    pool = list(task.questions("extraction"))
    if len(pool) < n + 1:
        raise ValueError(
            f"Task {task.name!r} has {len(pool)} extraction questions, too few for {n} traces and one that shows the"
            " answer's form."
        )
    random.Random(seed).shuffle(pool)
    for question in (*pool[:n], pool[-1]):
        _check_characters(question)
    closing = task.demonstrate(pool[-1], "direct")  # never asked itself, whatever n
    prompt = hashlib.sha256(asked(task, pool[-1], told, closing)[-1]["content"].encode()).hexdigest()[:16]
    journal = Journal(
        out,
        dict(
            task=task.name,
            style=style,
            model=model,
            prompt=prompt,
            seed=seed,
            max_tokens=max_tokens,
            temperature=temperature,
        ),
    )
    if _unanswered(journal, pool[:n]):
        endpoint.check_reachable()
        with journal:  # from here on nobody else writes, so what is unanswered now is so until it is asked
            left = _unanswered(journal, pool[:n])
            _ask_and_write(endpoint, task, style, told, closing, left, journal, concurrency, progress)
    return Traces.load(out)


def _ask_and_write(
    endpoint: Endpoint,
    task: Task,
    style: str,
    told: str,
    closing: str,
    questions: Sequence[Question],
    journal: Journal,
    concurrency: int,
    progress: bool,
) -> None:
    """Ask some questions at a time and write each reply as it comes."""
    stop = threading.Event()

    def ask(question: Question) -> Completion:
        if stop.is_set():
            raise Stopped
        return endpoint.complete(asked(task, question, told, closing), stop)

    with (
        bar(len(questions), f"traces in style {style}", "trace", progress) as shown,
        ThreadPoolExecutor(concurrency) as threads,
    ):
        futures = {threads.submit(ask, question): question for question in questions}
        try:
            for future in as_completed(futures):
                journal.append(_row(task, style, futures[future], future.result()))
                shown.update()
        except BaseException as error:
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            _keep_what_came(journal, task, style, futures)
            if isinstance(error, ConnectionError | KeyboardInterrupt):
                told = f"{error} " if isinstance(error, ConnectionError) else "Interrupted: "
                kept = f"{len(journal.ids())} replies are in {journal.path}; the same call goes on from there."
                raise type(error)(f"{told}{kept}") from None
            raise


def _keep_what_came(journal: Journal, task: Task, style: str, futures: Mapping[Future[Completion], Question]) -> None:
    """What was under way has been paid for: it is waited for and written, even after Ctrl-C."""
    written = journal.ids()
    for future, question in futures.items():
        if question.id not in written and not future.cancelled() and future.exception() is None:
            journal.append(_row(task, style, question, future.result()))


def _unanswered(journal: Journal, questions: Sequence[Question]) -> list[Question]:
    asked_before = {row.get("id"): row for row in journal.rows}
    for question in questions:
        was = asked_before.get(question.id, {}).get("question", question.text)
        if was != question.text:
            raise ValueError(
                f"Question {question.id!r} had another text when {journal.path} was begun; choose another file."
            )
    return [question for question in questions if question.id not in asked_before]


def _check_characters(question: Question) -> None:
    try:
        f"{question.id}{question.text}{question.answer}".encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"Question {question.id!r} holds half of a character (a lone surrogate), which can't be sent; mend it."
        ) from None


def _row(task: Task, style: str, question: Question, reply: Completion) -> dict[str, Any]:
    read = next(iter(task.rules.values()))(question, reply.text)
    return dict(
        id=question.id,
        question=question.text,
        answer=question.answer,
        style=style,
        text=reply.text,
        verdict=_verdict(task, question, reply),
        read=read,
        detected=detect_style(reply.text),
        finish_reason=reply.finish_reason,
    )


def _verdict(task: Task, question: Question, reply: Completion) -> str:
    if reply.finish_reason == "content_filter":
        return "filtered"
    if not reply.text:
        return "empty"
    if reply.finish_reason == "length":
        return "truncated"
    return KEPT if task.is_correct(question, reply.text) else "wrong answer"
