"""Vectors: arithmetic, masks, sizes, what they fit, and their file."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import PROMPTS, build, card_of, vectors_for
from safetensors.torch import save_file

import kvsteer_lab as kv


def same(a: kv.KVVectors, keys: torch.Tensor, values: torch.Tensor) -> bool:
    return torch.allclose(a.keys, keys) and torch.allclose(a.values, values)


def test_arithmetic(model: kv.Model) -> None:
    a, b = vectors_for(model, 0), vectors_for(model, 1)
    assert same(a + b, a.keys + b.keys, a.values + b.values)
    assert same(a - b, a.keys - b.keys, a.values - b.values)
    assert same(a * 3, 3 * a.keys, 3 * a.values) and same(3 * a, 3 * a.keys, 3 * a.values)
    assert same(a / 4, a.keys / 4, a.values / 4)
    assert same(-a, -a.keys, -a.values)
    assert same((a + b) / 2 - a / 2, b.keys / 2, b.values / 2)
    with pytest.raises(ValueError, match="can't be divided by zero"):
        a / 0


def test_arithmetic_is_written_on_the_card_and_leaves_the_parts_alone(model: kv.Model) -> None:
    a, b = (
        vectors_for(model, 0, recipe={"style": "stepwise"}),
        vectors_for(model, 1, recipe={"style": "analogical"}, n_pairs=7),
    )
    keys = a.keys.clone()
    c = (2 * a + b).only(layers=[1])
    assert c.card.history == ("* 2", "+ analogical of 7 pairs", "only layers=[1] heads=all")
    assert a.card.history == () and torch.equal(a.keys, keys)


def test_only_keeps_the_named_layers_and_heads(model: kv.Model) -> None:
    vectors = vectors_for(model)
    part = vectors.only(layers=[1, 3], heads=[0])
    assert torch.equal(part.keys[[1, 3], 0], vectors.keys[[1, 3], 0]) and torch.equal(
        part.values[[1, 3], 0], vectors.values[[1, 3], 0]
    )
    for tensor in (part.keys, part.values):
        assert not tensor[[0, 2]].any() and not tensor[:, 1].any() and tensor[[1, 3], 0].all()
    assert same(vectors.only(), vectors.keys, vectors.values)
    assert not vectors.only(layers=[]).keys.any(), "an explicit set means exactly that set"


def test_steering_takes_layer_one_and_above_unless_told_otherwise(model: kv.Model, vectors: kv.KVVectors) -> None:
    def touched(**chosen: Any) -> list[int]:
        ((delta,),) = kv.CacheSteering(vectors, 1, 1, **chosen).deltas(model, [5])
        return delta.keys.flatten(1).any(1).nonzero().flatten().tolist()

    assert touched() == [1, 2, 3]
    assert touched(layers=[0]) == [0]
    assert touched(layers=[2]) == [2]
    assert touched(layers=[1]) == [1], "a single layer, which the paper's code can't express"
    assert touched(layers=[]) == []
    assert touched(layers=range(4)) == [0, 1, 2, 3]


def test_coefficients_are_required_and_folded_in(model: kv.Model, vectors: kv.KVVectors) -> None:
    with pytest.raises(TypeError, match="ck"):
        kv.CacheSteering(vectors)  # type: ignore[call-arg]
    ((delta,),) = kv.CacheSteering(vectors, 0.5, -2, layers=[3], heads=[1], slot=2).deltas(model, [5])
    assert torch.equal(delta.keys[3, 1], 0.5 * vectors.keys[3, 1]) and torch.equal(
        delta.values[3, 1], -2 * vectors.values[3, 1]
    )
    assert not delta.keys[3, 0].any() and delta.slot == 2


def test_norms(model: kv.Model, vectors: kv.KVVectors) -> None:
    table = vectors.norms()
    assert list(table.columns) == ["layer", "head", "keys", "values"] and len(table) == 8
    row = table[(table.layer == 2) & (table["head"] == 1)].iloc[0]
    assert row["keys"] == pytest.approx(math.sqrt(float((vectors.keys[2, 1] ** 2).sum())), rel=1e-5)
    assert row["values"] == pytest.approx(math.sqrt(float((vectors.values[2, 1] ** 2).sum())), rel=1e-5)


def test_a_dose_is_relative_to_the_slot_s_own_norm(model: kv.Model, vectors: kv.KVVectors) -> None:
    table = vectors.relative_to(model, PROMPTS)
    assert list(table.columns) == ["layer", "keys", "values"] and table.layer.tolist() == [0, 1, 2, 3]
    expected = np.zeros((2, 4))
    for prompt in PROMPTS:
        for i, layer in enumerate(model.prefill(prompt).layers):
            expected[0, i] += float(vectors.keys[i].norm() / layer.keys[0, :, -1].norm()) / 3
            expected[1, i] += float(vectors.values[i].norm() / layer.values[0, :, -1].norm()) / 3
    np.testing.assert_allclose(table[["keys", "values"]].to_numpy().T, expected, rtol=1e-4)
    np.testing.assert_allclose((2 * vectors).relative_to(model, PROMPTS)["values"], 2 * table["values"], rtol=1e-5)


def test_vectors_are_float32_on_the_cpu(model: kv.Model) -> None:
    shape = (model.n_layers, model.n_kv_heads, model.head_dim)
    made = kv.KVVectors(
        torch.ones(shape, dtype=torch.bfloat16, requires_grad=True),
        torch.ones(shape, dtype=torch.float64),
        card_of(model),
    )
    assert made.keys.dtype == made.values.dtype == torch.float32 and not made.keys.requires_grad


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (
            torch.ones(4, 2, 16),
            torch.ones(4, 2, 8),
            r"one shape \[layers, kv_heads, head_dim\], not \(4, 2, 16\) and \(4, 2, 8\)",
        ),
        (torch.ones(4, 2), torch.ones(4, 2), r"one shape \[layers, kv_heads, head_dim\]"),
        (
            torch.full((4, 2, 16), float("nan")),
            torch.ones(4, 2, 16),
            "The vectors' keys hold NaN or infinity; extract them again",
        ),
        (
            torch.ones(4, 2, 16),
            torch.full((4, 2, 16), float("-inf")),
            "The vectors' values hold NaN or infinity; extract them again",
        ),
    ],
)
def test_bad_tensors_are_refused(keys: torch.Tensor, values: torch.Tensor, message: str, model: kv.Model) -> None:
    with pytest.raises(ValueError, match=message):
        kv.KVVectors(keys, values, card_of(model))


def test_an_overflow_in_arithmetic_is_refused(vectors: kv.KVVectors) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        vectors * 1e39


# --- fit ------------------------------------------------------------------------------------------------------


def test_another_architecture_or_shape_is_an_error(model: kv.Model, load_random: Any, tokenizer: Any) -> None:
    message = (
        r"These vectors are of a llama with 4 layers, 2 KV heads of width 16, the model is a {}; extract vectors from"
        r" this model\."
    )
    with pytest.raises(ValueError, match=message.format("qwen3 with 4 layers, 2 KV heads of width 16")):
        kv.generate(load_random("qwen3"), "fox", kv.CacheSteering(vectors_for(model), 1, 1))
    shallow = kv.load(build("llama", num_hidden_layers=2), tokenizer)
    with pytest.raises(ValueError, match=message.format("llama with 2 layers, 2 KV heads of width 16")):
        kv.score(shallow, "fox", "dog", kv.CacheSteering(vectors_for(model), 1, 1))
    with pytest.raises(ValueError, match="These vectors are of a llama"):
        vectors_for(model).relative_to(shallow, "fox")


def test_other_weights_or_another_dtype_warn(model: kv.Model, folder: Path, tokenizer: Any) -> None:
    vectors = vectors_for(model)
    with pytest.warns(UserWarning, match="extracted from other weights"):
        vectors.check_fits(kv.load(build("llama", seed=1), tokenizer))
    rounded = (
        r"from other weights .*, or from the same ones rounded: extracted in torch\.float32, the model runs in torch\.b"
    )
    with pytest.warns(UserWarning, match=rounded):
        vectors.check_fits(kv.load(folder, dtype=torch.bfloat16))


def test_a_dtype_that_holds_every_value_is_told_alone(folder: Path, tokenizer: Any) -> None:
    exact = build("llama").to(torch.bfloat16)
    vectors = vectors_for(kv.load(exact, tokenizer))
    with pytest.warns(
        UserWarning, match=r"^These vectors were extracted in torch\.bfloat16, the model runs in torch\.fl"
    ):
        vectors.check_fits(kv.load(exact.to(torch.float32), tokenizer))


def test_another_config_and_an_older_fingerprint_are_told(model: kv.Model, folder: Path, tokenizer: Any) -> None:
    vectors = vectors_for(model)
    with pytest.warns(UserWarning, match="from the weights of .* under another config"):
        vectors.check_fits(kv.load(build("llama", rms_norm_eps=0.1), tokenizer))
    older = replace(vectors, card=replace(vectors.card, fingerprint="0123456789abcdef"))
    with pytest.warns(
        UserWarning, match=r"written by another version of kvsteer_lab and can't be compared .* extract the"
    ):
        older.check_fits(model)


@pytest.mark.filterwarnings("error")
def test_their_own_model_fits_without_a_word(model: kv.Model) -> None:
    vectors_for(model).check_fits(model)


def test_vectors_of_different_kinds_do_not_combine(model: kv.Model) -> None:
    vectors = vectors_for(model)
    other = kv.KVVectors(vectors.keys[:2], vectors.values[:2], vectors.card)
    with pytest.raises(ValueError, match="different architectures or shapes can't be combined"):
        vectors + other
    with pytest.raises(
        ValueError, match="post_rope and position_free keys can't be combined; extract both the same way"
    ):
        vectors - replace(vectors, card=replace(vectors.card, keys="position_free"))


# --- files ----------------------------------------------------------------------------------------------------


def test_a_file_keeps_tensors_and_card(model: kv.Model, tmp_path: Path) -> None:
    vectors = (
        vectors_for(model, recipe={"style": "stepwise", "questions": ["ä", "日本"]}, note="a note", template_hash="ab")
        * 2
    )
    path = vectors.save(tmp_path / "new" / "folder" / "vectors.safetensors")
    for source in (path, str(path), path.parent, str(path.parent)):
        again = kv.KVVectors.load(source)
        assert torch.equal(again.keys, vectors.keys) and torch.equal(again.values, vectors.values)
        assert again.card == vectors.card and again.card.history == ("* 2",)
    assert [p.name for p in path.parent.iterdir()] == ["vectors.safetensors"], "no temporary file is left"


def test_saving_replaces_an_old_file(model: kv.Model, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    for seed in (0, 1):
        vectors_for(model, seed).save(path)
    assert torch.equal(kv.KVVectors.load(path).keys, vectors_for(model, 1).keys)


def test_any_safetensors_reader_can_read_it(model: kv.Model, vectors: kv.KVVectors, tmp_path: Path) -> None:
    data = vectors.save(tmp_path / "v.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    assert header["keys"]["shape"] == [4, 2, 16] and header["keys"]["dtype"] == "F32"
    assert json.loads(header["__metadata__"]["card"])["fingerprint"] == model.fingerprint


def test_vectors_come_from_the_hub_too(vectors: kv.KVVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        return str(vectors.save(tmp_path / "downloaded.safetensors"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert torch.equal(kv.KVVectors.load("someone/vectors", revision="v2").keys, vectors.keys)
    assert asked == [("someone/vectors", "vectors.safetensors", "v2")]


def foreign(path: Path) -> None:
    save_file({"keys": torch.ones(4, 2, 16), "values": torch.ones(4, 2, 16)}, path)


def without_values(path: Path) -> None:
    save_file({"keys": torch.ones(4, 2, 16)}, path, metadata={"format": "kvsteer_lab.vectors.1", "card": "{}"})


GOOD = {
    "model": "m",
    "model_type": "llama",
    "fingerprint": "2-0123456789abcdef-01234567",
    "dtype": "torch.float32",
    "keys": "post_rope",
    "offset_id": 3,
    "template_hash": None,
    "n_pairs": 2,
    "recipe": {"style": "stepwise"},
    "history": ["* 2"],
    "a field of a later version": 1,
}
FAULTS: list[dict[str, Any]] = [
    {"keys": "foo"},
    {"keys": 1},
    {"offset_id": -1},
    {"offset_id": 3.5},
    {"offset_id": 3.0},
    {"offset_id": True},
    {"offset_id": "3"},
    {"recipe": None},
    {"recipe": []},
    {"history": "abc"},
    {"history": [1]},
    {"n_pairs": -1},
    {"n_pairs": 1e300},
    {"model": None},
    {"model": ["m"]},
    {"fingerprint": 7},
    {"dtype": {}},
    {"note": None},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_card_fields_of_other_types_are_refused_by_name(tmp_path: Path, fault: dict[str, Any]) -> None:
    tensors = {"keys": torch.ones(4, 2, 16), "values": torch.ones(4, 2, 16)}
    for card, fits in ((GOOD, True), ({**GOOD, **fault}, False)):
        about = {"format": "kvsteer_lab.vectors.1", "card": json.dumps(card)}
        save_file(tensors, tmp_path / "vectors.safetensors", metadata=about)
        if fits:
            assert kv.KVVectors.load(tmp_path).card.history == ("* 2",)
            continue
        with pytest.raises(ValueError, match=rf"The card in .* can't be read: {next(iter(fault))}") as refused:
            kv.KVVectors.load(tmp_path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"model": "\\ud83d"}', '{"n_pairs": NaN}', '{"n_pairs": 1e999}', "[]", "null", '"card"']
)
def test_cards_that_are_no_json_objects_are_refused(tmp_path: Path, text: str) -> None:
    tensors = {"keys": torch.ones(4, 2, 16), "values": torch.ones(4, 2, 16)}
    save_file(tensors, tmp_path / "vectors.safetensors", metadata={"format": "kvsteer_lab.vectors.1", "card": text})
    with pytest.raises(ValueError, match=r"The card in .* can't be read") as refused:
        kv.KVVectors.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_a_file_is_refused_or_changes_nothing(model: kv.Model, tmp_path: Path, step: int) -> None:
    vectors, refused = vectors_for(model, recipe={"style": "stepwise"}), 0
    path = vectors.save(tmp_path / "vectors.safetensors")
    content = path.read_bytes()
    for place in range(0, len(content), step):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        try:
            found = kv.KVVectors.load(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert torch.equal(found.keys, vectors.keys) and torch.equal(found.values, vectors.values)
            assert found.card == vectors.card
    assert refused > 0.9 * len(range(0, len(content), step))


def test_a_file_of_an_earlier_release_has_no_checksum_and_loads(model: kv.Model, tmp_path: Path) -> None:
    vectors = vectors_for(model)
    about = {"format": "kvsteer_lab.vectors.1", "card": json.dumps(asdict(vectors.card))}
    save_file({"keys": vectors.keys, "values": vectors.values}, tmp_path / "vectors.safetensors", metadata=about)
    assert torch.equal(kv.KVVectors.load(tmp_path).keys, vectors.keys)


def test_numbers_that_float32_cannot_hold_are_refused(model: kv.Model) -> None:
    vectors = vectors_for(model)
    with pytest.raises(ValueError, match="keys hold NaN or infinity"):
        kv.KVVectors(torch.full((4, 2, 16), 1e300, dtype=torch.float64), vectors.values, vectors.card)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        vectors * 1e300
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        kv.ActivationVectors(torch.full((4, 64), 1e300, dtype=torch.float64), vectors.card)


def broken_card(path: Path) -> None:
    save_file(
        {"keys": torch.ones(4, 2, 16), "values": torch.ones(4, 2, 16)},
        path,
        metadata={"format": "kvsteer_lab.vectors.1", "card": "{"},
    )


def empty_card(path: Path) -> None:
    save_file(
        {"keys": torch.ones(4, 2, 16), "values": torch.ones(4, 2, 16)},
        path,
        metadata={"format": "kvsteer_lab.vectors.1", "card": "{}"},
    )


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (foreign, r"holds no steering vectors: it was not written by KVVectors\.save"),
        (without_values, r"is not a complete safetensors file .*save or download it again"),
        (broken_card, r"card .* can't be read.*save or download it again"),
        (empty_card, r"card .* can't be read.*save or download it again"),
        (lambda path: path.write_bytes(b""), r"is not a complete safetensors file .*save or download it again"),
        (
            lambda path: path.write_bytes(b"\x80\x04pickle" * 9),
            r"is not a complete safetensors file .*save or download it again",
        ),
    ],
)
def test_a_foreign_file_is_refused(write: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    write(path)
    with pytest.raises(ValueError, match=message):
        kv.KVVectors.load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, vectors: kv.KVVectors, tmp_path: Path) -> None:
    path = vectors.save(tmp_path / "v.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"is not a complete safetensors file .*save or download it again"):
        kv.KVVectors.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "none.safetensors", tmp_path / "none"):
        with pytest.raises(
            ValueError,
            match=r"There are no vectors at .*; give a file, a folder with vectors\.safetensors, or a hub repository",
        ):
            kv.KVVectors.load(source)
    with pytest.raises(ValueError, match="There are no vectors at no/such-vectors, and the hub gives no"):
        kv.KVVectors.load("no/such-vectors")


# --- random controls ------------------------------------------------------------------------------------------


def test_random_controls_match_each_layer_s_norm_in_keys_and_values(model: kv.Model, vectors: kv.KVVectors) -> None:
    steering = kv.CacheSteering(vectors, 0.5, 3, layers=[1, 3], heads=[0])
    controls = kv.random_controls(steering, 5, seed=3)
    ((own,),) = steering.deltas(model, [9])
    for control in controls:
        ((delta,),) = control.deltas(model, [9])
        for part in ("keys", "values"):
            a, b = getattr(own, part), getattr(delta, part)
            torch.testing.assert_close(a.flatten(1).norm(dim=-1), b.flatten(1).norm(dim=-1))
            cosine = float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
            assert abs(cosine) < 0.6 and not b[:, 1].any() and not b[[0, 2]].any()
    assert len({c.label for c in controls}) == 5
    assert torch.equal(controls[0].vectors.keys, kv.random_controls(steering, 1, seed=3)[0].vectors.keys)
    assert not torch.equal(controls[0].vectors.keys, controls[1].vectors.keys)
    with pytest.raises(ValueError, match="number of controls must be at least 1, not 0"):
        kv.random_controls(steering, 0)
