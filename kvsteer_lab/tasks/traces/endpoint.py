"""A chat-completions endpoint that speaks OpenAI's protocol.

Faults that pass (a busy server, a lost connection) are answered by asking again after a growing pause, and each request
has a deadline for all of it. The key is read from the environment when asking; it is struck out of everything that the
server sends before that is shown or stored.
"""

from __future__ import annotations

import email.utils
import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import httpx

from ..base import Message
from ..thoughts import after_thoughts
from .http_request import Answer, RequestFailed, send
from .secrets import key_in, without_key

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_PAUSE = 60.0
_LONGEST_WAIT = 900.0  # a server that asks for more is not waited for
_TO_GREET = 10.0  # seconds in which anything must answer at all


class Clock(Protocol):
    """What a pause is spent on: `threading.Event`, which ends it early when the run stops."""

    def wait(self, timeout: float) -> bool: ...


class Stopped(Exception):
    """The run was stopped during a pause."""


class _Passing(Exception):
    """A fault that may pass: asking again is worth it."""

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


@dataclass(frozen=True)
class Endpoint:
    """Where and how replies are asked for.

    Args:
        base_url: up to and without `/chat/completions`, as in `http://localhost:8000/v1`.
        model: the model's name there.
        api_key_env: the environment variable that holds the key; it is read when asking, and kept nowhere. Unset: no
            key is sent.
        max_tokens, temperature: sent as they are; `None`: not sent.
        timeout: seconds until a request counts as lost, whatever part of the answer has come by then.
        retries: how often a request is repeated after a fault that may pass.
        pause: seconds before the first repetition; doubled each time up to a minute, with jitter, and never less than
            `Retry-After` asks for.

    Raises:
        ValueError: something that isn't an address, one that holds a secret, or a setting out of range.

    >>> Endpoint("http://localhost:8000/v1/", "my-model").url
    'http://localhost:8000/v1/chat/completions'
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    max_tokens: int | None = 1024
    temperature: float | None = 0.0
    timeout: float = 120.0
    retries: int = 6
    pause: float = 1.0
    url: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except (httpx.InvalidURL, TypeError):
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(
                f"base_url={_without_secrets(self.base_url)!r} is not an address; write one like"
                " 'http://localhost:8000/v1'."
            )
        if url.userinfo or url.query or url.fragment:
            where = f"{url.scheme}://{url.netloc.decode()}{url.path}"
            raise ValueError(
                f"base_url has a password or parameters beside {where}; keep the key in an environment variable"
                " (api_key_env) and leave them out."
            )
        if not self.model:
            raise ValueError("The endpoint needs the name of a model; pass model=.")
        limits = {
            "max_tokens": (self.max_tokens, 1),
            "temperature": (self.temperature, 0),
            "retries": (self.retries, 0),
            "pause": (self.pause, 0),
        }
        for name, (value, least) in limits.items():
            if value is not None and not least <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least {least}, not {value}.")
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be a number of seconds above 0, not {self.timeout}.")
        base = str(url).rstrip("/").removesuffix("/chat/completions")
        object.__setattr__(self, "base_url", base)
        object.__setattr__(self, "url", f"{base}/chat/completions")

    def check_reachable(self) -> None:
        """See whether anything answers at all, before there is anything to lose. The key is not sent.

        Raises:
            ConnectionError: nothing answers there.
            ValueError: the key holds characters that can't be sent.
        """
        key = key_in(self.api_key_env)
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                f"The key in the environment variable {self.api_key_env} holds characters that no key has; set it"
                " again."
            )
        reason = None
        try:
            send("GET", f"{self.base_url}/models", min(self.timeout, _TO_GREET))
        except RequestFailed as error:
            # whether something that is there can be talked to, the first question shows
            reason = None if error.connected else without_key(str(error), key)
        if reason is not None:
            raise ConnectionError(
                f"Nothing answers at {self.base_url} ({reason}); start the server or correct base_url."
            )

    def complete(self, messages: Sequence[Message], clock: Clock) -> Completion:
        """The reply to one conversation; may be called from several threads.

        Raises:
            ConnectionError: the endpoint refuses the request, or every repetition failed.
            Stopped: the clock ended a pause early.
        """
        for attempt in range(self.retries + 1):
            try:
                outcome = self._ask(messages)
            except _Passing as error:
                reason, after = str(error), error.after
            else:
                if isinstance(outcome, Completion):
                    return outcome
                raise outcome
            if after is not None and after > _LONGEST_WAIT:
                raise ConnectionError(f"{self.base_url} asks to wait {after:.0f} seconds ({reason}); try again later.")
            if attempt < self.retries and clock.wait(pause_before(attempt, self.pause, after)):
                raise Stopped
        raise ConnectionError(
            f"{self.base_url} gave no usable reply in {self.retries + 1} tries, the last time: {reason}."
        )

    def _ask(self, messages: Sequence[Message]) -> Completion | ConnectionError:
        """One request: the reply, or the refusal, which the caller raises, so that its traceback doesn't hold the key.

        Raises:
            _Passing: a fault that may pass.
        """
        limits = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        body = {
            "model": self.model,
            "messages": list(messages),
            **{name: value for name, value in limits.items() if value is not None},
        }
        key, failed = key_in(self.api_key_env), None
        try:
            answer = send("POST", self.url, self.timeout, body, partial(key_in, self.api_key_env))
        except RequestFailed as error:
            failed = without_key(str(error), key)
        if failed is not None:
            raise _Passing(failed)
        status = answer.status
        if 200 <= status < 300:
            return _read(answer, key)
        told = _error_of(answer, key)
        if status == 400 and told.get("code") == "content_filter":
            return Completion("", "content_filter")
        if status == 401:
            had = "refused the key in" if key else "wants a key, and there is none in"
            remedy = "put a valid one there, or name another variable with api_key_env"
            return ConnectionError(
                f"{self.base_url} {had} the environment variable {self.api_key_env} ({status}); {remedy}."
            )
        said = " ".join(str(told.get("message") or "").split())[:200].rstrip(".")
        reason = f"status {status}" + (f" ({said})" if said else "")
        if status in _PASSING and told.get("code") != "insufficient_quota":
            raise _Passing(reason, _retry_after(answer.headers))
        return ConnectionError(
            f"{self.base_url} refused the request with {reason}; correct the address, the model's name or the settings."
        )


def pause_before(attempt: int, first: float, after: float | None) -> float:
    """Seconds before repetition `attempt` (counted from 0): doubled each time, with jitter, and no less than the server
    asked for.

    >>> pause_before(3, 1.0, None) <= 8, pause_before(0, 1.0, after=30.0)
    (True, 30.0)
    """
    backoff = min(_LONGEST_PAUSE, first * 2**attempt) * random.uniform(0.5, 1.0)
    return max(backoff, after or 0.0)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds asked for by `Retry-After`, which is a number or a date; `None` if it says nothing that can be read."""
    asked = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _read(answer: Answer, key: str) -> Completion:
    body = _decoded(answer, key)
    if body is None:
        raise _Passing("a reply that can't be read as JSON")
    try:
        choice = body["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _Passing("a reply without choices[0].message.content") from None
    text = _joined(content)
    if text is None:
        raise _Passing(f"a reply whose content is a {type(content).__name__} and no text")
    return Completion(after_thoughts(text).strip(), reason if isinstance(reason, str) else None)


def _joined(content: Any) -> str | None:
    """The text of a message, which some servers send in parts; `None` if it is something else."""
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    if not isinstance(content, str | None):
        return None
    # A lone surrogate can be written in JSON, but not in a file.
    return (content or "").encode("utf-8", "replace").decode()


def _error_of(answer: Answer, key: str) -> dict[str, Any]:
    """The error that the protocol's servers explain themselves with."""
    body = _decoded(answer, key)
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {"message": error}


def _decoded(answer: Answer, key: str) -> Any:
    """The JSON value of an answer with the key struck out; `None` if it isn't JSON."""
    try:
        return without_key(json.loads(answer.content), key)
    except (ValueError, RecursionError):  # the latter: lists within lists within lists
        return None


def _without_secrets(url: object) -> str:
    return re.sub(r"//[^/]*@", "//***@", str(url)).partition("?")[0]
