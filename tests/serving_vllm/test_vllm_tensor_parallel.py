"""Tensor parallelism on two processes of a CPU: each rank edits its own KV heads, and the tokens stay those of
`kv.generate`.

SmolLM2 has 9 heads and 3 KV heads, which two ranks can't share, so a random Llama with even heads is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import random_models
import torch
from vllm_server import KEY, Server

import kvsteer_lab as kv

TWO = ("--tensor-parallel-size", "2", "--distributed-executor-backend", "mp")
SHORT = {"max_new_tokens": 20}
HEADS = {"first": slice(0, 2), "second": slice(2, 4)}
"""KV heads that lie on one rank."""


@dataclass(frozen=True)
class Served:
    """A random model here, the same one behind two ranks, and the vectors that both know."""

    model: kv.Model
    server: Server
    vectors: dict[str, kv.KVVectors]


@pytest.fixture(scope="module")
def served(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, home = tmp_path_factory.mktemp("llama"), tmp_path_factory.mktemp("vectors")
    sizes = dict(hidden_size=256, num_attention_heads=8, num_key_value_heads=4, head_dim=32)
    random_models.build("llama", **sizes).save_pretrained(folder)
    random_models.tokenizer().save_pretrained(folder)
    model = kv.load(folder, dtype=torch.float32)
    assert model.n_kv_heads == 4
    whole = random_models.vectors_for(model)
    vectors = {"whole": whole}
    for name, heads in HEADS.items():
        mask = torch.zeros(4, 1)
        mask[heads] = 1
        vectors[name] = kv.KVVectors(whole.keys * mask, whole.values * mask, whole.card)
    files = {name: home / f"{name}.safetensors" for name in vectors}  # vLLM reads all in a model's folder as weights
    for name, one in vectors.items():
        one.save(files[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
        patch.setenv("KVSTEER_API_KEY", KEY)
        server = Server(folder, files, home / "log", TWO)
        yield Served(model, server, vectors)
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.stop()
        assert not psutil.wait_procs(children, timeout=60)[1]


def methods(vectors: dict[str, kv.KVVectors]) -> list[kv.Intervention]:
    return [
        kv.Nothing(),
        kv.NoOffset(),
        kv.CacheSteering(vectors["whole"], 0, 1, name="values"),
        kv.CacheSteering(vectors["whole"], 0.05, 1, name="both"),
        kv.CacheSteering(vectors["whole"], 0, 2, layers=[3, 1], name="some layers"),
        kv.CacheSteering(vectors["first"], 0, 2, name="first rank"),
        kv.CacheSteering(vectors["second"], 0, 2, name="second rank"),
        kv.CacheSteering(vectors["whole"], 0, 0, name="zero"),
    ]


def test_two_ranks_write_the_tokens_of_the_library(served: Served) -> None:
    """Unsteered and steered by themselves, then mixed; heads of one rank alone change texts, on either rank."""
    model, mixed = served.model, methods(served.vectors)
    backend = kv.backends.Server(served.server.url, served.vectors)
    here = kv.generate(model, random_models.PROMPTS, mixed, generation=SHORT)
    for some in ([mixed[0]], [mixed[3]], mixed):
        there = kv.generate(model, random_models.PROMPTS, some, generation=SHORT, backend=backend)
        labels = {row.intervention for row in there}
        expected = [row for row in here if row.intervention in labels]
        equal = sum(a.token_ids == b.token_ids for a, b in zip(there, expected, strict=True))
        print(f"{model.model_type} on two ranks, {len(some)} interventions: {equal} of {len(expected)} rows equal")
        assert list(there.rows) == expected
    plain = [row.token_ids for row in here.of("baseline")]
    texts = {
        label: [row.token_ids for row in here.of(label)] for label in ("values", "both", "first rank", "second rank")
    }
    changed = {label: sum(a != b for a, b in zip(found, plain, strict=True)) for label, found in texts.items()}
    print(f"texts that steering changes, of {len(plain)}: {changed}")
    assert all(n >= len(plain) - 1 for n in changed.values())
    assert texts["first rank"] != texts["second rank"]  # a rank with the other's heads would be noticed


def test_an_edit_on_two_ranks_is_counted_once(served: Served) -> None:
    before = served.server.metrics()
    asked = {"vectors": "whole", "cv": 1}
    assert served.server.chat([{"role": "user", "content": "Hi"}], asked, 2).status_code == 200
    after = served.server.metrics()
    assert after["kvsteer:requests_total"] - before["kvsteer:requests_total"] == 1
    assert after["kvsteer:edits_total"] - before["kvsteer:edits_total"] == 1


def test_heads_that_two_ranks_cannot_share_are_refused_at_start(
    reference_folder: Path, environment: None, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
        with pytest.raises(AssertionError, match="divisible by tensor parallel size"):
            Server("smollm2-135m", {"stepwise": reference_folder / "stepwise.safetensors"}, tmp_path / "log", TWO)
