"""A small server that speaks the chat-completions protocol, with faults on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.pings.append(dict(self.headers))
        if self.server.greeting is not None:
            self.server.greeting(self)
            return
        self.reply(404, {"error": {"message": "no such page"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(
                {"path": self.path, "headers": dict(self.headers), "body": body, "at": time.monotonic()}
            )
            fault = self.server.faults.pop(0) if self.server.faults else None
        if fault is not None:
            fault(self)
            return
        text = self.server.answer(body["messages"][-1]["content"])
        self.complete(text)

    def complete(self, text: str | None, finish_reason: str = "stop") -> None:
        self.reply(
            200,
            {
                "object": "chat.completion",
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
            },
        )

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw if cut is None else raw[:cut])
        self.close_connection = cut is not None

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Listens on a free port of this machine while the `with` block lasts."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.faults: list[Fault] = []
        self.greeting: Fault | None = None
        self.asked: list[dict[str, Any]] = []
        self.pings: list[dict[str, str]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


def status(
    code: int, message: str = "busy", headers: dict[str, str] | None = None, error_code: str | None = None
) -> Fault:
    """Refuse with this status and the protocol's error object."""
    return lambda handler: handler.reply(code, {"error": {"message": message, "code": error_code}}, headers)


def raw(body: bytes) -> Fault:
    """Succeed with these bytes."""
    return lambda handler: handler.reply(200, body)


def cut_off(handler: Handler) -> None:
    """Announce more than is sent, and hang up."""
    handler.reply(200, {"choices": [{"message": {"content": "Step 1"}}]}, cut=20)


def hang(seconds: float) -> Fault:
    """Say nothing for a while."""
    return lambda handler: time.sleep(seconds)


def says(text: str | None, finish_reason: str = "stop") -> Fault:
    """Answer something else."""
    return lambda handler: handler.complete(text, finish_reason)


def drip(*, headers: bool, pause: float = 0.02) -> Fault:
    """Send an endless answer, byte by byte: a header that goes on and on, or a body."""

    def send(handler: Handler) -> None:
        begin = b"HTTP/1.1 200 OK\r\n" + (b"X-Long: " if headers else b"Content-Length: 1000000\r\n\r\n")
        handler.close_connection = True
        with contextlib.suppress(OSError):  # the client hangs up
            handler.wfile.write(begin)
            for _ in range(500):
                handler.wfile.write(b"x")
                time.sleep(pause)

    return send


def verbatim(answer: bytes) -> Fault:
    """Send these bytes as the whole answer, status line and headers included."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(answer)

    return send
