"""`kvsteer serve`, as a client sees it: the same tokens, refusals, metrics, and a server that outlives bad requests."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from serving_bodies import bodies, odd_bodies
from serving_reference import DOSES
from vllm_server import KEY, Server

from kvsteer_lab.serving.admission import PATHS
from kvsteer_lab.serving.request import HEADER, NAMES_PATH


def wanted(reference: dict[str, Any]) -> list[tuple[Any, Any, Any, list[int]]]:
    """Of each row: chat, ids, what is asked for, expected ids."""
    found = []
    for row in reference["rows"]:
        dose = DOSES[row["dose"]]
        asked = None if dose is None else {"vectors": "stepwise", "ck": dose[0], "cv": dose[1]}
        found.append((reference["chats"][row["prompt"]], reference["prompts"][row["prompt"]], asked, row["ids"]))
    return found


def test_the_printed_command_is_what_runs(server: Server) -> None:
    (first,) = [line for line in server.log.read_text().splitlines() if "KVSTEER_SERVING=" in line]
    assert "SteeringMiddleware" in first and "--api-key ..." in first and "--host 127.0.0.1" in first
    assert KEY not in server.log.read_text()


def test_sixteen_at_a_time_write_the_tokens_of_the_library(server: Server, reference: dict[str, Any]) -> None:
    """Steered and unsteered together; chat, completions and streams. The unsteered baseline reads the offset, too."""

    def ask(number: int) -> tuple[bool, bool]:
        chat, ids, asked, expected = rows[number]
        if asked is None:
            body = {"model": "smol", "prompt": [*ids, reference["offset"]], "temperature": 0, "return_token_ids": True}
            response = server.client.post("/v1/completions", json={**body, "max_tokens": len(expected)})
            return response.json()["choices"][0]["token_ids"] == expected, HEADER not in response.headers
        said = f"stepwise ck={asked['ck']:g} cv={asked['cv']:g}"
        if number % 3 == 0:
            got, header = server.stream(chat, asked, len(expected))
            return got == expected, header == said
        if number % 3 == 1:
            body = {"model": "smol", "prompt": ids, "temperature": 0, "return_token_ids": True, "kv_steering": asked}
            response = server.client.post("/v1/completions", json={**body, "max_tokens": len(expected)})
        else:
            response = server.chat(chat, asked, len(expected))
        return response.json()["choices"][0]["token_ids"] == expected, response.headers[HEADER] == said

    rows = wanted(reference)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(len(rows))))
    steered = sum(row[2] is not None for row in rows)
    print(f"over HTTP, 16 at a time: {sum(ok for ok, _ in found)} of {len(found)} equal, {steered} steered")
    assert all(ok and said for ok, said in found)


def test_aborts_in_mid_stream_leave_others_alone(server: Server, reference: dict[str, Any]) -> None:
    rows = [row for row in wanted(reference) if row[2] is not None]

    def cut(row: Any) -> int:
        body = {"model": "smol", "messages": row[0], "temperature": 0, "max_tokens": 300, "ignore_eos": True}
        with server.client.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": True, "kv_steering": row[2]}
        ) as response:
            for seen, line in enumerate(response.iter_lines()):
                if line and seen > 6:
                    return seen
        return 0

    with ThreadPoolExecutor(16) as pool:
        cuts = [pool.submit(cut, row) for row in rows[:8]]
        others = [pool.submit(server.chat, row[0], row[2], len(row[3])) for row in rows[8:16]]
        assert all(one.result() for one in cuts)
        tokens = [one.result().json()["choices"][0]["token_ids"] for one in others]
    assert tokens == [row[3] for row in rows[8:16]]
    deadline = time.time() + 30
    while server.metrics()["vllm:num_requests_running"] and time.time() < deadline:
        time.sleep(0.5)
    assert server.metrics()["vllm:num_requests_running"] == 0
    print(f"8 streams cut off, {len(tokens)} of {len(tokens)} others equal")


def test_five_hundred_bodies_and_the_server_lives(server: Server, reference: dict[str, Any]) -> None:
    chat, ids, asked, expected = next(row for row in wanted(reference) if row[2] is not None)
    top = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}

    plain = {"model": "smol", "prompt": ids, "max_tokens": 1, "temperature": 0}
    sent = [(PATHS[0], body) for body in (*bodies(18, 400, top), *odd_bodies(top))]
    sent += [(PATHS[1], body) for body in (*bodies(19, 100, plain), *odd_bodies(plain))]

    def ask(one: tuple[str, bytes]) -> int:
        response = server.client.post(one[0], content=one[1], headers={"content-type": "application/json"})
        if response.status_code == 400 and response.json().get("error", {}).get("param") == "kv_steering":
            assert "\n" not in response.json()["error"]["message"]
        return response.status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, sent))
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(f"{len(sent)} bodies: {counts}")
    assert set(counts) <= {200, 400, 413, 422} and counts[400] > 200 and counts[200] > 20
    assert server.chat(chat, asked, len(expected)).json()["choices"][0]["token_ids"] == expected


def test_one_id_for_several_requests_makes_them_no_one_request(server: Server, reference: dict[str, Any]) -> None:
    """An id that the scheduler knows already would be the next piece of a prompt that is streamed."""
    rows = [row for row in wanted(reference) if row[2] is not None][:6]

    def ask(number: int) -> bool:
        chat, ids, asked, expected = rows[number]
        body = {"model": "smol", "temperature": 0, "max_tokens": len(expected), "return_token_ids": True}
        about = {"messages": chat, "kv_steering": asked} if number % 2 else {"prompt": ids, "kv_steering": asked}
        path = "/v1/chat/completions" if number % 2 else "/v1/completions"
        response = server.client.post(
            path, json={**body, **about, "request_id": "one"}, headers={"x-request-id": "one"}
        )
        return response.json()["choices"][0]["token_ids"] == expected and HEADER in response.headers

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [True] * 6


def test_several_prompts_a_choice_of_texts_and_a_full_context(server: Server, reference: dict[str, Any]) -> None:
    rows = [row for row in wanted(reference) if row[2] == {"vectors": "stepwise", "ck": 0.0, "cv": 8.0}][:3]
    body = {"model": "smol", "temperature": 0, "max_tokens": len(rows[0][3]), "kv_steering": rows[0][2]}
    together = server.client.post(
        "/v1/completions", json={**body, "prompt": [row[1] for row in rows], "return_token_ids": True}
    )
    assert [one["token_ids"] for one in together.json()["choices"]] == [row[3] for row in rows]
    chosen = server.chat(rows[0][0], rows[0][2], 8, structured_outputs={"choice": ["seven", "eight"]})
    assert chosen.json()["choices"][0]["message"]["content"] in ("seven", "eight") and HEADER in chosen.headers
    full = server.client.post("/v1/completions", json={**body, "prompt": (rows[0][1] * 20)[:511], "max_tokens": 1})
    print(f"no room for the offset token: {full.status_code} {full.text[:200]}")
    assert full.status_code in (400, 500)  # since vLLM 0.33 the first; before, its log says why
    again = server.chat(rows[0][0], rows[0][2], len(rows[0][3]))
    assert again.json()["choices"][0]["token_ids"] == rows[0][3]


def test_refusals_and_authentication(server: Server) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    good = {"vectors": "half", "cv": 1}
    assert server.chat(chat, {**good, "cv": 33}, 2).json()["error"]["message"].endswith("from -32 to 32.")
    assert server.chat(chat, good, 2, seed=1, temperature=1.0).status_code == 400
    assert server.chat(chat, good, 2, prompt_logprobs=1).status_code == 400
    assert server.client.post("/v1/chat/completions", content=b"x" * 2_000_000).status_code == 413
    sampled = server.chat(chat, good, 4, n=4, temperature=1.0).json()["choices"]
    assert len(sampled) == 4
    names = [one["name"] for one in server.client.get(NAMES_PATH).json()["vectors"]]
    assert names == ["stepwise", "half"]
    for headers in ({"authorization": "Bearer wrong"}, {}):
        other = httpx.Client(base_url=server.url, headers=headers)
        assert other.get(NAMES_PATH).status_code == 401
        bad = {"model": "smol", "messages": chat, "kv_steering": {"vectors": "nope"}}
        assert other.post("/v1/chat/completions", json=bad).status_code == 401


def test_metrics_stand_beside_those_of_vllm(server: Server) -> None:
    before = server.metrics()
    assert server.chat([{"role": "user", "content": "Hi"}], {"vectors": "half", "cv": 1}, 2).status_code == 200
    time.sleep(0.5)
    after = server.metrics()
    assert after["kvsteer:requests_total"] - before["kvsteer:requests_total"] == 1
    assert after["kvsteer:edits_total"] - before["kvsteer:edits_total"] >= 1
    assert after["kvsteer:edit_seconds_total"] > before["kvsteer:edit_seconds_total"]
    seconds = after["kvsteer:edit_seconds_total"] / after["kvsteer:edits_total"]
    print(f"{after['kvsteer:edits_total']:.0f} edits, {1000 * seconds:.1f} ms each")
    assert "vllm:prefix_cache_hits_total" in after
