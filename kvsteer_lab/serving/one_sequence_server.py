"""An OpenAI-compatible server in front of one sequence. `kv_steering` is checked by the same `Admission` as vLLM's."""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..generation.decoding import cut
from ..generation.stopping import StopStrings, read_said
from ..models.model import Model
from ..models.token_texts import text_after
from ..tasks.traces.http_request import import_anyio
from .admission import PATHS, Admission, App, Receive, Refusal, Send, send_json
from .completion import Asked, read_completion
from .one_sequence import Gone, OneSequence

_KINDS = {True: "chat.completion", False: "text_completion"}
_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True)
class ServedFile:
    """What the server says of itself.

    Attributes:
        name: of the model, as clients give it.
        model: renders and tokenises; its weights aren't used.
        about: of the file and its cache, in `/v1/models`.
    """

    name: str
    model: Model
    about: Mapping[str, Any] = field(default_factory=dict)


def build_app(sequence: OneSequence, served: ServedFile, api_key: str | None = None) -> App:
    """The server as an ASGI application.

    Args:
        sequence: decodes.
        served: what the server says of itself.
        api_key: what clients of `/v1` must send; `None`: nothing.
    """
    import_anyio()  # what Starlette runs on
    chat, plain = PATHS

    async def complete(request: Request) -> Response:
        return await _complete(request, sequence, served, chat=request.url.path == chat)

    async def models(request: Request) -> Response:
        one = {"id": served.name, "object": "model", "owned_by": "kvsteer", "max_model_len": sequence.engine.context}
        return JSONResponse({"object": "list", "data": [one | dict(served.about)]})

    async def health(request: Request) -> Response:
        return Response()

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(sequence.metrics(), media_type="text/plain; version=0.0.4")

    routes = [Route(path, complete, methods=["POST"]) for path in (chat, plain)]
    routes += [Route("/v1/models", models), Route("/health", health), Route("/metrics", metrics)]
    app: App = Starlette(routes=routes)
    return Admission(_WithKey(app, api_key), sequence.catalogue)


class _WithKey:
    """Lets clients with the key in, before anything of their request is read."""

    def __init__(self, app: App, api_key: str | None) -> None:
        self.app, self.expected = app, None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.expected is not None and str(scope["path"]).startswith("/v1"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                await send_json(send, 401, {"error": "Unauthorized"})
                return
        await self.app(scope, receive, send)


async def _complete(request: Request, sequence: OneSequence, served: ServedFile, *, chat: bool) -> Response:
    try:
        body = await request.body()
    except ClientDisconnect:
        return Response(status_code=400)
    tails = {name: 1 + len(one.forced) for name, one in sequence.catalogue.vectors.items()}
    try:
        asked = read_completion(body, served.model, served.name, sequence.engine.context, chat=chat, tails=tails)
        tokens = sequence.decode(asked, request.is_disconnected)
        reply = _Reply(asked, served)
        if asked.stream:
            first = await anext(tokens)  # what can't be decoded is still refused with a status
            return StreamingResponse(_events(reply, first, tokens), media_type="text/event-stream")
        async with aclosing(tokens):  # type: ignore[type-var]
            async for number, token in tokens:
                reply.ids[number].append(token)
        return JSONResponse(reply.whole())
    except Refusal as refusal:
        return JSONResponse({"error": _error(refusal)}, refusal.status)
    except Gone:
        return Response(status_code=499)


async def _events(reply: _Reply, first: tuple[int, int], tokens: AsyncIterator[tuple[int, int]]) -> AsyncIterator[str]:
    """A stream's events: what each token adds to its text, why it ended, and how many tokens there were."""

    def event(value: Any) -> str:
        return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"

    try:
        async with aclosing(tokens):  # type: ignore[type-var]
            yield event(reply.piece(*first))
            async for number, token in tokens:
                yield event(reply.piece(number, token))
    except Gone:
        return
    except Refusal as refusal:
        yield event({"error": _error(refusal)})
        return
    if reply.asked.include_usage:
        yield event({**reply.head(".chunk"), "choices": [], "usage": reply.usage()})
    yield event("[DONE]")


def _error(refusal: Refusal) -> dict[str, Any]:
    kind = {404: "NotFoundError", 503: "ServiceUnavailableError"}.get(refusal.status, "BadRequestError")
    return {"message": str(refusal), "type": kind, "param": None, "code": refusal.status}


class _Reply:
    """The texts of one request, in OpenAI's forms."""

    def __init__(self, asked: Asked, served: ServedFile) -> None:
        self.asked, self.served = asked, served
        self.ids: list[list[int]] = [[] for _ in range(asked.n)]
        self.said = [""] * asked.n
        self.created, self.name = int(time.time()), f"{'chatcmpl' if asked.chat else 'cmpl'}-{secrets.token_hex(12)}"

    def head(self, suffix: str = "") -> dict[str, Any]:
        """What every answer begins with."""
        kind = _KINDS[self.asked.chat] + (suffix if self.asked.chat else "")
        return {"id": self.name, "object": kind, "created": self.created, "model": self.served.name}

    def usage(self) -> dict[str, int]:
        """Numbers of tokens, the offset token not among them."""
        prompt, new = len(self.asked.prompt_ids), sum(map(len, self.ids))
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def whole(self) -> dict[str, Any]:
        """The answer to a request without a stream."""
        choices = []
        for number, ids in enumerate(self.ids):
            _, text, reason = read_said(self.asked.settings.stop, self.asked.settings.eos, ids)
            said: dict[str, Any] = {"index": number, "finish_reason": _REASONS[reason]}
            said |= {"message": {"role": "assistant", "content": text}} if self.asked.chat else {"text": text}
            if self.asked.return_token_ids:
                settings = self.asked.settings
                said["token_ids"] = settings.stop.cut(cut(ids, settings.eos))
            choices.append(said)
        return {**self.head(), "choices": choices, "usage": self.usage()}

    def piece(self, number: int, token: int) -> dict[str, Any]:
        """One event of a stream: what a token adds to its text."""
        ids, settings = self.ids[number], self.asked.settings
        begins = not ids
        ids.append(token)
        reason = None
        if token in settings.eos or len(ids) >= settings.max_new_tokens or settings.stop.found(ids):
            _, text, ended = read_said(settings.stop, settings.eos, ids)
            reason = _REASONS[ended]
        else:
            text = known_text(self.served.model.tokenizer, settings.stop, ids)
        new = text[len(self.said[number]) :] if text.startswith(self.said[number]) else ""
        self.said[number] += new
        said: dict[str, Any] = {"index": number, "finish_reason": reason}
        said |= {"delta": {"content": new}} if self.asked.chat else {"text": new}
        if begins and self.asked.chat:
            said["delta"]["role"] = "assistant"
        if self.asked.return_token_ids:
            said["token_ids"] = [token]
        return {**self.head(".chunk"), "choices": [said]}


def known_text(tokenizer: Any, stop: StopStrings, ids: Sequence[int]) -> str:
    """What tokens say, as far as the next ones can't change it: without part of a character at the end, and without
    what may be the beginning of a stop string.

    Args:
        tokenizer: decodes.
        stop: texts that end a reply.
        ids: new tokens so far.
    """
    text = text_after(tokenizer, (), ids).rstrip("\ufffd")
    return text[: len(text) - stop.held_back(text)]
