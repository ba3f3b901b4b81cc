"""Pretrained models for these tests, from the cache or fetched once; without either, the tests are left out aloud."""

from __future__ import annotations

import pytest

import kvsteer_lab as kv


def load_or_skip(name: str) -> kv.Model:
    """The model; where it can't be had, a skip that says why."""
    try:
        return kv.load(name)
    except OSError as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture(scope="session")
def smollm2() -> kv.Model:
    """SmolLM2-135M-Instruct: a chat model, 30 layers, 3 KV heads."""
    return load_or_skip("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3() -> kv.Model:
    """Gemma 3 270M: a base model without a chat template, 15 of 18 layers with a window of 512 tokens."""
    return load_or_skip("gemma3-270m")
