"""A chat-completions endpoint that speaks OpenAI's protocol: asked politely, again after faults that pass, and never
with a key in a message.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from ..base import Message

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_PAUSE = 60.0
_LONGEST_WAIT = 900.0  # a server that asks for more is not waited for
_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


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
        timeout: seconds without an answer before a request counts as lost.
        retries: how often a request is repeated after a fault that may pass.
        pause: seconds before the first repetition; doubled each time up to a minute, with jitter, and never less than
            `Retry-After` asks for.

    Raises:
        ValueError: an address that is none or that holds a secret, or a setting out of range.
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
                f"base_url={_without_secrets(self.base_url)!r} is no address; write one like"
                " 'http://localhost:8000/v1'."
            )
        if url.userinfo or url.query or url.fragment:
            where = f"{url.scheme}://{url.netloc.decode()}{url.path}"
            raise ValueError(
                f"base_url has a password or parameters behind {where}; keep the key in an environment variable"
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

    def check_reachable(self, client: httpx.Client) -> None:
        """See whether anything answers at all, before there is anything to lose. The key is not sent.

        Raises:
            ConnectionError: nothing answers there.
            ValueError: the key holds characters that can't be sent.
        """
        if not (_key(self.api_key_env).isascii() and _key(self.api_key_env).isprintable()):
            raise ValueError(
                f"The key in the environment variable {self.api_key_env} holds characters that no key has; set it"
                " again."
            )
        try:
            client.get(f"{self.base_url}/models", timeout=min(self.timeout, 10.0))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise ConnectionError(
                f"Nothing answers at {self.base_url} ({_reason(error)}); start the server or correct base_url."
            ) from None
        except httpx.HTTPError:
            return  # something is there; whether it can be talked to, the first question shows

    def complete(self, client: httpx.Client, messages: Sequence[Message], clock: Clock) -> Completion:
        """The reply to one conversation; may be called from several threads.

        Raises:
            ConnectionError: the endpoint refuses the request, or every repetition failed.
            Stopped: the clock ended a pause early.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._ask(client, messages)
            except _Passing as error:
                reason, after = str(error), error.after
            if after is not None and after > _LONGEST_WAIT:
                raise ConnectionError(f"{self.base_url} asks to wait {after:.0f} seconds ({reason}); try again later.")
            if attempt < self.retries and clock.wait(pause_before(attempt, self.pause, after)):
                raise Stopped
        raise ConnectionError(
            f"{self.base_url} gave no usable reply in {self.retries + 1} tries, the last time: {reason}."
        )

    def _ask(self, client: httpx.Client, messages: Sequence[Message]) -> Completion:
        limits = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        body = {
            "model": self.model,
            "messages": list(messages),
            **{name: value for name, value in limits.items() if value is not None},
        }
        try:
            response = client.post(self.url, json=body, timeout=self.timeout, auth=_Bearer(self.api_key_env))
        except httpx.TimeoutException:
            raise _Passing(f"no answer within {self.timeout:g} seconds") from None
        except httpx.HTTPError as error:
            raise _Passing(_reason(error)) from None
        if response.is_success:
            return _read(response)
        status, told = response.status_code, _error_of(response, self.api_key_env)
        if status == 400 and told.get("code") == "content_filter":
            return Completion("", "content_filter")
        if status == 401:
            had = "refused the key in" if _has_key(self.api_key_env) else "wants a key, and there is none in"
            remedy = "put a valid one there, or name another variable with api_key_env"
            raise ConnectionError(
                f"{self.base_url} {had} the environment variable {self.api_key_env} ({status}); {remedy}."
            )
        said = " ".join(str(told.get("message") or "").split())[:200].rstrip(".")
        reason = f"status {status}" + (f" ({said})" if said else "")
        if status in _PASSING and told.get("code") != "insufficient_quota":
            raise _Passing(reason, _retry_after(response))
        raise ConnectionError(
            f"{self.base_url} refused the request with {reason}; correct the address, the model's name or the settings."
        )


class _Bearer(httpx.Auth):
    """Puts the key into a request's header at the last moment: nothing else ever holds it."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _has_key(self.variable):
            request.headers["Authorization"] = f"Bearer {_key(self.variable)}"
        yield request


def _key(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _has_key(variable: str) -> bool:
    return bool(_key(variable))


def pause_before(attempt: int, first: float, after: float | None) -> float:
    """Seconds before repetition `attempt` (counted from 0): doubled each time, with jitter, and no less than the server
    asked for.
    """
    backoff = min(_LONGEST_PAUSE, first * 2**attempt) * random.uniform(0.5, 1.0)
    return max(backoff, after or 0.0)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds asked for by `Retry-After`, which is a number or a date; `None` if it says nothing that can be read."""
    asked = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return None


def _read(response: httpx.Response) -> Completion:
    try:
        body = response.json()
    except ValueError:
        raise _Passing("a reply that is no complete JSON") from None
    try:
        choice = body["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _Passing("a reply without choices[0].message.content") from None
    if not isinstance(text, str | None):
        raise _Passing(f"a reply whose content is a {type(text).__name__} and no text")
    # A lone surrogate can be written in JSON, but not in a file.
    whole = (text or "").encode("utf-8", "replace").decode()
    return Completion(
        _THOUGHTS.sub("", whole, count=1).strip() if whole.lstrip().startswith("<think>") else whole.strip(), reason
    )


def _error_of(response: httpx.Response, variable: str) -> dict[str, Any]:
    """The error that the protocol's servers explain themselves with; some repeat the key there, which is struck out."""
    try:
        error = json.loads(response.text.replace(_key(variable), "***") if _has_key(variable) else response.text)[
            "error"
        ]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _without_secrets(url: object) -> str:
    return re.sub(r"//[^/]*@", "//***@", str(url)).partition("?")[0]
