"""A stand-in for llama.cpp with the same interface, and the server in front of it, on a port of this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn

from kvsteer_lab.serving.admission import App


class CountingEngine:
    """What comes next follows from the tokens so far and from what was added. Two callers at a time are an error.

    Attributes:
        reads: how many times something was read.
        may_read: reading waits until it is set.
    """

    def __init__(self, n_tokens: int, context: int = 512, deaf: bool = False) -> None:
        self.n_tokens, self.context, self.deaf = n_tokens, context, deaf
        self.tokens: list[int] = []
        self.added_sum = 0.0
        self.reads = 0
        self.broken = False
        self.may_read = threading.Event()
        self.may_read.set()
        self._busy = threading.Lock()

    def prefill(self, ids: Sequence[int]) -> None:
        self.tokens, self.added_sum = [], 0.0
        if ids:
            self.read(ids)

    def read(self, ids: Sequence[int]) -> np.ndarray:
        assert self._busy.acquire(blocking=False), "two requests run at a time"
        try:
            assert self.may_read.wait(20)
            self.reads += 1
            self.tokens += ids
            logits = np.full(self.n_tokens, np.nan if self.broken else 0, np.float32)
            logits[self.next_token(self.tokens, self.added_sum)] = 4
            return logits
        finally:
            self._busy.release()

    def next_token(self, tokens: Sequence[int], added_sum: float) -> int:
        return 40 + (sum(i * token for i, token in enumerate(tokens, 3)) + round(added_sum)) % 200

    def state(self) -> bytearray:
        return bytearray(json.dumps([self.tokens, self.added_sum]).encode())

    def restore(self, state: bytearray, length: int) -> None:
        self.tokens, self.added_sum = json.loads(bytes(state))
        assert len(self.tokens) == length

    def added(self, state: bytearray, length: int, keys: np.ndarray, values: np.ndarray) -> bytearray:
        tokens, before = json.loads(bytes(state))
        if not np.isfinite(keys).all():
            raise ValueError("What is added is infinite in an f32 cache; lower the coefficients.")
        more = 0.0 if self.deaf else float(keys.sum() + 2 * values.sum())
        return bytearray(json.dumps([tokens, before + more]).encode())

    def expected(self, cached: Sequence[int], read: Sequence[int], added_sum: float, n: int) -> list[int]:
        """The tokens of a reply."""
        tokens, new = [*cached, *read], list[int]()
        for _ in range(n):
            new.append(self.next_token([*tokens, *new], added_sum))
        return new


@contextmanager
def listening(app: App) -> Iterator[str]:
    """The address of an application while it is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=2))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    begin = time.monotonic()
    while not server.started:
        assert time.monotonic() < begin + 60
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def events(lines: Iterator[str]) -> list[Any]:
    """What a stream of events holds; the last is the text `[DONE]`."""
    found = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in found]
