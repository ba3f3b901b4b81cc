"""`--backend`: the library's texts and tables, decoded elsewhere, from a model whose weights aren't loaded here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from steered_server import Served, serving

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main

PROMPT = "Ann has 3 coins and finds 4. How many?"
STEERED = ("--vectors", "stepwise.safetensors", "--ck", "0", "--cv", "3")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def vectors() -> kv.KVVectors:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)
    return kv.extract(model, pairs, progress=False)


@pytest.fixture
def served(vectors: kv.KVVectors) -> Served:
    return Served(kv.load("tiny"), {"stepwise": vectors})


@pytest.fixture
def backend(served: Served) -> Iterator[str]:
    with serving(served) as url:
        yield f"server:{url}"


@pytest.fixture
def run(
    vectors: kv.KVVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in a folder with vectors; what it prints."""
    monkeypatch.chdir(tmp_path)
    vectors.save("stepwise.safetensors")

    def run(*words: str) -> str:
        main(words)
        return capsys.readouterr().out

    return run


def test_generate_prints_the_same_text(run: Run, served: Served, backend: str) -> None:
    for steering in ((), STEERED):
        asked = ("generate", PROMPT, "--max-new-tokens", "16", *steering)
        assert run(*asked, "--backend", backend) == run(*asked)
    assert ["kv_steering" in body for body in served.asked] == [False, True]


def test_evaluate_prints_the_same_table(run: Run, served: Served, backend: str) -> None:
    asked = ("evaluate", *STEERED, "--controls", "0", "--n", "3", "--max-new-tokens", "12")
    assert run(*asked, "--backend", backend, "--out", "run") == run(*asked)
    assert kv.Run.load("run").identity.texts["backend"] == {"backend": "server", "model": "smol"}


def test_what_a_backend_cannot_do_is_refused(run: Run, served: Served, backend: str) -> None:
    few = ("--n", "2", "--max-new-tokens", "8", "--controls", "2")
    for words, says in [
        (("evaluate", *STEERED, *few, "--backend", backend), "have no name on the server"),
        (("generate", PROMPT, "--backend", "vllm:tiny"), "'vllm:tiny' is no backend; write vllm, server:URL"),
        (("generate", PROMPT, "--backend", "server:http://127.0.0.1:9"), "No server answers at http://127.0.0.1:9"),
    ]:
        with pytest.raises(SystemExit, match=says):
            run(*words)
    assert not served.asked
