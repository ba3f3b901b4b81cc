"""What a server's clients may ask for, and what is refused in one sentence."""

import json
import math

import pytest

from kvsteer_lab.serving.request import LIMIT, SteeringRequest, check_name, read_request

SERVED = {"stepwise": 30, "other.2": 4}
GOOD = {"vectors": "stepwise", "ck": 0, "cv": 4, "layers": [3, 1]}


def test_a_good_request_is_read_from_a_value_and_from_text():
    expected = SteeringRequest(vectors="stepwise", ck=0.0, cv=4.0, layers=(1, 3))
    assert read_request(GOOD, SERVED) == expected == read_request(json.dumps(GOOD), SERVED)
    assert hash(expected) == hash(read_request(GOOD, SERVED))  # servers keep what they add by request
    assert expected.describe() == "stepwise ck=0 cv=4 layers=1,3"


def test_left_out_fields():
    request = read_request({"vectors": "stepwise", "cv": 4}, SERVED)
    assert (request.ck, request.layers, request.adds) == (0.0, None, True)
    assert not read_request({"vectors": "stepwise", "cv": 0}, SERVED).adds
    with pytest.raises(ValueError, match=r"cv: Field required"):  # no coefficient is guessed
        read_request({"vectors": "stepwise", "ck": 1}, SERVED)


@pytest.mark.parametrize(
    "asked",
    [
        {**GOOD, "slot": -2},
        {**GOOD, "offset": 10**9},
        {**GOOD, "offset_id": 3},
        {**GOOD, "cv": "4"},
        {**GOOD, "cv": True},
        {**GOOD, "cv": None},
        {**GOOD, "cv": [4]},
        {**GOOD, "cv": math.nan},
        {**GOOD, "cv": math.inf},
        {**GOOD, "cv": 10**400},
        {**GOOD, "ck": -math.inf},
        {**GOOD, "cv": LIMIT + 1},
        {**GOOD, "ck": -LIMIT - 1},
        {**GOOD, "vectors": "nope"},
        {**GOOD, "vectors": "Stepwise"},
        {**GOOD, "vectors": "stepwise\n"},
        {**GOOD, "vectors": "../../etc/passwd"},
        {**GOOD, "vectors": "/etc/passwd"},
        {**GOOD, "vectors": ["stepwise"]},
        {**GOOD, "vectors": None},
        {**GOOD, "vectors": ""},
        {**GOOD, "vectors": "a" * 65},
        {**GOOD, "layers": []},
        {**GOOD, "layers": [30]},
        {**GOOD, "layers": [-1]},
        {**GOOD, "layers": [1, 1]},
        {**GOOD, "layers": [1.0]},
        {**GOOD, "layers": [True]},
        {**GOOD, "layers": ["1"]},
        {**GOOD, "layers": 1},
        {**GOOD, "layers": list(range(2000))},
        {**GOOD, "layers": [10**400]},
        {"cv": 4},
        {},
        [],
        5,
        None,
        True,
        "stepwise",
        "{",
        "[1]",
        '{"vectors": "stepwise", "cv": NaN}',
        '{"vectors": "stepwise", "cv": 1e999}',
        "[" * 500,
        {"vectors": "stepwise", "cv": object()},
        {"vectors": "stepwise", "cv": 4, "x\x1b[31m\n" * 50: 1},
        {"vectors": "\ud800", "cv": 4},
    ],
    ids=lambda asked: str(asked)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_what_is_refused_is_refused_in_one_sentence(asked):
    with pytest.raises(ValueError) as refused:
        read_request(asked, SERVED)
    said = str(refused.value)
    assert said.startswith("kv_steering") and said.endswith(".") and "\n" not in said and "\x1b" not in said
    assert len(said) < 400
    assert type(refused.value) is ValueError  # pydantic's own error would show what was sent


def test_the_owner_sets_the_limit():
    assert read_request({**GOOD, "cv": 100}, SERVED, limit=100).cv == 100
    with pytest.raises(ValueError, match=r"kv_steering\.cv is 5; this server takes coefficients from -4 to 4\."):
        read_request({**GOOD, "cv": 5}, SERVED, limit=4)


def test_a_server_without_vectors_says_so():
    with pytest.raises(ValueError, match="this server has none"):
        read_request(GOOD, {})


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "A", "a b", "a" * 65, "ä"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="can't name vectors"):
        check_name(name)
