"""GGUF files: what is loaded computes what the original does, and what would not is refused with the reason."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import gguf_files
import numpy as np
import pytest
import random_models
import torch
from gguf_files import write_gguf
from transformers import PreTrainedModel

import kvsteer_lab as kv
from kvsteer_lab.models.gguf_header import read_header

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXT = "The quick brown fox: What is 12 + 7?\n\n1.  Step"


@pytest.fixture(scope="module")
def hf() -> PreTrainedModel:
    return random_models.build("llama", num_hidden_layers=2)


@pytest.fixture(scope="module")
def file(hf: PreTrainedModel, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "random.gguf", hf, tokenizer)


def logits(model: kv.Model, text: str = TEXT) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([model.encode(text, chat=False)])).logits


def test_a_file_of_floats_is_the_original(file: Path, hf: PreTrainedModel, tokenizer: Any) -> None:
    model, original = kv.load(file), kv.load(hf, tokenizer)
    assert model.encode(TEXT, chat=False) == original.encode(TEXT, chat=False)
    assert model.encode("Hello") == original.encode("Hello"), "the chat template comes from the file"
    torch.testing.assert_close(logits(model), logits(original), rtol=1e-4, atol=1e-4)
    assert model.quantised is None and "quantised" not in repr(model)
    assert model.tokenizer.eos_token == tokenizer.eos_token and model.tokenizer.pad_token == tokenizer.pad_token
    assert str(file) in model.tokenizer.name_or_path


def test_quantised_weights_are_said_and_saved(hf: PreTrainedModel, tokenizer: Any, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    model = kv.load(write_gguf(tmp_path / "q.gguf", hf, tokenizer, kind=kind, general__file_type=7))
    assert model.quantised == "GGUF Q8_0" and "GGUF Q8_0" in repr(model) and "None" not in repr(model)
    pairs = kv.ContrastiveSet.from_texts(["a dog"], ["fox"])
    assert "quantised before they were loaded (GGUF Q8_0)" in kv.extract(model, pairs, progress=False).card.note
    difference = (logits(model) - logits(kv.load(hf, tokenizer))).abs().max()
    assert 0 < difference < 2
    model.hf.save_pretrained(tmp_path / "saved")
    model.tokenizer.save_pretrained(tmp_path / "saved")
    saved = kv.load(tmp_path / "saved")
    assert saved.quantised == "GGUF Q8_0" and saved.fingerprint == model.fingerprint
    assert torch.equal(logits(saved), logits(model))


def test_a_file_is_found_in_its_folder(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "one.gguf")
    (tmp_path / "chat_template.jinja").write_text("{{ 'not the file’s' }}")
    assert "not the file" not in kv.load(tmp_path).tokenizer.chat_template
    shutil.copy(file, tmp_path / "two.gguf")
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(one.gguf, two.gguf\); give one of them"):
        kv.load(tmp_path)


def test_a_loaded_file_is_steered(file: Path) -> None:
    model = kv.load(file)
    vectors = random_models.vectors_for(model)
    rows = kv.generate(
        model, "Add 2.", [kv.Nothing(), kv.CacheSteering(vectors, 1, 8)], generation={"max_new_tokens": 8}
    )
    assert rows[0].token_ids != rows[1].token_ids


def test_digits_are_split_as_the_file_says(hf: PreTrainedModel, tokenizer: Any, tmp_path: Path) -> None:
    """transformers takes GPT-2's split for SmolLM2: there `"a  12"` has two lone spaces before the digits."""
    split = kv.load(write_gguf(tmp_path / "s.gguf", hf, tokenizer, pre="smollm")).tokenizer.backend_tokenizer
    assert [word for word, _ in split.pre_tokenizer.pre_tokenize_str("a  12\n\n3")] == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]
    with pytest.warns(UserWarning, match="by the rule 'of-nobody', which isn't known here"):
        kv.load(write_gguf(tmp_path / "u.gguf", hf, tokenizer, pre="of-nobody"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kv.load(write_gguf(tmp_path / "k.gguf", hf, tokenizer, pre="llama-bpe"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "scaled rotation": (
        {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0},
        r"leaves out rope.scaling \(linear, 4\)",
    ),
    "rotation of its own": ({"extra": {"rope_freqs.weight": np.ones(8, np.float32)}}, "leaves out rope_freqs.weight"),
    "soft cap": ({"final_logit_softcapping": 30.0}, r"leaves out final_logit_softcapping \(30\)"),
    "unused weights": ({"extra": {"blk.0.strange.weight": np.ones((8, 8), np.float32)}}, "holds [0-9]+ weights, of"),
    "missing weight": ({"without": "blk.1.ffn_up.weight"}, r"lacks 1 of the model's weights \(model.layers.1.mlp.up"),
    "unknown kind of model": ({"architecture": "unheard-of"}, "architecture unheard-of is not supported yet"),
    "adapter": ({"general__type": "adapter"}, "holds an adapter, not a language model"),
    "images": ({"general__type": "mmproj"}, "holds the image part of a model"),
    "parts": ({"split__count": 3}, "is one of 3 parts of a model; join them with"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_read_wrongly_is_refused(what: str, hf: PreTrainedModel, tokenizer: Any, tmp_path: Path) -> None:
    changes, reason = REFUSED[what]
    path = write_gguf(tmp_path / "m.gguf", hf, tokenizer, **changes)
    with pytest.raises(ValueError, match=reason):
        kv.load(path)


def test_a_sliding_window_that_is_left_out_is_said(hf: PreTrainedModel, tokenizer: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", hf, tokenizer, attention__sliding_window=32)
    with pytest.warns(UserWarning, match="asks for a sliding window of 32 tokens"):
        kv.load(path)


def test_weights_of_other_shapes_are_refused_in_our_words(hf: PreTrainedModel, tokenizer: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", hf, tokenizer, architecture="falcon")
    with pytest.raises(
        ValueError, match=r"lacks \d+ of the model's weights \(.*\), or has them in another shape; get the"
    ):
        kv.load(path)


def test_a_file_without_a_tokenizer(
    hf: PreTrainedModel, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files, "_write_tokenizer", lambda *given: None)
    path = write_gguf(tmp_path / "m.gguf", hf, tokenizer)
    with pytest.raises(ValueError, match=r"m\.gguf holds no tokenizer; pass the original one: tokenizer=, its folder"):
        kv.load(path)
    model = kv.load(path, tokenizer)
    assert model.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert (
        kv.generate(model, "fox", generation={"max_new_tokens": 4}).texts
        == kv.generate(kv.load(hf, tokenizer), "fox", generation={"max_new_tokens": 4}).texts
    )


def test_control_vectors_are_not_a_model() -> None:
    with pytest.raises(ValueError, match="holds control vectors, not a model; read them with"):
        kv.load(FIXTURES / "repeng.gguf")


def test_damaged_files_are_refused_in_one_sentence(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    bad = tmp_path / "bad.gguf"
    for content, reason in [
        (b"", "is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "is a pointer of Git LFS, not the file itself"),
        (b"PK\x03\x04" + whole[4:], "is not a GGUF file"),
        (whole[: len(whole) - 4096], "is cut short"),
        (whole[:5000], "cut short or damaged|longer than the file"),
        (b"GGUF\x01\0\0\0" + whole[8:], r"a version of GGUF other than 2 and 3 \(1\)"),
        (b"GGUF\0\0\0\x03" + whole[8:], "in the byte order of other machines"),
    ]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            kv.load(bad)


def test_mutated_headers_never_crash(file: Path, tmp_path: Path) -> None:
    draw, whole = random.Random(0), file.read_bytes()
    header = read_header(file)
    bad = tmp_path / "bad.gguf"
    for _ in range(300):
        mutated = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            mutated[draw.randrange(4, header.data)] = draw.randrange(256)
        bad.write_bytes(mutated)
        try:
            read_header(bad)
        except ValueError as error:
            assert str(bad) in str(error)
