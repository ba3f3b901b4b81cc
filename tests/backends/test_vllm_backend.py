"""What `kv.backends.VLLM` refuses before vLLM is asked; what it decodes is tested in tests/serving_vllm."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

import kvsteer_lab as kv
from kvsteer_lab.serving.catalogue import IN_PROCESS, VARIABLE, Catalogue


def test_what_needs_no_engine_is_refused_without_one() -> None:
    model, backend = kv.load("tiny"), kv.backends.VLLM("tiny", context=64)
    for method, generation, says in [
        (kv.HideSlot(), {"max_new_tokens": 4}, "hides a slot of the cache, which vLLM can't"),
        (None, {"do_sample": True}, "do_sample can't be done by vLLM"),
        (None, {"max_new_tokens": 64}, r"vLLM has a context of 64; lower max_new_tokens, or make .* context=\d\d\d?\."),
    ]:
        with pytest.raises(ValueError, match=says):
            kv.generate(model, "Why?", method, generation=generation, backend=backend)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_without_vllm_it_says_how_to_get_it() -> None:
    with pytest.raises(ImportError, match=r'vllm isn\'t installed; get it with `pip install "kvsteer-lab\[vllm\]"`'):
        kv.generate(kv.load("tiny"), "Why?", generation={"max_new_tokens": 4}, backend=kv.backends.VLLM("tiny"))


def test_an_engine_in_this_process_begins_without_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, IN_PROCESS)
    catalogue = Catalogue.from_environment()
    assert catalogue.vectors == {} and not catalogue.behind_middleware
    with pytest.raises(ValueError, match="No vectors are named"):
        Catalogue.load({})
