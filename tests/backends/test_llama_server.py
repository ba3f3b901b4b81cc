"""`kvsteer serve --backend llama.cpp` on a random GGUF file: the tokens of transformers, checks at start, refusals."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import httpx
import pytest
import random_models
import torch
from gguf_files import write_gguf
from one_sequence import events, listening
from serving_bodies import bodies, odd_bodies

import kvsteer_lab as kv
from kvsteer_lab.models.gguf_header import read_header
from kvsteer_lab.serving.catalogue import Catalogue
from kvsteer_lab.serving.llama_fitting import check_file_fit
from kvsteer_lab.serving.llama_launch import API_KEY, FileServer
from kvsteer_lab.serving.request import HEADER

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp isn't installed (the extra [llama-cpp])"
)
SHORT = {"max_new_tokens": 16}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = kv.load(random_models.build("llama"), random_models.tokenizer())
    return write_gguf(tmp_path_factory.mktemp("gguf") / "random.gguf", random.hf, random.tokenizer)


@pytest.fixture(scope="module")
def model(file: Path) -> kv.Model:
    return kv.load(file)


@pytest.fixture(scope="module")
def vectors(model: kv.Model) -> kv.KVVectors:
    return random_models.vectors_for(model)


def save(vectors: kv.KVVectors, folder: Path) -> Catalogue:
    return Catalogue.load({"stepwise": vectors.save(folder / "v.safetensors")})


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def command(file: Path, path: Path, log: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command as a user starts it, and its address."""
    words = [sys.executable, "-m", "kvsteer_lab.cli", "serve", "--backend", "llama.cpp", str(file)]
    words += ["--vectors", f"stepwise={path}", "--port", str(port), "--context", "512", "--threads", "1"]
    begin, where = time.time(), f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
    try:
        while True:
            assert process.poll() is None and time.time() < begin + 300, log.read_text()[-3000:]
            try:
                if httpx.get(f"{where}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield process, where
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def url(file: Path, vectors: kv.KVVectors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    path = vectors.save(folder / "v.safetensors")
    with command(file, path, folder / "log", free_port()) as (process, where):
        yield where
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    said = (folder / "log").read_text()
    assert f"kvsteer: random at {where}, one sequence at a time" in said and "quantised" not in said


def test_rows_are_those_of_transformers(url: str, model: kv.Model, vectors: kv.KVVectors) -> None:
    methods = [
        kv.Nothing(),
        kv.NoOffset(),
        kv.ForcedPrefix("Step"),
        kv.CacheSteering(vectors, 1, 1, name="both"),
        kv.CacheSteering(vectors, 0, 2, name="values", layers=[1, 3]),
        kv.CacheSteering(vectors, 0, 0, name="zero"),
    ]
    here = kv.generate(model, random_models.PROMPTS, methods, generation=SHORT)
    backend = kv.backends.Server(url, {"stepwise": vectors}, concurrency=8)
    there = kv.generate(model, random_models.PROMPTS, methods, generation=SHORT, backend=backend)
    assert there.rows == here.rows
    for label in ("both", "values"):
        changed = [a.token_ids != b.token_ids for a, b in zip(here.of(label), here.of("baseline"), strict=True)]
        assert any(changed), f"{label} changes nothing, so equality would show nothing"
    metrics = httpx.get(f"{url}/metrics").text
    assert 'kvsteer:requests_total{vectors="stepwise"}' in metrics and "kvsteer:edit_seconds_total 0.0\n" not in metrics


def test_chats_are_those_of_transformers(url: str, model: kv.Model, vectors: kv.KVVectors) -> None:
    methods = [kv.NoOffset(), kv.CacheSteering(vectors, 1, 1)]
    here = kv.generate(model, random_models.PROMPTS, methods, generation=SHORT)

    def ask(row: tuple[str, bool]) -> tuple[list[int], str, str | None]:
        body = {"messages": [{"role": "user", "content": row[0]}], "temperature": 0, "max_tokens": 16}
        body |= {
            "return_token_ids": True,
            **({"kv_steering": {"vectors": "stepwise", "ck": 1, "cv": 1}} if row[1] else {}),
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        (choice,) = answer.json()["choices"]
        return choice["token_ids"], choice["message"]["content"], answer.headers.get(HEADER)

    asked = [(prompt, steered) for steered in (False, True) for prompt in random_models.PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, asked))
    rows = [*here.of("no offset"), *here.of(methods[1].label)]
    assert [list(ids) for ids, _, _ in found] == [list(row.token_ids) for row in rows]
    assert [text for _, text, _ in found] == [row.text for row in rows]
    assert {said for _, _, said in found[len(random_models.PROMPTS) :]} == {"stepwise ck=1 cv=1"}


def test_streams_that_are_cut_off_leave_others_alone(url: str, model: kv.Model, vectors: kv.KVVectors) -> None:
    body = {"prompt": "Why?", "max_tokens": 300, "temperature": 0, "ignore_eos": True, "stream": True}
    body["kv_steering"] = {"vectors": "stepwise", "ck": 1, "cv": 1}

    def cut() -> int:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
            return next(seen for seen, _ in enumerate(answer.iter_lines()) if seen > 4)

    methods = [kv.Nothing(), kv.CacheSteering(vectors, 1, 1)]
    backend = kv.backends.Server(url, {"stepwise": vectors}, concurrency=4)
    before = generated(url)
    with ThreadPoolExecutor(4) as pool:
        cuts = [pool.submit(cut) for _ in range(4)]
        there = kv.generate(model, random_models.PROMPTS, methods, generation=SHORT, backend=backend)
        assert [one.result() for one in cuts] == [5] * 4
    assert there.rows == kv.generate(model, random_models.PROMPTS, methods, generation=SHORT).rows
    assert generated(url) - before < 4 * 300, "a client that has left is answered to the end"


def generated(url: str) -> int:
    """New tokens so far, once no request is open."""
    begin = time.time()
    while "kvsteer:requests_open 0\n" not in (said := httpx.get(f"{url}/metrics").text):
        assert time.time() < begin + 60
        time.sleep(0.1)
    (count,) = [line for line in said.splitlines() if line.startswith("kvsteer:generated_tokens_total ")]
    return int(count.split()[1])


def test_five_hundred_bodies_and_the_server_lives(url: str, model: kv.Model, vectors: kv.KVVectors) -> None:
    """Half of them chats; what is admitted is decoded by llama.cpp itself."""
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}
    asked = [("chat/completions", sent) for sent in bodies(19, 250, chat)]
    plain = {"prompt": "Hi", "max_tokens": 1, "temperature": 0}
    asked += [("completions", sent) for sent in (*bodies(20, 250, plain), *odd_bodies(plain))]
    client, counts = httpx.Client(timeout=120), dict[int, int]()
    for path, sent in asked:
        answer = client.post(f"{url}/v1/{path}", content=sent, headers={"content-type": "application/json"})
        counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
        if answer.status_code == 200 and answer.headers["content-type"].startswith("application/json"):
            assert all(len(choice) > 1 for choice in answer.json()["choices"])
        elif answer.status_code != 200:
            said = answer.json()["error"]["message"]
            assert said.endswith(".") and "\n" not in said and len(said) < 600
    assert set(counts) <= {200, 400, 404} and counts[400] > 200 and counts[200] > 50
    steered = kv.CacheSteering(vectors, 1, 1)
    backend = kv.backends.Server(url, {"stepwise": vectors})
    there = kv.generate(model, random_models.PROMPTS, steered, generation=SHORT, backend=backend)
    assert there.rows == kv.generate(model, random_models.PROMPTS, steered, generation=SHORT).rows


def test_a_file_without_weights_prompts_as_the_whole_model_does(file: Path, model: kv.Model) -> None:
    far = kv.load_weightless(file)
    assert (far.n_layers, far.n_kv_heads, far.head_dim, far.n_tokens) == (
        model.n_layers,
        model.n_kv_heads,
        model.head_dim,
        model.n_tokens,
    )
    assert far.rotary.modes == model.rotary.modes and far.hf.device.type == "meta"
    there = kv.generate(far, random_models.PROMPTS, generation=SHORT, backend=kv.backends.LlamaCpp(file))
    assert there.texts == kv.generate(model, random_models.PROMPTS, generation=SHORT).texts


def test_vectors_must_fit_the_file(file: Path, model: kv.Model, vectors: kv.KVVectors, tmp_path: Path) -> None:
    far = kv.load_weightless(file)

    def check(found: kv.KVVectors, any_weights: bool = False, check_weights: bool = True) -> list[str]:
        named = save(found, tmp_path).vectors
        return check_file_fit(named, far, file, any_weights=any_weights, check_weights=check_weights)

    assert check(vectors) == []
    head, weights, config = vectors.card.fingerprint.split("-")
    other = replace(vectors, card=replace(vectors.card, fingerprint=f"{head}-{'0' * len(weights)}-{config}"))
    with pytest.raises(ValueError, match=r"extracted from other weights .* than those of random\.gguf"):
        check(other)
    assert "other weights" in check(other, any_weights=True)[0]
    assert check(other, check_weights=False) == [
        "The weights of random.gguf weren't compared with those that the vectors were extracted from."
    ]
    with pytest.raises(ValueError, match="offset token 99999"):
        check(replace(vectors, card=replace(vectors.card, offset_id=99999)), check_weights=False)
    with pytest.raises(ValueError, match="3 layers, 2 KV heads"):
        check(kv.KVVectors(vectors.keys[:3], vectors.values[:3], vectors.card), check_weights=False)
    with pytest.raises(ValueError, match="are of a gpt2"):
        check(replace(vectors, card=replace(vectors.card, model_type="gpt2")))


def test_quantised_files_and_caches_say_so(
    model: kv.Model, vectors: kv.KVVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    file = write_gguf(tmp_path / "q8.gguf", model.hf, model.tokenizer, kind=gguf.GGMLQuantizationType.Q8_0)
    assert read_header(file).quantisation == "Q8_0"
    catalogue, said = save(vectors, tmp_path), list[str]()
    with pytest.raises(ValueError, match="other weights"):
        FileServer(str(file), cache="f16", port=0, threads=1).run(catalogue, said.append)
    said.clear()
    FileServer(str(file), cache="f16", port=0, threads=1, any_weights=True).run(catalogue, said.append)
    assert "Its weights are quantised (Q8_0)" in said[0] and "Its cache holds f16" in said[1]
    assert "other weights" in said[2] and said[3].endswith("one sequence at a time")


def test_it_listens_on_this_machine_unless_there_is_a_key(
    file: Path, vectors: kv.KVVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Any, Any]] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: served.append((self.config.host, self.config.app)))
    monkeypatch.delenv(API_KEY, raising=False)
    catalogue = save(vectors, tmp_path)
    with pytest.raises(ValueError, match=r"On 0\.0\.0\.0 other machines could ask this server; set KVSTEER_API_KEY"):
        FileServer(str(file), host="0.0.0.0", port=0, threads=1).run(catalogue, lambda text: None)
    assert not served
    FileServer(str(file), port=0, threads=1).run(catalogue, lambda text: None)
    monkeypatch.setenv(API_KEY, "secret")
    FileServer(str(file), host="0.0.0.0", port=0, threads=1).run(catalogue, lambda text: None)
    assert [host for host, _ in served] == ["127.0.0.1", "0.0.0.0"]
    monkeypatch.undo()
    for (_, app), status in zip(served, (200, 401), strict=True):
        with listening(app) as where:
            assert httpx.get(f"{where}/v1/models").status_code == status
            right = httpx.get(f"{where}/v1/models", headers={"authorization": "Bearer secret"})
            assert right.status_code == 200


def test_an_edit_that_does_nothing_is_not_served(
    file: Path, vectors: kv.KVVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: pytest.fail("it was served"))
    tiny = kv.KVVectors(vectors.keys * 0, torch.full_like(vectors.values, 1e-30), vectors.card)
    with pytest.raises(ValueError, match="The self-test failed: vectors 'stepwise' at ck=4 cv=4 change no logit"):
        FileServer(str(file), port=0, threads=1).run(save(tiny, tmp_path), lambda text: None)


def test_a_stop_ends_requests_as_errors_and_a_start_begins_anew(
    file: Path, vectors: kv.KVVectors, tmp_path: Path
) -> None:
    """A text that runs and one that waits are told so, and the port is free again at once."""
    path, port = vectors.save(tmp_path / "v.safetensors"), free_port()
    body: dict[str, Any] = {"prompt": [5, 6, 7], "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    body["kv_steering"] = {"vectors": "stepwise", "cv": 4}
    seen = list[list[int]]()
    for _ in range(2):
        with command(file, path, tmp_path / "log", port) as (process, where):
            metrics = httpx.get(f"{where}/metrics").text
            assert "kvsteer:edits_total 0" in metrics and "kvsteer:unsteered_requests_total 0" in metrics
            short = httpx.post(f"{where}/v1/completions", json={**body, "max_tokens": 8}, timeout=60)
            seen.append(short.json()["choices"][0]["token_ids"])
            with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=where, timeout=60) as client:
                endless = {**body, "max_tokens": 480, "n": 16}
                with client.stream("POST", "/v1/completions", json={**endless, "stream": True}) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    waiting = pool.submit(httpx.post, f"{where}/v1/completions", json=endless, timeout=60)
                    while "kvsteer:requests_open 2" not in httpx.get(f"{where}/metrics").text:
                        time.sleep(0.05)
                    process.send_signal(signal.SIGTERM)
                    *_, last = events(lines)
                stopped = waiting.result()
            assert process.wait(30) in (0, -signal.SIGTERM)
            assert "is being stopped" in last["error"]["message"] and stopped.status_code == 503
            assert stopped.json()["error"]["message"] == last["error"]["message"]
            assert "Traceback" not in (tmp_path / "log").read_text()
    assert seen[0] == seen[1]


def test_a_taken_port_is_refused_before_anything_is_loaded(
    file: Path, vectors: kv.KVVectors, tmp_path: Path, url: str
) -> None:
    catalogue = save(vectors, tmp_path)
    for port in (int(url.rpartition(":")[2]), 70_000):
        with pytest.raises(
            ValueError, match=rf"Nothing can listen at http://127.0.0.1:{port} \(.*choose another --port"
        ):
            FileServer(str(file), port=port).run(catalogue, lambda text: pytest.fail(text))
