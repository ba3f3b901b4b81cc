"""The server with one sequence, on a stand-in engine: what it answers, refuses, queues, and stops."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from one_sequence import CountingEngine, events, listening
from serving_bodies import GOOD, bodies, odd_bodies

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.models.prompts import render
from kvsteer_lab.models.tokens import encode
from kvsteer_lab.serving import one_sequence
from kvsteer_lab.serving.admission import PATHS
from kvsteer_lab.serving.catalogue import Catalogue
from kvsteer_lab.serving.one_sequence import OneSequence
from kvsteer_lab.serving.one_sequence_server import ServedFile, build_app
from kvsteer_lab.serving.request import HEADER, NAMES_PATH
from kvsteer_lab.vectors.cards import Card

CHAT, PLAIN = PATHS
OFFSET = 3
PROMPT = [7, 8, 9, 10]


@pytest.fixture(scope="module")
def model() -> kv.Model:
    return kv.load("tiny")


@pytest.fixture(scope="module")
def catalogue(model: kv.Model, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    card = Card(model.name, model.model_type, model.fingerprint, "torch.float32", "post_rope", OFFSET, None, 2)
    ones = torch.ones(model.n_layers, model.n_kv_heads, model.head_dim)
    file = kv.KVVectors(ones, 2 * ones, card).save(tmp_path_factory.mktemp("vectors") / "v.safetensors")
    return Catalogue.load({"stepwise": file}, body_megabytes=1)


def added_sum(catalogue: Catalogue, **asked: Any) -> float:
    keys, values = catalogue.added(catalogue.read(asked))
    return float(keys.sum() + 2 * values.sum())


class Up:
    """A running server, its engine, and a client."""

    def __init__(self, url: str, engine: CountingEngine, sequence: OneSequence) -> None:
        self.url, self.engine, self.sequence = url, engine, sequence
        self.client = httpx.Client(base_url=url, timeout=60)

    def ask(self, path: str = PLAIN, **more: Any) -> httpx.Response:
        about = {"messages": [{"role": "user", "content": "How many?"}]} if path == CHAT else {"prompt": PROMPT}
        body = {**about, "max_tokens": 5, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **more}
        return self.client.post(path, json={k: v for k, v in body.items() if v is not ...})


@pytest.fixture
def up(model: kv.Model, catalogue: Catalogue) -> Iterator[Up]:
    engine = CountingEngine(model.n_tokens)
    sequence = OneSequence(engine, catalogue, range(model.head_dim))
    with listening(build_app(sequence, ServedFile("tiny", model, {"cache": "f32"}))) as url:
        yield Up(url, engine, sequence)


def test_each_request_is_steered_as_it_asks(up: Up, model: kv.Model, catalogue: Catalogue) -> None:
    plain = up.ask()
    (choice,) = plain.json()["choices"]
    assert choice["token_ids"] == up.engine.expected(PROMPT[:-1], PROMPT[-1:], 0, 5) and HEADER not in plain.headers
    assert plain.json()["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    seen = []
    for asked in ({"cv": 0}, {"ck": 0.5, "cv": 4, "layers": [2, 1]}, {"ck": 1, "cv": -2}):
        answer = up.ask(kv_steering={"vectors": "stepwise", **asked})
        (choice,) = answer.json()["choices"]
        total = added_sum(catalogue, vectors="stepwise", **asked)
        assert choice["token_ids"] == up.engine.expected(PROMPT, [OFFSET], total, 5)
        assert answer.headers[HEADER] == catalogue.read({"vectors": "stepwise", **asked}).describe()
        assert choice["finish_reason"] == "length"
        seen.append(tuple(choice["token_ids"]))
    assert len(set(seen)) == 3
    chat = up.ask(CHAT, kv_steering=GOOD).json()
    ids = encode(model.tokenizer, render(model.tokenizer, [{"role": "user", "content": "How many?"}]))
    total = added_sum(catalogue, **GOOD)
    (choice,) = chat["choices"]
    assert choice["token_ids"] == up.engine.expected(ids, [OFFSET], total, 5)
    assert choice["message"]["content"] == model.tokenizer.decode(choice["token_ids"], skip_special_tokens=True)
    metrics = up.client.get("/metrics").text.splitlines()
    assert 'kvsteer:requests_total{vectors="stepwise"} 4' in metrics and "kvsteer:unsteered_requests_total 1" in metrics
    assert "kvsteer:edits_total 3" in metrics and "kvsteer:generated_tokens_total 25" in metrics


def test_several_texts_and_ends(up: Up, model: kv.Model) -> None:
    whole = up.ask(n=2, kv_steering=GOOD).json()["choices"]
    assert [one["index"] for one in whole] == [0, 1] and whole[0]["token_ids"] == whole[1]["token_ids"]
    assert [one["token_ids"] for one in up.ask(n=2).json()["choices"]] == 2 * [
        up.ask().json()["choices"][0]["token_ids"]
    ]
    third = up.ask().json()["choices"][0]["token_ids"][2]
    (ended,) = up.ask(stop_token_ids=[third]).json()["choices"]
    assert len(ended["token_ids"]) == 3 and ended["finish_reason"] == "stop"
    text = up.ask(max_tokens=12).json()["choices"][0]["text"]
    (stopped,) = up.ask(max_tokens=12, stop=[text[4:6]]).json()["choices"]
    assert stopped["text"] == text[: text.index(text[4:6])] and stopped["finish_reason"] == "stop"
    (single,) = up.ask(prompt=[11], n=2).json()["choices"][:1]
    assert single["token_ids"] == up.engine.expected([], [11], 0, 5)
    sampled = [up.ask(temperature=1.5, seed=seed, max_tokens=12, n=2).json()["choices"] for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2] and sampled[0][0]["token_ids"] != sampled[0][1]["token_ids"]
    assert (
        up.ask(temperature=1.5, top_p=0.01, max_tokens=12).json() | {}
        and up.ask(temperature=9, top_k=1).json()["choices"] == up.ask().json()["choices"]
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_says_the_same(up: Up, path: str) -> None:
    for more in ({}, {"kv_steering": GOOD}, {"stop": ["e"], "max_tokens": 40}, {"n": 2}):
        whole = up.ask(path, **more).json()
        body = {"stream": True, "stream_options": {"include_usage": True}, **more}
        answer = up.ask(path, **body)
        *pieces, usage, done = events(answer.iter_lines())
        assert done == "[DONE]" and usage["usage"] == whole["usage"] and usage["choices"] == []
        assert (HEADER in answer.headers) == ("kv_steering" in more)
        assert answer.headers["content-type"].startswith("text/event-stream")
        for choice in whole["choices"]:
            own = [p["choices"][0] for p in pieces if p["choices"][0]["index"] == choice["index"]]
            said = [one["delta"]["content"] if path == CHAT else one["text"] for one in own]
            assert "".join(said) == (choice["message"]["content"] if path == CHAT else choice["text"])
            assert [token for one in own for token in one["token_ids"]] == choice["token_ids"]
            assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"kv_steering": {**GOOD, "vectors": "nope"}}, "this server has stepwise"),
        ({"kv_steering": {**GOOD, "cv": 65}}, "from -64 to 64"),
        ({"kv_steering": {**GOOD, "layers": [4]}}, "layers 0 to 3"),
        ({"kv_steering": GOOD, "use_beam_search": True}, "beam search"),
        ({"extra_body": {"kv_steering": GOOD}}, "at the top"),
        ({"logprobs": 2}, "has no 'logprobs'"),
        ({"presence_penalty": 0.5}, "has no 'presence_penalty'"),
        ({"repetition_penalty": 1.1}, "repetition_penalty: Input should be 1"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 600}, "room for 512"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"n": 17}, "n: Input should be less than or equal to 16"),
        ({"prompt": []}, "one prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [10**6]}, "this model has tokens 0 to"),
        ({"prompt": ...}, "one prompt"),
        ({"messages": [{"role": "user", "content": "x"}]}, "one prompt and no messages"),
        ({"stop": [""]}, "stop"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_in_one_sentence(up: Up, more: dict[str, Any], says: str) -> None:
    answer = up.ask(**more)
    said = answer.json()["error"]["message"]
    assert answer.status_code == 400 and says in said and said.endswith(".") and "\n" not in said
    assert not up.engine.reads
    assert up.ask(presence_penalty=0, logit_bias={}, logprobs=None, user="me").status_code == 200


def test_models_names_and_pages(up: Up) -> None:
    (one,) = up.client.get("/v1/models").json()["data"]
    assert (one["id"], one["max_model_len"], one["cache"]) == ("tiny", 512, "f32")
    assert up.client.get("/health").status_code == 200
    assert up.client.get(NAMES_PATH).json()["vectors"][0]["name"] == "stepwise"
    missing = up.ask(model="other")
    assert missing.status_code == 404 and "has no model 'other', but 'tiny'." in missing.json()["error"]["message"]
    assert up.ask(model="tiny").status_code == 200
    for path in ("/v1/embeddings", "/v1/other"):
        assert up.client.post(path, json={"kv_steering": GOOD}).status_code == 404
    large = up.client.post(PLAIN, json={"prompt": "x" * 1_100_000})
    assert large.status_code == 413


def test_clients_wait_for_one_another(up: Up, catalogue: Catalogue) -> None:
    doses = [None, *({"vectors": "stepwise", "cv": cv} for cv in range(15))]
    alone = [up.ask(kv_steering=one).json()["choices"][0]["token_ids"] for one in doses]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda one: up.ask(kv_steering=one).json()["choices"][0]["token_ids"], 3 * doses))
    assert together == 3 * alone and len({tuple(ids) for ids in alone}) > 10 and up.sequence.waiting == 0


def until(holds: Any) -> None:
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() < begin + 20
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_text(up: Up, stream: bool) -> None:
    up.engine.may_read.clear()
    body = {"prompt": PROMPT, "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{up.url}{PLAIN}", json=body, timeout=0.5)
    up.engine.may_read.set()
    assert up.ask().status_code == 200  # it waited behind the one that has left
    assert up.engine.reads < 100 and up.sequence.waiting == 0


def test_a_stream_that_is_closed_stops(up: Up) -> None:
    body = {"prompt": PROMPT, "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True}
    with up.client.stream("POST", PLAIN, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        up.engine.may_read.clear()
    up.client.close()
    time.sleep(0.3)
    up.engine.may_read.set()
    until(lambda: up.sequence.waiting == 0)
    assert up.engine.reads < 400


def test_too_many_waiting_are_refused(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_sequence, "MOST_WAITING", 2)
    up.engine.may_read.clear()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(up.ask) for _ in range(2)]
        until(lambda: up.sequence.waiting == 2)
        refused = up.ask()
        up.engine.may_read.set()
        assert [job.result().status_code for job in jobs] == [200, 200]
    assert refused.status_code == 503 and refused.json()["error"]["message"].endswith("try again later.")


def test_numbers_that_are_none_are_refused(up: Up) -> None:
    up.engine.broken = True
    for more in ({}, {"stream": True}, {"kv_steering": GOOD}):
        answer = up.ask(**more)
        assert answer.status_code == 400 and "lower the coefficients." in answer.json()["error"]["message"]
    up.engine.broken = False
    assert up.ask().status_code == 200 and up.sequence.waiting == 0


def test_nothing_is_answered_without_the_key(model: kv.Model, catalogue: Catalogue) -> None:
    engine = CountingEngine(model.n_tokens)
    sequence = OneSequence(engine, catalogue, range(model.head_dim))
    with listening(build_app(sequence, ServedFile("tiny", model), "secret")) as url:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            for path in (CHAT, PLAIN):
                assert httpx.post(url + path, json={"kv_steering": 5}, headers=headers).status_code == 401
            for path in ("/v1/models", NAMES_PATH):
                assert httpx.get(url + path, headers=headers).status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200 and not engine.reads
        right = httpx.post(url + PLAIN, json={"prompt": PROMPT}, headers={"authorization": "Bearer secret"})
        assert right.status_code == 200


def test_five_hundred_bodies_are_answered_or_refused(model: kv.Model, catalogue: Catalogue) -> None:
    engine = CountingEngine(model.n_tokens, context=64)
    app = build_app(OneSequence(engine, catalogue, range(model.head_dim)), ServedFile("m", model))
    counts: dict[int, int] = {}

    async def ask(sent: bytes, path: str) -> None:
        pieces, got = [(sent, False)], list[Any]()

        async def receive() -> Any:
            if not pieces:
                await asyncio.sleep(3600)
            piece, more = pieces.pop()
            return {"type": "http.request", "body": piece, "more_body": more}

        async def send(message: Any) -> None:
            got.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(sent)).encode())]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        scope |= {"root_path": "", "scheme": "http", "server": ("127.0.0.1", 1), "http_version": "1.1"}
        await app(scope, receive, send)
        status = got[0]["status"]
        counts[status] = counts.get(status, 0) + 1
        if status != 200:
            said = json.loads(b"".join(one.get("body", b"") for one in got[1:]))["error"]["message"]
            assert status in (400, 404) and len(said) < 600 and "\n" not in said and said.endswith(".")
            assert not any(ord(character) < 32 for character in said)

    async def ask_all() -> None:
        chat = {"model": "m", "messages": [{"role": "user", "content": "How many?"}], "max_tokens": 2}
        for sent in bodies(17, 500, chat):
            await ask(sent, CHAT)
        plain = {"prompt": "How many?", "max_tokens": 2}
        for sent in bodies(18, 500, plain):
            await ask(sent, PLAIN)
        for sent in odd_bodies(chat):
            await ask(sent, CHAT)
        for sent in odd_bodies(plain):
            await ask(sent, PLAIN)

    asyncio.run(ask_all())
    assert sum(counts.values()) > 1400 and counts[200] > 100 and counts[400] > 400
    assert set(counts) <= {200, 400, 404}


def test_an_edit_without_effect_is_not_served(model: kv.Model, catalogue: Catalogue) -> None:
    OneSequence(CountingEngine(model.n_tokens), catalogue, range(model.head_dim)).self_test(PROMPT)
    deaf = OneSequence(CountingEngine(model.n_tokens, deaf=True), catalogue, range(model.head_dim))
    with pytest.raises(ValueError, match=r"The self-test failed: vectors 'stepwise' at ck=4 cv=4 change no logit"):
        deaf.self_test(PROMPT)


def test_the_command_line_tells_the_servers_apart(catalogue: Catalogue, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("KVSTEER_API_KEY", raising=False)
    named = ["--vectors", f"a={catalogue.vectors['stepwise'].path}"]
    llama = ["serve", "--backend", "llama.cpp", "model.gguf", *named]
    for arguments, says in (
        ([*llama, "--", "--port", "1"], r"--port is for vLLM; with --backend llama.cpp leave it out"),
        ([*llama, "--dry-run"], r"--dry-run is for vLLM"),
        ([*llama, "--host", "0.0.0.0"], r"On 0.0.0.0 other machines could ask this server; set KVSTEER_API_KEY"),
        (["serve", "tiny", *named, "--port", "1"], r"--port is for llama.cpp; write vLLM's own flag after --"),
        (["serve", "--backend", "llama.cpp", "tiny", *named], r"llama.cpp serves GGUF files, not tiny"),
    ):
        with pytest.raises(SystemExit, match=says):
            main(arguments)
