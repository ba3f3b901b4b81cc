"""The library of llama.cpp: another version, another layout and none at all are refused in one sentence."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kvsteer_lab._util import extras
from kvsteer_lab.serving import llama_library as module


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    module.llama_library.cache_clear()
    yield
    module.llama_library.cache_clear()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, extras):
        monkeypatch.setattr(place, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"xllamacpp isn't installed; get it with .*kvsteer-lab\[llama-cpp\]"):
        module.llama_library()


def test_structures_that_lie_elsewhere_are_refused() -> None:
    context = module.ContextParameters(n_ctx=512, n_seq_max=1, flash_attention=-1, yarn_slow=-1, type_k=1, type_v=1)
    context.offload = context.whole_window = True
    model = module.ModelParameters(n_gpu_layers=-1, split_mode=1, extra_buffers=True)
    library = SimpleNamespace(
        llama_model_default_params=lambda: model,
        llama_context_default_params=lambda: context,
    )
    module._check_layout(library)  # type: ignore[arg-type]
    wrong = [
        (model, "n_gpu_layers", 7),
        (context, "type_k", 7),
        (context, "whole_window", False),
        (context, "other", 7),
    ]
    for structure, name, value in wrong:
        kept = getattr(structure, name)
        setattr(structure, name, value)
        with pytest.raises(ValueError, match="structures aren't laid out as expected"):
            module._check_layout(library)  # type: ignore[arg-type]
        setattr(structure, name, kept)


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp isn't installed")
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda name: "2026.1.1")
    with pytest.raises(ValueError, match=rf"xllamacpp 2026.1.1 is installed, .* install xllamacpp=={module.VERSION}"):
        module.llama_library()
    monkeypatch.undo()
    assert module.llama_library().llama_model_default_params().n_gpu_layers == -1
