"""A server that takes `kv_steering`, on the package's own decoding, for the tests of its client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import kvsteer_lab as kv
from kvsteer_lab.generation.decoding import decode
from kvsteer_lab.generation.rows import Row
from kvsteer_lab.generation.settings import resolve
from kvsteer_lab.serving.request import HEADER, KEY, NAMES_PATH, read_request


@dataclass
class Served:
    """What a server has, and what it was asked."""

    model: kv.Model
    vectors: dict[str, kv.KVVectors]
    steers: bool = True
    limit: float = 64.0
    asked: list[dict[str, Any]] = field(default_factory=list)

    def listing(self) -> dict[str, Any]:
        cards = {name: one.card for name, one in self.vectors.items()}
        named = [dict(name=n, fingerprint=c.fingerprint, offset_id=c.offset_id) for n, c in cards.items()]
        return {"limit": self.limit, "vectors": named}

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        """The answer to a request: status, body, headers."""
        self.asked.append(body)
        ids, tail, deltas, headers = list(body["prompt"]), (), (), dict[str, str]()
        if KEY in body and self.steers:
            try:
                request = read_request(body[KEY], {n: v.n_layers for n, v in self.vectors.items()}, self.limit)
            except ValueError as error:
                return 400, {"error": {"message": str(error)}}, {}
            own = self.vectors[request.vectors]
            steering = kv.CacheSteering(own, request.ck, request.cv, layers=request.layers)
            tail, (deltas,) = (own.card.offset_id,), steering.deltas(self.model, [len(ids)])  # type: ignore[assignment]
            headers[HEADER] = request.describe()
        settings = resolve(
            self.model, {"max_new_tokens": body["max_tokens"], "eos_token_id": body["stop_token_ids"]}, chat=True
        )
        (new,) = decode(self.model, [Row(tuple(ids), tail, deltas)], settings, 0)
        return 200, {"choices": [{"token_ids": new}]}, headers


@contextmanager
def serving(served: Served) -> Iterator[str]:
    """The server's address while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages: dict[str, Any] = {NAMES_PATH: served.listing(), "/v1/models": {"data": [{"id": "smol"}]}}
            found = pages.get(self.path) if served.steers or self.path != NAMES_PATH else None
            self.reply(404 if found is None else 200, found or {"error": {"message": "no such page"}}, {})

        def do_POST(self) -> None:
            self.reply(*served.complete(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def reply(self, status: int, body: Any, headers: dict[str, str]) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
