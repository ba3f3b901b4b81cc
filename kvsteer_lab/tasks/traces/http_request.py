"""One HTTP request with a deadline for all of it, however slowly the answer drips in."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx

LARGEST = 32 * 2**20
"""The most bytes of an answer that are read."""


class RequestFailed(Exception):
    """No answer came, or none that could be read.

    Attributes:
        connected: whether something was there that took the request.
    """

    def __init__(self, reason: str, connected: bool = True) -> None:
        super().__init__(reason)
        self.connected = connected


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        status: the HTTP status.
        headers: by name, in any case.
        content: the body, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


def send(method: str, url: str, seconds: float, body: Any = None, token: Callable[[], str] | None = None) -> Answer:
    """Send a request and read the whole answer; may be called from several threads.

    Args:
        method: "GET" or "POST".
        url: where to.
        seconds: the time for all of it: to connect, to send, to wait, and to read.
        body: sent as JSON; `None`: no body.
        token: gives the bearer token, which is put into the header at the last moment; `None`: none is sent.

    Raises:
        RequestFailed: nothing listens there, the time is over, or the answer breaks off or is too long.
    """
    import_anyio()
    failure = _in_a_loop(lambda: _send(method, url, seconds, body, token))
    if isinstance(failure, Answer):
        return failure
    raise failure


async def _send(
    method: str, url: str, seconds: float, body: Any, token: Callable[[], str] | None
) -> Answer | RequestFailed:
    """The answer or what went wrong: a value, so that no traceback keeps the request and its header."""
    try:
        return await asyncio.wait_for(_exchange(method, url, seconds, body, token), seconds)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
        return RequestFailed(_reason(error), connected=False)
    except (TimeoutError, httpx.TimeoutException):
        return RequestFailed(f"no answer within {seconds:g} seconds")
    except httpx.HTTPError as error:
        return RequestFailed(_reason(error))


def _reason(error: BaseException) -> str:
    """What the system says, where it is at the bottom of an error, else the error's own words."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, BaseExceptionGroup):
            below = below.exceptions[0]
        elif isinstance(below, OSError) and below.strerror:
            return os.strerror(below.errno) if below.errno and below.errno > 0 else below.strerror
        else:
            below = below.__cause__ or below.__context__
    return str(error) or type(error).__name__


async def _exchange(
    method: str, url: str, seconds: float, body: Any, token: Callable[[], str] | None
) -> Answer | RequestFailed:
    content = bytearray()
    sent = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    async with (
        httpx.AsyncClient(verify=_certificates(), timeout=seconds) as client,
        client.stream(method, url, content=sent, headers=headers, auth=Bearer(token)) as response,
    ):
        async for part in response.aiter_bytes():
            content += part
            if len(content) > LARGEST:
                return RequestFailed(f"an answer of more than {LARGEST // 2**20} MiB")
        return Answer(response.status_code, dict(response.headers), bytes(content))


class Bearer(httpx.Auth):
    """Puts a token into a request's header at the last moment: nothing else ever holds it."""

    def __init__(self, token: Callable[[], str] | None) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._token is not None and (found := self._token()):
            request.headers["Authorization"] = f"Bearer {found}"
        yield request


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


_LOADING = threading.Lock()
_ANYIO = "anyio._backends._asyncio"


def import_anyio() -> None:
    """Import what httpx would import at its first request, which refuses to be imported where every object has a
    `save`, as nnsight gives them from its import on. Nothing else is done differently.

    >>> import_anyio()
    """
    with _LOADING:
        if _ANYIO in sys.modules:
            return
        given, save = sys.modules.get("nnsight._c"), vars(object).get("save")
        if given is not None and save is not None:
            given.unmount("save")
        try:
            importlib.import_module(_ANYIO)
        finally:
            if given is not None and save is not None:
                given.mount(save, "save")


def _in_a_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine to its end, in a thread of its own where this one has a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(_run(work))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()  # unlike `asyncio.run` it doesn't wait for a name server that doesn't answer
