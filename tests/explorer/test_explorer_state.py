"""The explorer's state: to JSON and back, and one sentence for each bad field."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kvsteer_lab.explorer.state import ARMS, ExplorerState
from kvsteer_lab.explorer.state_files import FORMAT

EVERY = ExplorerState(
    prompt='Ann\'s "9" apples\nΔ 🙂',
    task="tiny-arithmetic",
    split="extraction",
    question=3,
    mix={"a": 0.5, "b": -1.25},
    ck=0.1,
    cv=-2.5,
    part="values",
    layers=(0, 2),
    heads=(1,),
    n_controls=3,
    ladder=(0.0, 2.5),
    slot=-2,
    offset=" ",
    arms=ARMS,
    cot="Think.",
    prefix="Just",
    activation_layer=2,
    activation_coefficient=3.5,
    every_token=True,
    control_seed=7,
    sample=True,
    temperature=0.7,
    top_p=0.9,
    seed=11,
    max_new_tokens=5,
    sweep="ck x cv",
    sweep_questions=2,
    sweep_ck=(0.5,),
    sweep_cv=(1.0, 2.0),
    measure="tokens",
    geometry_layer=3,
    geometry_part="keys",
)


def test_every_field_survives_json() -> None:
    default = ExplorerState()
    assert [f.name for f in fields(default) if getattr(EVERY, f.name) == getattr(default, f.name)] == []
    assert ExplorerState.from_json(EVERY.to_json()) == EVERY
    assert ExplorerState.from_json(default.to_json()) == default
    assert json.loads(EVERY.to_json())["format"] == FORMAT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", -1),
        ("split", ""),
        ("mix", {}),
        ("mix", {"a": math.nan}),
        ("ck", math.inf),
        ("cv", math.nan),
        ("cv", "much"),
        ("part", "heads"),
        ("layers", (-1,)),
        ("heads", ("a",)),
        ("slot", 0.5),
        ("offset", ""),
        ("arms", ()),
        ("arms", ("hypnosis",)),
        ("temperature", 0.0),
        ("top_p", 1.5),
        ("seed", -3),
        ("control_seed", 10**30),
        ("max_new_tokens", 0),
        ("sweep", "everything"),
        ("sweep_cv", ()),
        ("sweep_cv", "1; 2"),
        ("measure", "beauty"),
        ("geometry_part", "both"),
    ],
)
def test_bad_field_is_one_sentence_that_names_it(field: str, value: Any) -> None:
    with pytest.raises(ValueError) as refused:
        EVERY.changed({field: value})
    message = str(refused.value)
    assert message.startswith(f"The state's {field} is ") and message.endswith(".") and "\n" not in message
    assert message.count("The state's") == 1


def test_two_bad_fields_are_two_sentences() -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"The state's cv is nan: .*\. The state's seed is -1: .*\.|The state's seed is -1: .*\. The state's cv is"
            r" nan: .*\."
        ),
    ):
        EVERY.changed({"cv": math.nan, "seed": -1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "This state can't be read as JSON"),
        ("[" * 100_000, "more than 100 levels of lists"),
        ('{"cv": 1e999}', "larger than any number"),
        ("[]", "doesn't name its format"),
        ('{"cv": 2}', "doesn't name its format"),
        (
            '{"format": "kvsteer_lab.explorer.99"}',
            "has the format 'kvsteer_lab.explorer.99', but this version of the package reads 'kvsteer_lab.explorer.1'",
        ),
        (json.dumps({"format": FORMAT, "mood": 1}), "The state has no field 'mood'; leave it out."),
        (json.dumps({"format": FORMAT, "cv": "NaN", "ck": 1}), "The state's cv is 'NaN'"),
    ],
)
def test_what_is_no_state_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ExplorerState.from_json(text)


def test_a_state_of_the_first_release_is_read() -> None:
    """As version 0.1 wrote it: this format must not change."""
    text = """{
 "format": "kvsteer_lab.explorer.1",
 "origin": {"model": "tiny", "fingerprint": "0123456789abcdef", "sources": {"mine": "v.safetensors"}},
 "prompt": "", "task": "tiny-arithmetic", "split": "dev", "question": 2, "mix": {"stepwise": 1.0}, "ck": 0.0,
 "cv": 2.5, "part": "keys and values", "layers": [1, 3], "heads": null, "slot": -1, "offset": "\\n",
 "arms": ["baseline", "cache steering"], "cot": "Think.", "prefix": "Step", "activation_layer": 1,
 "activation_coefficient": 1.0, "every_token": false, "control_seed": 0, "sample": false, "temperature": 1.0,
 "top_p": 1.0, "seed": 0, "max_new_tokens": 64, "sweep": "layers", "sweep_questions": 8, "sweep_ck": [0.0, 1.0],
 "sweep_cv": [0.0, 0.5], "measure": "reasoned", "geometry_layer": 1, "geometry_part": "values"
}
"""
    state = ExplorerState.from_json(text)
    assert (state.question, state.cv, state.layers, state.offset) == (2, 2.5, (1, 3), "\n")
    later = {"n_controls", "ladder"}
    assert json.loads(state.to_json()).keys() == json.loads(text).keys() - {"origin"} | later


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="mood"):
        EVERY.changed({"mood": 1})


def test_a_file_is_not_overwritten_silently(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    EVERY.save(path)
    assert ExplorerState.load(path) == EVERY
    with pytest.raises(ValueError, match="exists; choose another name, or allow overwriting"):
        ExplorerState().save(path)
    assert ExplorerState.load(path) == EVERY
    ExplorerState().save(path, overwrite=True)
    assert ExplorerState.load(path) == ExplorerState()
    with pytest.raises(ValueError, match="name of the file is empty"):
        EVERY.save("  ")


def test_no_file_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no state at"):
        ExplorerState.load(tmp_path / "nothing.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"The state in .* can't be read as JSON: it isn't UTF-8 text"):
        ExplorerState.load(tmp_path / "bytes")


def test_difference_names_what_changed() -> None:
    assert EVERY.difference(EVERY.changed({"cv": 1.0, "seed": 0})) == {"cv", "seed"}
