"""`kvsteer serve`, stopped in the middle of requests and started again."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
from serving_reference import DOSES
from vllm_server import Server

from kvsteer_lab.serving.request import HEADER

ENDLESS = {"ignore_eos": True}


def first_steered(reference: dict[str, Any]) -> tuple[Any, Any, list[int]]:
    """A chat, what is asked for, and the ids that the library writes."""
    row = next(row for row in reference["rows"] if DOSES[row["dose"]])
    ck, cv = DOSES[row["dose"]]
    return reference["chats"][row["prompt"]], {"vectors": "stepwise", "ck": ck, "cv": cv}, row["ids"]


def counters(server: Server) -> dict[str, float]:
    found = server.metrics().items()
    return {name: value for name, value in found if name.startswith("kvsteer:") and name.endswith("_total")}


def test_a_stop_ends_requests_as_errors_and_a_start_begins_anew(server: Server, reference: dict[str, Any]) -> None:
    chat, asked, expected = first_steered(reference)
    assert server.chat(chat, asked, len(expected)).json()["choices"][0]["token_ids"] == expected
    assert counters(server)["kvsteer:requests_total"] >= 1
    children = psutil.Process(server.process.pid).children(recursive=True)

    def whole() -> httpx.Response | httpx.TransportError:
        try:
            return server.chat(chat, asked, 450, **ENDLESS)
        except httpx.TransportError as error:
            return error

    def stream() -> tuple[list[Any], str | None]:
        """Its events as far as they came, and the header."""
        body = {"model": "smol", "messages": chat, "temperature": 0, "max_tokens": 450, "stream": True, **ENDLESS}
        seen, header = list[Any](), None
        try:
            with server.client.stream("POST", "/v1/chat/completions", json={**body, "kv_steering": asked}) as response:
                header = response.headers.get(HEADER)
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        seen.append(line[6:] if line == "data: [DONE]" else json.loads(line[6:]))
                        events.append(1)
        except httpx.TransportError:
            pass
        return seen, header

    events: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        jobs = pool.submit(whole), pool.submit(stream)
        deadline = time.time() + 120
        while len(events) < 8 and time.time() < deadline:
            time.sleep(0.05)
        code = server.stop()
        answer, (seen, header) = jobs[0].result(), jobs[1].result()
    assert header == "stepwise ck=0 cv=4" and len(seen) >= 8
    reasons = [choice["finish_reason"] for one in seen if isinstance(one, dict) for choice in one.get("choices", ())]
    assert not {"stop", "length"} & set(reasons)  # nothing looks like a reply that has ended by itself
    if isinstance(answer, httpx.Response) and answer.status_code == 200:
        (choice,) = answer.json()["choices"]
        assert choice["finish_reason"] == "abort" and answer.headers[HEADER] == "stepwise ck=0 cv=4"
    elif isinstance(answer, httpx.Response):
        assert answer.status_code >= 500
    said = answer.status_code if isinstance(answer, httpx.Response) else type(answer).__name__
    print(f"stopped with exit code {code}; the reply: {said}; the stream: {len(seen)} events, then {seen[-1]!r:.200}")
    _, alive = psutil.wait_procs(children, 30)
    assert not alive  # the engine's processes have ended, too
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", server.port))

    server.start()
    begun = counters(server)
    assert begun and not any(begun.values())  # the self-test's requests aren't counted
    assert server.chat(chat, asked, len(expected)).json()["choices"][0]["token_ids"] == expected
    time.sleep(0.5)
    assert (counters(server)["kvsteer:requests_total"], counters(server)["kvsteer:edits_total"]) == (1, 1)
