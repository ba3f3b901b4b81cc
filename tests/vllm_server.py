"""`kvsteer serve` in processes of its own, for the tests of vLLM."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from kvsteer_lab.serving.request import HEADER

KEY = "a-key-for-this-test"
FLAGS = (
    "--dtype float32 --enforce-eager --max-model-len 512 --block-size 32 --max-num-seqs 16 --served-model-name smol"
    " --disable-uvicorn-access-log --enable-prompt-tokens-details"
).split()


class Server:
    """A running `kvsteer serve` and a client with the key."""

    def __init__(self, model: str | Path, vectors: Mapping[str, Path], log: Path, more: Sequence[str] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.words = [sys.executable, "-m", "kvsteer_lab.cli", "serve", str(model), "--limit", "32", "--body-mb", "1"]
        self.words += [word for name, file in vectors.items() for word in ("--vectors", f"{name}={file}")]
        self.words += ["--", "--port", str(self.port), "--api-key", KEY, *FLAGS, *more]
        self.log, self.environment = log, dict(os.environ)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=300)
        self.start()

    def start(self) -> None:
        """Begin, or begin again after `stop`."""
        begin = time.time()
        with self.log.open("w") as out:
            self.process = subprocess.Popen(self.words, stdout=out, stderr=subprocess.STDOUT, env=self.environment)
        while True:
            assert self.process.poll() is None and time.time() < begin + 900, self.log.read_text()[-3000:]
            try:
                if self.client.get("/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        print(f"up after {time.time() - begin:.0f} s")

    def stop(self) -> int:
        """End it as a service manager does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def chat(self, messages: Any, asked: Any, tokens: int, **more: Any) -> httpx.Response:
        body = {"model": "smol", "messages": messages, "temperature": 0, "max_tokens": tokens, "return_token_ids": True}
        body |= more | ({} if asked is None else {"kv_steering": asked})
        return self.client.post("/v1/chat/completions", json=body)

    def stream(self, messages: Any, asked: Any, n: int) -> tuple[list[int], str | None]:
        body = {"model": "smol", "messages": messages, "temperature": 0, "max_tokens": n, "stream": True}
        body |= {"return_token_ids": True, "kv_steering": asked}
        ids: list[int] = []
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        ids += choice.get("token_ids") or []
        return ids, response.headers.get(HEADER)

    def metrics(self) -> dict[str, float]:
        """The sums of metrics by name, and by name and vectors."""
        found: dict[str, float] = {}
        for line in self.client.get("/metrics").text.splitlines():
            if (parts := re.match(r"([\w:]+)(\{.*\})? ([\d.e+-]+)$", line)) is not None:
                found[parts[1]] = found.get(parts[1], 0) + float(parts[3])
        return found
