"""llama.cpp in float32 gives the tokens of transformers: steered, unsteered and mixed, greedy and sampled."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import random_models
from gguf_files import write_gguf
from sweep_plans import same_rows

import kvsteer_lab as kv

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp isn't installed (the extra [llama-cpp])"
)
SHORT = {"max_new_tokens": 16}


@pytest.fixture(scope="module")
def model() -> kv.Model:
    return kv.load(random_models.build("llama"), random_models.tokenizer())


@pytest.fixture(scope="module")
def file(model: kv.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "random.gguf", model.hf, model.tokenizer)


@pytest.fixture(scope="module")
def methods(model: kv.Model) -> list[kv.Intervention]:
    vectors = random_models.vectors_for(model)
    steered = kv.CacheSteering(vectors, 1, 1, name="both")
    return [
        kv.Nothing(),
        kv.NoOffset(),
        kv.CoTPrompt(),
        kv.ForcedPrefix("Step"),
        steered,
        kv.CacheSteering(vectors, 2, 0, name="keys", heads=[1]),
        kv.CacheSteering(vectors, 0, 2, name="values", layers=[1, 3]),
        steered.random_control(0),
    ]


def test_rows_are_those_of_transformers(model: kv.Model, file: Path, methods: list[kv.Intervention]) -> None:
    here = kv.generate(model, random_models.PROMPTS, methods, generation=SHORT)
    there = kv.generate(model, random_models.PROMPTS, methods, generation=SHORT, backend=kv.backends.LlamaCpp(file))
    assert there.rows == here.rows
    for label in ("both", "keys", "values"):
        changed = [a.token_ids != b.token_ids for a, b in zip(here.of(label), here.of("baseline"), strict=True)]
        assert any(changed), f"{label} changes nothing, so equality would show nothing"


def test_keys_that_rotate_by_halves_stay_in_order(methods: list[kv.Intervention], tmp_path: Path) -> None:
    model = kv.load(random_models.build("qwen3"), random_models.tokenizer())
    file = write_gguf(tmp_path / "qwen3.gguf", model.hf, model.tokenizer, architecture="qwen3")
    steered = kv.CacheSteering(random_models.vectors_for(model), 1, 1, name="both")
    some = [*methods[:4], steered, steered.random_control(0)]
    here = kv.generate(model, random_models.PROMPTS, some, generation=SHORT)
    there = kv.generate(model, random_models.PROMPTS, some, generation=SHORT, backend=kv.backends.LlamaCpp(file))
    assert there.rows == here.rows
    assert any(a.token_ids != b.token_ids for a, b in zip(here.of("both"), here.of("baseline"), strict=True))


def test_sliding_windows_are_refused(tmp_path: Path) -> None:
    model = kv.load(random_models.build("gemma3"), random_models.tokenizer())
    shape = dict(architecture="gemma3", attention__sliding_window=8)
    file = write_gguf(tmp_path / "gemma3.gguf", model.hf, model.tokenizer, **shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gemma3\.gguf has sliding windows, whose cache llama\.cpp keeps apart"):
        kv.generate(model, "Why?", generation=SHORT, backend=kv.backends.LlamaCpp(file))


def test_sampled_rows_see_the_same_noise(model: kv.Model, file: Path, methods: list[kv.Intervention]) -> None:
    sampling = {**SHORT, "do_sample": True, "temperature": 1.3, "top_k": 40}
    kept = dict(generation=sampling, samples=2, seed=3)
    here = kv.generate(model, random_models.PROMPTS[:2], methods[:5], **kept)  # type: ignore[arg-type]
    there = kv.generate(
        model,
        random_models.PROMPTS[:2],
        methods[:5],
        backend=kv.backends.LlamaCpp(file),
        **kept,  # type: ignore[arg-type]
    )
    assert there.rows == here.rows and here.rows[0].token_ids != here.rows[1].token_ids


def test_a_half_precision_cache_steers_too(model: kv.Model, file: Path, methods: list[kv.Intervention]) -> None:
    backend = kv.backends.LlamaCpp(file, cache="f16")
    found = kv.generate(model, random_models.PROMPTS, [methods[0], methods[4]], generation=SHORT, backend=backend)
    assert any(a.token_ids != b.token_ids for a, b in zip(found.of("both"), found.of("baseline"), strict=True))


def test_a_stored_run_names_the_file(model: kv.Model, file: Path, tmp_path: Path) -> None:
    task = kv.tasks.get("tiny-arithmetic")
    few = dict(n=2, generation={"max_new_tokens": 6}, progress=False)
    backend = kv.backends.LlamaCpp(file)
    there = kv.evaluate(model, task, [], backend=backend, out=tmp_path / "run", **few)  # type: ignore[arg-type]
    assert same_rows(kv.evaluate(model, task, [], **few), there)  # type: ignore[arg-type]
    about = kv.Run.load(tmp_path / "run").identity.texts["backend"]
    assert about["backend"] == "llama.cpp" and len(about["file"]) == 32 and about["cache"] == "f32"


def test_a_file_of_another_model_is_refused(model: kv.Model, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 4 layers, 2 KV heads of width 16, 320 tokens; tiny has 4 layers"):
        kv.generate(kv.load("tiny"), "Why?", backend=kv.backends.LlamaCpp(file))
    other = random_models.tokenizer(special=("<|im_start|>", "<|pad|>", "<|im_end|>"))
    mixed = write_gguf(tmp_path / "other.gguf", model.hf, other)
    with pytest.raises(ValueError, match=r"Token 0 is '<\|im_start\|>' in .* and '<\|pad\|>' in"):
        kv.generate(model, "Why?", backend=kv.backends.LlamaCpp(mixed))
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"llama.cpp can't load .*cut.gguf; give a complete GGUF file"):
        kv.generate(model, "Why?", backend=kv.backends.LlamaCpp(tmp_path / "cut.gguf"))
    with pytest.raises(ValueError, match=r"cache='q8_0' can't be added to in llama.cpp; choose one of: f32, f16"):
        kv.generate(model, "Why?", backend=kv.backends.LlamaCpp(file, cache="q8_0"))


def test_a_folder_with_a_file_will_do_and_nothing_at_all_is_refused(
    model: kv.Model, file: Path, methods: list[kv.Intervention], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(file.parent.parent))
    by_folder = kv.backends.LlamaCpp(f"~/{file.parent.name}")
    here = kv.generate(model, "Why?", methods[4], generation=SHORT)
    assert kv.generate(model, "Why?", methods[4], generation=SHORT, backend=by_folder).rows == here.rows
    assert by_folder.about == kv.backends.LlamaCpp(file).about
    nowhere = kv.backends.LlamaCpp(tmp_path / "none.gguf")
    few = dict(n=2, generation=SHORT, progress=False)
    with pytest.raises(ValueError, match=r"There is no GGUF file at .*none\.gguf; give a \.gguf file"):
        kv.evaluate(model, kv.tasks.get("tiny-arithmetic"), [], backend=nowhere, out=tmp_path / "run", **few)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_what_llama_cpp_cannot_do_is_refused_by_name(model: kv.Model, file: Path) -> None:
    vectors = random_models.vectors_for(model)
    backend = kv.backends.LlamaCpp(file)
    activations = random_models.activations_for(model)
    for method, says in [
        (kv.CacheSteering(vectors, 0, 1, slot=0, name="first"), "'first' edits another slot than the prompt's last"),
        (kv.ActivationSteering(activations, 1, 1.0, name="stream"), "'stream' edits the residual stream"),
        (kv.CacheEdits([kv.edits.Map(0.5)], "half"), "'half' edits the cache by more than an addition"),
    ]:
        with pytest.raises(ValueError, match=f"{says}, which llama.cpp can't; run it without backend"):
            kv.generate(model, "Why?", method, backend=backend)
    with pytest.raises(ValueError, match=r"repetition_penalty=1\.2 can't be done by llama.cpp"):
        kv.generate(model, "Why?", generation={"repetition_penalty": 1.2}, backend=backend)


def test_a_state_that_is_not_understood_is_refused_unchanged(file: Path) -> None:
    from kvsteer_lab.serving.llama_engine import LlamaEngine

    engine = LlamaEngine(file, 64)
    engine.prefill([5, 6, 7])
    state, more = engine.state(), np.ones((4, 2, 16), np.float32)
    engine.restore(engine.added(state, 3, more, more), 3)
    assert engine.state() != state and len(engine.state()) == len(state)
    for at, word in ((0, 2), (8, 2), (12, 4), (16, 9), (len(state) - 1, None)):
        broken = bytearray(state)
        if word is None:
            broken = broken[:at]
        else:
            struct.pack_into("<I", broken, at, word)
        kept = bytes(broken)
        with pytest.raises(ValueError, match=r"llama\.cpp's state isn't laid out as expected"):
            engine.added(broken, 3, more, more)
        assert bytes(broken) == kept
    with pytest.raises(ValueError, match="infinite in an f32 cache; lower the coefficients"):
        engine.added(state, 3, np.full_like(more, np.inf), more)
    engine.close()


def test_quantised_weights_are_another_model(model: kv.Model, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "q8.gguf", model.hf, model.tokenizer, kind=gguf.GGMLQuantizationType.Q8_0)
    backend = kv.backends.LlamaCpp(file)
    found = kv.generate(model, random_models.PROMPTS[:1], generation=SHORT, backend=backend)
    assert len(found) == 1 and backend.about["file"] != ""
