"""What the tests stand on: a small random Llama with a tokenizer of our own, and the bundled model.

Both come through `kv.load`, the path that users take. Nothing here needs a network or a GPU.
"""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import random_models
import setuptools  # noqa: F401  # quanto imports it late, and it refuses to be where distutils came before
import torch
import transformers

import kvsteer_lab as kv

if TYPE_CHECKING:
    from explorer_bench import Made

    from kvsteer_lab.explorer.explorer import Explorer

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
gc.freeze()  # what was imported stays: the collections that follow an out-of-memory error need not look at it


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE with a ChatML-like template; shared, so never changed by a test."""
    return random_models.tokenizer()


@pytest.fixture(scope="session")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: a random Llama and the tokenizer, written by `save_pretrained`."""
    path = tmp_path_factory.mktemp("checkpoint")
    hf = random_models.build("llama")
    hf.generation_config.eos_token_id = tokenizer.eos_token_id
    hf.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def model(folder: Path) -> kv.Model:
    """The random Llama, loaded back from its folder."""
    return kv.load(folder)


@pytest.fixture(scope="session")
def tiny() -> kv.Model:
    """The bundled model. Its weights may be trained anew: only invariants are asserted of it."""
    return kv.load("tiny")


@pytest.fixture(scope="session")
def vectors(model: kv.Model) -> kv.KVVectors:
    """Random vectors that fit `model`, big enough to change what it says."""
    return random_models.vectors_for(model)


@pytest.fixture(scope="session")
def load_random(tokenizer: Any) -> Callable[[str], kv.Model]:
    """`load_random("gpt2")`: a random model of that architecture, built once a session."""
    known: dict[str, kv.Model] = {}

    def load(name: str) -> kv.Model:
        if name not in known:
            known[name] = kv.load(random_models.build(name), tokenizer)
        return known[name]

    return load


@pytest.fixture(scope="module")
def made(tiny: kv.Model) -> Made:
    """What explorers are made of: the bundled model, a task, pairs and vectors."""
    from explorer_bench import make

    return make(tiny)


@pytest.fixture
def explorer(made: Made, tmp_path: Path) -> Iterator[Explorer]:
    """An explorer that compares the baseline with cache steering, at rest."""
    from explorer_bench import PATIENCE

    state = made.state(arms=("baseline", "cache steering"))
    explorer = kv.explore(made.model, made.vectors, task=made.task, pairs=made.pairs, state=state, folder=tmp_path)
    assert explorer.wait(PATIENCE)
    yield explorer
    explorer.close()
