"""One reader for JSON that others may have written: whatever is wrong is one `ValueError` in one sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from kvsteer_lab._util.json import DEPTH, read_json

BAD = {
    "[" * 100_000: "more than 100 levels",
    '{"a":' * 5000 + "1" + "}" * 5000: "more than 100 levels",
    '[{"a":' * 51 + "1" + "}]" * 51: "more than 100 levels",
    "1e999": "larger than any number",
    '{"cv": [-1e400]}': "larger than any number",
    "NaN": "holds NaN",
    "[Infinity]": "holds Infinity",
    '"\\ud83d"': "half of a surrogate pair",
    '{"\\uDC00": 1}': "half of a surrogate pair",
    "9" * 5000: "Exceeds the limit",
    "": "Expecting value",
    "{": "Expecting property name",
    "[1,]": "Expecting|Illegal",
    '"a\nb"': "Invalid control character",
    "{} {}": "Extra data",
    '[{"a": {"cv": 1, "ck": 2, "cv": 1}}]': "an object in it has the name 'cv' twice",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items(), ids=range(len(BAD)))
def test_bad_json_is_one_sentence(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(text)
    for source in (text, text.encode(), tmp_path / "card.json"):
        with pytest.raises(ValueError, match=f"^The card can't be read as JSON: .*{reason}") as refused:
            read_json(source, what="The card")
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="it isn't UTF-8 text"):
        read_json(b'"\xff"', what="The card")


@pytest.mark.parametrize(
    "value",
    [None, True, 18, -0.5, 1e300, "ä 日本 🎲", "[" * 1000, '"[[', "\\", [1, [2, {"a": []}]], {"a": {"b": "\u2028"}}],
)
def test_good_json_comes_back(value: object, tmp_path: Path) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2), "\ufeff" + json.dumps(value)):
        (tmp_path / "a.json").write_bytes(text.encode())
        assert read_json(text, what="A") == read_json(text.encode(), what="A") == value
        assert read_json(tmp_path / "a.json", what="A") == value
    deepest = "[" * DEPTH + "]" * DEPTH
    assert read_json(deepest, what="A") == json.loads(deepest)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json", what="A")


@pytest.mark.parametrize("n", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_json_is_read_or_refused(n: int) -> None:
    rng = random.Random(0)
    good = json.dumps({"model": "tiny", "ck": 0.5, "layers": [1, 2], "note": 'a "b" \\ \u00e4', "deep": [[[{}]]]})
    for _ in range(n):
        content = bytearray(good.encode())
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            content[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
        try:
            read_json(bytes(content), what="The card")
        except ValueError as error:
            assert str(error).startswith("The card can't be read as JSON: ") and "\n" not in str(error)
