"""What stands before a server: refusals in one sentence, nothing read before a client is let in, all else untouched."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_bodies import GOOD, bodies, odd_bodies

import kvsteer_lab as kv
from kvsteer_lab.serving.admission import PATHS, Admission, Refusal, admit
from kvsteer_lab.serving.catalogue import VARIABLE, Catalogue
from kvsteer_lab.serving.request import HEADER, KEY, NAMES_PATH, read_request
from kvsteer_lab.vectors.cards import Card

CHAT = {"model": "m", "messages": [{"role": "user", "content": "How many?"}]}


def card(**changes: Any) -> Card:
    whole = dict(model="m", model_type="llama", fingerprint="2-00-00", dtype="torch.float32", keys="post_rope")
    return Card(**{**whole, "offset_id": 3, "template_hash": None, "n_pairs": 2, **changes})  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return kv.KVVectors(torch.ones(30, 2, 4), 2 * torch.ones(30, 2, 4), card()).save(tmp_path / "v.safetensors")


@pytest.fixture
def catalogue(file: Path) -> Catalogue:
    return Catalogue.load({"stepwise": file}, body_megabytes=1)


class Server:
    """A stand-in for vLLM: reads the body as FastAPI does, once the client is let in, and answers 200."""

    def __init__(self, catalogue: Catalogue, *, lets_in: bool = True) -> None:
        self.bodies: list[bytes] = []
        self.pulled, self.lets_in = 0, lets_in
        self.app = Admission(self._inner, catalogue)

    async def _inner(self, scope: Any, receive: Any, send: Any) -> None:
        status, body = 200, b""
        if not self.lets_in:
            status = 401
        elif scope["method"] == "GET":
            status = 404
        else:
            try:
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if not message.get("more_body", False):
                        break
                self.bodies.append(body)
            except Exception:  # as FastAPI does with whatever happens while a body is read
                status = 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        for piece in (b'{"from": ', b'"inside"}'):
            await send({"type": "http.response.body", "body": piece, "more_body": piece != b'"inside"}'})

    def ask(
        self, body: bytes, path: str = PATHS[0], method: str = "POST", headers: tuple[tuple[str, str], ...] = ()
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of the response to one request, sent in two pieces."""
        half = len(body) // 2
        pieces = [(body[:half], True), (body[half:], False)]
        sent: list[Any] = []

        async def receive() -> Any:
            self.pulled += 1
            piece, more = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": more}

        async def send(message: Any) -> None:
            sent.append(message)

        default = () if any(name == "content-type" for name, _ in headers) else (("content-type", "application/json"),)
        named = [(a.encode(), b.encode()) for a, b in (*default, *headers)]
        scope = {"type": "http", "method": method, "path": path, "headers": named, "root_path": ""}
        asyncio.run(self.app(scope, receive, send))
        assert [message["type"] for message in sent].count("http.response.start") == 1
        answered = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], json.loads(answered), {a.decode(): b.decode() for a, b in sent[0]["headers"]}


def body(**more: Any) -> bytes:
    return json.dumps({**CHAT, **more}).encode()


@pytest.mark.parametrize("path", PATHS)
def test_a_good_request_reaches_the_engine_and_the_answer_says_what_was_added(catalogue, path):
    server = Server(catalogue)
    status, _, headers = server.ask(body(kv_steering={**GOOD, "layers": [2, 1]}, vllm_xargs={"x": 1}), path)
    assert (status, headers[HEADER]) == (200, "stepwise ck=0 cv=2 layers=1,2")
    (inside,) = map(json.loads, server.bodies)
    assert KEY not in inside and inside["messages"] == CHAT["messages"] and inside["vllm_xargs"]["x"] == 1
    assert read_request(inside["vllm_xargs"][KEY], {"stepwise": 30}).layers == (1, 2)


def test_an_unsteered_request_is_left_as_it_is(catalogue):
    server = Server(catalogue)
    for sent in (body(), b" {not json", json.dumps({**CHAT, "n": "kv\u2019"}).encode(), body(note="about kv_steering")):
        status, answered, headers = server.ask(sent)
        assert status == 200 and answered == {"from": "inside"} and HEADER not in headers
        assert server.bodies.pop() == sent
    assert server.ask(body(kv_steering=None))[0] == 200
    assert json.loads(server.bodies.pop()) == CHAT


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"kv_steering": {**GOOD, "vectors": "nope"}}, "this server has stepwise"),
        ({"kv_steering": {**GOOD, "cv": 65}}, "from -64 to 64"),
        ({"kv_steering": {**GOOD, "layers": [30]}}, "layers 0 to 29"),
        ({"kv_steering": {**GOOD, "cv": float("nan")}}, "NaN"),
        ({"kv_steering": {**GOOD, "slot": -2}}, "slot"),
        ({"kv_steering": GOOD, "use_beam_search": True}, "beam search"),
        ({"kv_steering": GOOD, "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"kv_steering": GOOD, "prompt_embeds": "x"}, "prompt_embeds"),
        ({"kv_steering": GOOD, "kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
        ({"kv_steering": GOOD, "vllm_xargs": 3}, "vllm_xargs"),
        ({"kv_steering": "stepwise"}, 'must be an object such as {"vectors"'),
        ({"kv-steering": GOOD}, "The field is called kv_steering, not 'kv-steering'."),
        ({"KV_Steering": GOOD}, "The field is called kv_steering"),
        ({"kvSteering ": GOOD}, "The field is called kv_steering"),
        ({"vllm_xargs": {"kv_steering": "{}"}}, "at the top"),
        ({"extra_body": {"kv_steering": GOOD}}, "at the top"),
        ({"sampling_params": {"extra_args": {"kv_steering": json.dumps(GOOD)}}}, "at the top"),
        ({"tools": [{"x": [{"kv_steering": GOOD}]}]}, "at the top"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(catalogue, more, says):
    server = Server(catalogue)
    status, answered, _ = server.ask(body(**more))
    assert status == 400 and says in answered["error"]["message"] and not server.bodies
    assert answered["error"]["param"] == KEY


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_encoding_hides_nothing(catalogue, encoding):
    """Python's JSON reader, which servers use, takes UTF-16 and 32: the field would be ignored, or reach the engine."""
    server = Server(catalogue)
    for more in ({"kv_steering": GOOD}, {"vllm_xargs": {"kv_steering": json.dumps(GOOD)}, "use_beam_search": True}):
        status, answered, _ = server.ask(body(**more).decode().encode(encoding))
        assert status == 400 and answered["error"]["message"].endswith(".") and not server.bodies
    plain = body().decode().encode(encoding)
    assert server.ask(plain)[0] == 200 and server.bodies == [plain] and json.loads(plain) == CHAT


@pytest.mark.parametrize("other", ["null", '{"vectors": "stepwise", "cv": 4}'])
def test_a_field_that_is_there_twice_is_refused(catalogue, other):
    """Readers take the first or the last: what was asked for would be a matter of luck, and one of them unsteered."""
    server, whole = Server(catalogue), body(kv_steering=GOOD)
    for sent in (
        whole[:-1] + f', "kv_steering": {other}}}'.encode(),
        b'{"kv_steering": %s, ' % other.encode() + whole[1:],
        whole.replace(b'"cv": 2', b'"cv": 2, "cv": 4'),
    ):
        status, answered, _ = server.ask(sent)
        assert status == 400 and "twice." in answered["error"]["message"] and not server.bodies


def test_a_second_content_type_hides_nothing(catalogue):
    """Of several headers of one name a server takes the first, or the last."""
    server, path = Server(catalogue), "/inference/v1/generate"
    sent = body(sampling_params={"extra_args": {"kv_steering": json.dumps(GOOD)}})
    for kinds in (["application/json", "text/plain"], ["text/plain", "application/json"], ["application/json, text/x"]):
        headers = tuple(("content-type", kind) for kind in kinds)
        assert server.ask(sent, path, headers=headers)[0] == 400 and not server.bodies


def test_other_paths_refuse_what_they_would_ignore(catalogue):
    server = Server(catalogue)
    for path in ("/v1/responses", "/v1/messages", "/inference/v1/generate", "/invocations", "/tokenize"):
        status, answered, _ = server.ask(body(kv_steering=GOOD), path)
        assert status == 400 and "/v1/completions only" in answered["error"]["message"]
        inside = body(sampling_params={"extra_args": {"kv_steering": json.dumps(GOOD)}})
        assert server.ask(inside, path)[0] == 400
        assert server.ask(body(), path)[0] == 200
    written = b"kv_steering=1"  # a form, not JSON: left to the server
    assert server.ask(written, "/v1/audio/x", headers=(("content-type", "multipart/form-data"),))[0] == 200


def test_nothing_is_read_before_the_server_lets_the_client_in(catalogue):
    server = Server(catalogue, lets_in=False)
    for sent in (body(kv_steering=GOOD), body(kv_steering="bad"), b"x" * 2_000_000):
        assert server.ask(sent)[:2] == (401, {"from": "inside"})
    assert server.pulled == 0
    assert server.ask(b"", NAMES_PATH, "GET")[0] == 401  # names are told to those who are let in


def test_names_are_listed_without_paths(catalogue, file):
    status, answered, _ = Server(catalogue).ask(b"", NAMES_PATH, "GET")
    (one,) = answered["vectors"]
    assert (status, one["name"], one["layers"], one["offset_id"], answered["limit"]) == (200, "stepwise", 30, 3, 64.0)
    assert str(file) not in json.dumps(answered)
    assert Server(catalogue).ask(b"", "/v1/other", "GET")[0] == 404


def test_a_body_has_a_limit_whatever_its_length_is_said_to_be(catalogue):
    server, large = Server(catalogue), body(note="x" * 1_100_000)
    for headers in (
        (),
        (("content-length", "5"),),
        (("content-length", "9" * 4000),),
        (("content-length", "2000000"),),
    ):
        status, answered, _ = server.ask(large, headers=headers)
        assert status == 413 and "larger than 1 MB" in answered["error"]["message"]
    assert not server.bodies
    assert server.ask(body(note="x" * 900_000))[0] == 200


def test_a_disconnect_while_a_body_is_read_reaches_the_server(catalogue):
    seen = []

    async def inner(scope, receive, send):
        seen.append(await receive())

    async def receive():
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": PATHS[0], "headers": [], "root_path": ""}
    asyncio.run(Admission(inner, catalogue)(scope, receive, None))
    assert seen == [{"type": "http.disconnect"}]


def holds(value: Any) -> bool:
    """Whether the field, or a name that is meant to be it, stands anywhere in what a server would read."""
    if isinstance(value, dict):
        return any(name.strip("_ ").replace("-", "_").lower() == KEY for name in value) or any(
            map(holds, value.values())
        )
    return isinstance(value, list) and any(map(holds, value))


def test_seven_hundred_bodies(catalogue):
    """Each is refused in one sentence, or handed on with nothing but a checked request in it."""
    server, counts = Server(catalogue), {200: 0, 400: 0}
    for sent in (*bodies(17, 500, CHAT), *odd_bodies(CHAT)):
        status, answered, headers = server.ask(sent)
        counts[status] += 1
        if status == 400:
            said = answered["error"]["message"]
            assert not server.bodies and len(said) < 600 and "\n" not in said and said.endswith(".")
            assert not any(ord(character) < 32 for character in said)
            continue
        inside = server.bodies.pop()
        if HEADER in headers:
            value = json.loads(inside)
            request = read_request(value["vllm_xargs"][KEY], {"stepwise": 30})
            assert KEY not in value and request.describe() == headers[HEADER] and abs(request.cv) <= 64
            for name in ("use_beam_search", "prompt_embeds", "prompt_logprobs", "kv_transfer_params"):
                assert value.get(name) in (None, False)
        else:  # asked for nothing, or is no JSON object that any server could read
            try:
                value = json.loads(inside)
            except (ValueError, RecursionError):
                continue
            assert not isinstance(value, dict) or (value.get(KEY) is None and not holds(value))
    assert sum(counts.values()) > 700 and counts[200] > 50 and counts[400] > 200


def test_admit_gives_back_the_same_bytes_where_nothing_is_asked(catalogue):
    sent = body(note="x")
    assert admit(sent, PATHS[0], catalogue)[0] is sent
    with pytest.raises(Refusal):
        admit(body(kv_steering=5), PATHS[0], catalogue)


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_a_catalogue_is_the_same_in_another_process(catalogue, monkeypatch):
    monkeypatch.setenv(VARIABLE, catalogue.to_variable())
    found = Catalogue.from_environment()
    assert found.to_variable() == catalogue.to_variable() and found.body_megabytes == 1
    request = found.read({**GOOD, "ck": 0.5, "layers": [0, 4]})
    added = found.added(request)
    assert added.shape == (2, 30, 2, 4) and added.dtype == torch.float32
    assert added[:, :, 0, 0].nonzero().tolist() == [[0, 0], [0, 4], [1, 0], [1, 4]]
    assert (added[0, 4, 0, 0], added[1, 4, 0, 0]) == (0.5, 4.0)
    whole = found.added(found.read(GOOD))  # layer 1 and above, as in `kv.CacheSteering`
    steering = kv.CacheSteering(kv.KVVectors.load(found.vectors["stepwise"].path), 0, 2)
    assert torch.equal(whole[1], 2 * steering.added.values) and not whole[0].any()


def test_an_environment_without_a_catalogue_is_refused(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match="kvsteer serve"):
        Catalogue.from_environment()
    for text in ("{", "{}", '{"vectors": 3, "limit": 1, "body_megabytes": 1, "behind_middleware": true}'):
        monkeypatch.setitem(os.environ, VARIABLE, text)
        with pytest.raises(ValueError, match=VARIABLE):
            Catalogue.from_environment()


def test_vectors_that_cannot_be_served_are_refused(tmp_path, file):
    ones = torch.ones(3, 2, 4)
    first = torch.zeros(3, 2, 4)
    first[0] = 1  # layer 0 alone is never added to by default
    cases = {
        "rotate": kv.KVVectors(ones, 2 * ones, card(keys="position_free")),
        "no offset token": kv.KVVectors(ones, 2 * ones, card(offset_id=None)),
        "zeros only": kv.KVVectors(first, 2 * first, card()),
    }
    for says, vectors in cases.items():
        with pytest.raises(ValueError, match=says):
            Catalogue.load({"x": vectors.save(tmp_path / "x.safetensors")})
    with pytest.raises(ValueError, match="No vectors are named"):
        Catalogue.load({})
    with pytest.raises(ValueError, match="can't name vectors"):
        Catalogue.load({"../x": file})
    with pytest.raises(ValueError, match="There are no vectors"):
        Catalogue.load({"x": tmp_path / "none.safetensors"})
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        Catalogue.load({"x": tmp_path / "broken.safetensors"})


def test_vectors_are_compared_with_the_model(catalogue):
    one = catalogue.vectors["stepwise"]
    one.check_shape(30, 2, 4)
    one.check_offset(4)
    with pytest.raises(
        ValueError, match="30 layers, 2 KV heads of width 4, the served model has 30 layers, 4 KV heads"
    ):
        one.check_shape(30, 4, 4)
    with pytest.raises(ValueError, match="offset token 3, the served model has tokens 0 to 2"):
        one.check_offset(3)
