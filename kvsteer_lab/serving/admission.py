"""What stands before a server: a request's `kv_steering` is checked, and refused with status 400 or handed on.

`Admission` is ASGI middleware. Servers put such middleware outside their authentication, so nothing is read, parsed or
answered here until the server itself asks for the body, which it does once it has let the client in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from .._util.json import read_json
from .._util.text import visible
from .catalogue import Catalogue
from .request import HEADER, KEY, NAMES_PATH, SteeringRequest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PATHS = ("/v1/chat/completions", "/v1/completions")
"""Where steered requests are answered."""
REFUSED = {
    "use_beam_search": "beam search starts each step without it",
    "prompt_embeds": "a prompt needs token ids",
    "prompt_logprobs": "the engine reads one token more than the prompt",
    "kv_transfer_params": "a prompt must be read by this engine itself",
}
"""What a steered request can't have, and why."""
_ALMOST = re.compile(r"[ _]*kv[-_. ]*steering[ _]*", re.IGNORECASE)
"""Names that are meant to be the field's: a server that ignores unknown fields would answer unsteered."""
_MAY_NAME = re.compile(rb"steering|\\u|\0", re.IGNORECASE)
"""In a body that has to be read: the field's name, escapes that may hide it, and UTF-16 or 32, which servers read."""


class Refusal(Exception):
    """A request is refused: a status, and one sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Admission:
    """Middleware that checks steered requests and leaves all others as they are.

    Args:
        app: what is asked once a request is admitted.
        catalogue: the server's vectors; by default those that the environment names.
    """

    def __init__(self, app: App, catalogue: Catalogue | None = None) -> None:
        self.app = app
        self.catalogue = Catalogue.from_environment() if catalogue is None else catalogue

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        if scope["method"] == "GET":
            await self.app(scope, receive, self._with_names(path, send))
            return
        exchange = _Exchange(self.catalogue, path, scope["headers"], receive, send)
        inner = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() != b"content-length"]}
        try:
            await self.app(inner if exchange.may_hold_a_request else scope, exchange.receive, exchange.send)
        except Refusal:
            await exchange.answer_refusal()

    def _with_names(self, path: str, send: Send) -> Send:
        """Answers the listing where the server, having let the client in, knows no such path."""
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and path == NAMES_PATH and message["status"] == 404:
                answered = True
                await send_json(send, 200, self.catalogue.listing())
            elif not answered:
                await send(message)

        return answer


class _Exchange:
    """One request and its response."""

    def __init__(
        self, catalogue: Catalogue, path: str, headers: Sequence[tuple[bytes, bytes]], receive: Receive, send: Send
    ) -> None:
        self.catalogue, self.path = catalogue, path
        self.outer_receive, self.outer_send = receive, send
        kinds = [value.partition(b";")[0].lower() for name, value in headers if name.lower() == b"content-type"]
        self.may_hold_a_request = path in PATHS or not kinds or any(b"json" in kind for kind in kinds)
        self.lengths = [value for name, value in headers if name.lower() == b"content-length"]
        self.read = self.started = self.answered = False
        self.refusal: Refusal | None = None
        self.request: SteeringRequest | None = None

    async def receive(self) -> Message:
        """The body as the server gets it: whole, in one message, `kv_steering` checked."""
        if self.refusal is not None:
            raise self.refusal
        if self.read or not self.may_hold_a_request:
            return await self.outer_receive()
        try:
            body = await self._read_body()
            if body is None:
                return {"type": "http.disconnect"}
            body, self.request = admit(body, self.path, self.catalogue)
        except Refusal as refusal:
            self.refusal = refusal
            raise
        self.read = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """The server's response, with what was added in a header; of a refused request, the refusal."""
        if self.refusal is not None and not self.started:
            await self.answer_refusal()
        elif not self.answered:
            self.started = True
            if message["type"] == "http.response.start" and self.request is not None and message["status"] < 300:
                added = (HEADER.encode(), self.request.describe().encode())
                message = {**message, "headers": [*message.get("headers", ()), added]}
            await self.outer_send(message)

    async def answer_refusal(self) -> None:
        """The one sentence, once."""
        if not self.answered and not self.started and self.refusal is not None:
            self.answered = True
            error = {"message": str(self.refusal), "type": "BadRequestError", "param": KEY, "code": self.refusal.status}
            await send_json(self.outer_send, self.refusal.status, {"error": error})

    async def _read_body(self) -> bytes | None:
        most = self.catalogue.body_megabytes * 10**6
        too_large = Refusal(413, f"The request's body is larger than {self.catalogue.body_megabytes} MB; send less.")
        if any(length.isdigit() and (len(length) > 15 or int(length) > most) for length in self.lengths):
            raise too_large
        pieces, size, more = [], 0, True
        while more:
            message = await self.outer_receive()
            if message["type"] != "http.request":
                return None
            piece = message.get("body", b"")
            pieces.append(piece)
            size, more = size + len(piece), message.get("more_body", False)
            if size > most:
                raise too_large
        return b"".join(pieces)


def admit(body: bytes, path: str, catalogue: Catalogue) -> tuple[bytes, SteeringRequest | None]:
    """A body with its `kv_steering` checked and moved to where the engine finds it.

    Args:
        body: as it was sent.
        path: of the request.
        catalogue: what the server has.

    Returns:
        The body for the server, the very same bytes where nothing was asked for, and what was asked for.

    Raises:
        Refusal: what can't be done as asked.
    """
    if not _MAY_NAME.search(body):
        return body, None
    try:
        value = read_json(body, what="The request's body")
    except ValueError as error:
        if KEY.encode() in body or _names_key(body):
            raise Refusal(400, visible(error, one_line=True)) from error
        return body, None  # the server says itself what is wrong with it
    if not isinstance(value, dict):
        return body, None
    for name, inside in value.items():
        if name != KEY and _ALMOST.fullmatch(name):
            raise Refusal(400, f"The field is called {KEY}, not {visible(name, one_line=True)!r}.")
        if name != KEY and _holds_key(inside):
            raise Refusal(400, f"{KEY} must stand at the top of the request's body, not in {visible(name)[:64]!r}.")
    if value.get(KEY) is None:
        return (json.dumps({k: v for k, v in value.items() if k != KEY}).encode() if KEY in value else body), None
    if path not in PATHS:
        raise Refusal(400, f"{KEY} is served at {' and '.join(PATHS)} only.")
    try:
        request = catalogue.read(value.pop(KEY))
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    for name, why in REFUSED.items():
        if value.get(name) is not None and value[name] is not False:
            raise Refusal(400, f"A steered request can't have {name}: {why}; leave it out.")
    extra = value.get("vllm_xargs")
    if extra is not None and not isinstance(extra, dict):
        raise Refusal(400, "vllm_xargs must be an object; leave it out.")
    value["vllm_xargs"] = {**(extra or {}), KEY: request.model_dump_json()}
    return json.dumps(value).encode(), request


def _holds_key(value: object) -> bool:
    """Whether the field stands anywhere in a value: some paths let a client set what the engine reads, deep inside."""
    if isinstance(value, dict):
        return KEY in value or any(map(_holds_key, value.values()))
    return isinstance(value, list) and any(map(_holds_key, value))


def _names_key(body: bytes) -> bool:
    """Whether a more forgiving reader would find the name anywhere: written with escapes, or in UTF-16."""
    try:
        return KEY in json.dumps(json.loads(body))
    except ValueError:
        return False
    except RecursionError:  # too deep to be looked through
        return True


async def send_json(send: Send, status: int, value: object) -> None:
    """A whole response."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
