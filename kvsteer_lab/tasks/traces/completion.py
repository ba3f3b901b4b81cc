"""What a chat-completions endpoint answered: a reply, or an error that it explains, with the key struck out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..thoughts import after_thoughts
from .http_request import Answer
from .secrets import without_key


class Passing(Exception):
    """A fault that may pass: asking again is worth it.

    Attributes:
        after: the seconds that the server asks to wait, or `None`.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Completion:
    """What the endpoint replied.

    Attributes:
        text: the reply, thoughts between `<think>` tags left out.
        finish_reason: `"stop"`, `"length"`, `"content_filter"`, or whatever the server calls it.
    """

    text: str
    finish_reason: str | None


def read_completion(answer: Answer, key: str) -> Completion:
    """The reply in an answer that was no error.

    Args:
        answer: what the server sent.
        key: struck out of it.

    Raises:
        Passing: the answer is garbled.

    >>> body = b'{"choices": [{"message": {"content": "The answer is 4."}, "finish_reason": "stop"}]}'
    >>> read_completion(Answer(200, {}, body), key="")
    Completion(text='The answer is 4.', finish_reason='stop')
    """
    body = _decoded(answer, key)
    if body is None:
        raise Passing("a reply that can't be read as JSON")
    try:
        choice = body["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Passing("a reply without choices[0].message.content") from None
    text = _joined(content)
    if text is None:
        raise Passing(f"a reply whose content is a {type(content).__name__} and no text")
    return Completion(after_thoughts(text).strip(), reason if isinstance(reason, str) else None)


def _joined(content: Any) -> str | None:
    """The text of a message, which some servers send in parts; `None` if it is something else."""
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(content, str | None):
        return None
    # A lone surrogate can be written in JSON, but not in a file.
    return (content or "").encode("utf-8", "replace").decode()


def read_error(answer: Answer, key: str) -> dict[str, Any]:
    """The error that the protocol's servers explain themselves with; empty if there is none to read.

    >>> read_error(Answer(404, {}, b'{"error": {"message": "no such model"}}'), key="")
    {'message': 'no such model'}
    """
    body = _decoded(answer, key)
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {"message": error}


def _decoded(answer: Answer, key: str) -> Any:
    """The JSON value of an answer with the key struck out; `None` if it isn't JSON."""
    try:
        return without_key(json.loads(answer.content), key)
    except (ValueError, RecursionError):  # the latter: lists within lists within lists
        return None
