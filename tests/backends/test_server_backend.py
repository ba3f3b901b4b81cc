"""Decoding by a server: the same rows, named vectors, and a server that would answer unsteered is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from steered_server import Served, serving

import kvsteer_lab as kv

PROMPTS = ["Ann has 3 coins and finds 4. How many?", "Bob has 9 apples and eats 2. How many are left?"]
SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def vectors() -> kv.KVVectors:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)
    return kv.extract(model, pairs, progress=False)


def test_rows_are_those_of_this_process(vectors: kv.KVVectors) -> None:
    model = kv.load("tiny")
    steered = kv.CacheSteering(vectors, 0, 3)
    methods = [
        kv.Nothing(),
        kv.NoOffset(),
        kv.CoTPrompt(),
        kv.ForcedPrefix("Step"),
        steered,
        kv.CacheSteering(vectors, 0.2, 2, layers=[2, 1]),
    ]
    here = kv.generate(model, PROMPTS, methods, generation=SHORT)
    served = Served(model, {"stepwise": vectors})
    with serving(served) as url:
        there = kv.generate(
            model, PROMPTS, methods, generation=SHORT, backend=kv.backends.Server(url, {"stepwise": vectors})
        )
        again = kv.evaluate(
            model,
            kv.tasks.get("tiny-arithmetic"),
            steered,
            n=2,
            generation=SHORT,
            backend=kv.backends.Server(url, {"stepwise": vectors}),
            progress=False,
        )
    assert there.rows == here.rows and here.of(steered.label)[0].text != here.of("baseline")[0].text
    assert again.interventions == ["baseline", "no offset", steered.label]
    asked = [body["kv_steering"] for body in served.asked if "kv_steering" in body]
    assert {"vectors": "stepwise", "ck": 0.2, "cv": 2.0, "layers": [1, 2]} in asked
    assert all(set(one) <= {"vectors", "ck", "cv", "layers"} for one in asked), "a client sends names, no tensors"


def test_a_server_that_would_answer_unsteered_is_refused(vectors: kv.KVVectors) -> None:
    model, steered = kv.load("tiny"), kv.CacheSteering(vectors, 0, 3)
    deaf = Served(model, {"stepwise": vectors}, steers=False)
    with serving(deaf) as url:
        backend = kv.backends.Server(url, {"stepwise": vectors})
        with pytest.raises(ValueError, match=r"answered 404: no such page"):
            kv.generate(model, PROMPTS, steered, generation=SHORT, backend=backend)
        assert not deaf.asked
        settled = kv.generate(model, PROMPTS[:1], generation=SHORT, backend=backend)  # unsteered, any server will do
        assert settled.texts == kv.generate(model, PROMPTS[:1], generation=SHORT).texts
        deaf.steers = True
        job_list = deaf.listing
        deaf.complete = lambda body, ask=deaf.complete: (*ask(body)[:2], {})  # type: ignore[method-assign,misc]
        assert job_list()["vectors"]
        with pytest.raises(ValueError, match=r"didn't say that it steered \(x-kv-steering: stepwise ck=0 cv=3\)"):
            kv.generate(model, PROMPTS, steered, generation=SHORT, backend=backend)


def test_what_cannot_be_asked_of_a_server_is_refused_before_anything_runs(vectors: kv.KVVectors) -> None:
    model, steered = kv.load("tiny"), kv.CacheSteering(vectors, 0, 3)
    served = Served(model, {"stepwise": vectors}, limit=8.0)
    other = replace(vectors, card=replace(vectors.card, offset_id=7))
    with serving(served) as url:
        named = kv.backends.Server(url, {"stepwise": vectors})
        for backend, method, says in [
            (named, steered.random_control(0), r"have no name on the server.*named are stepwise"),
            (named, kv.CacheSteering(vectors, 0, 3, heads=[0]), "has single heads, which the server can't add"),
            (named, kv.CacheSteering(vectors, 0, 3, slot=-2), "edits another slot than the prompt's last"),
            (named, kv.Together(steered, kv.ForcedPrefix("Step")), "does more than add vectors by name"),
            (named, kv.CacheSteering(vectors, 0, 9), "takes coefficients up to 8, not 9"),
            (kv.backends.Server(url, {"other": vectors}), steered, "has no vectors 'other', but stepwise"),
            (kv.backends.Server(url, {"stepwise": other}), replace(steered, vectors=other), "another offset token"),
        ]:
            with pytest.raises(ValueError, match=says):
                kv.generate(model, PROMPTS, method, generation=SHORT, backend=backend)
        with pytest.raises(ValueError, match="do_sample can't be done by the server"):
            kv.generate(model, PROMPTS, generation={"do_sample": True}, backend=named)
    assert not served.asked
    with pytest.raises(ValueError, match=r"No server answers at http://127.0.0.1:9"):
        kv.generate(model, PROMPTS, generation=SHORT, backend=kv.backends.Server("http://127.0.0.1:9"))


@dataclass(frozen=True)
class Twice(kv.CacheSteering):
    """Named vectors that are added in a way of its own."""

    def deltas(self, model: kv.Model, lengths: Sequence[int]) -> list[tuple[kv.edits.CacheEdit, ...]]:
        return kv.CacheSteering(self.vectors, 2 * self.ck, 2 * self.cv).deltas(model, lengths)


def test_a_method_that_adds_in_its_own_way_is_not_asked_for_by_name(vectors: kv.KVVectors) -> None:
    """The server would add what the name says, and the rows would be another method's."""
    backend = kv.backends.Server("http://127.0.0.1:9", {"stepwise": vectors})
    with pytest.raises(ValueError, match=r"'twice' does more than add vectors by name; run it without backend"):
        kv.generate(kv.load("tiny"), PROMPTS, Twice(vectors, 0, 3, name="twice"), generation=SHORT, backend=backend)


@pytest.mark.parametrize(
    "said", [{}, {"vectors": 5}, {"vectors": [5]}, {"vectors": [{}]}, {"vectors": [], "limit": "x"}]
)
def test_a_listing_that_is_not_understood_is_refused(vectors: kv.KVVectors, said: dict[str, object]) -> None:
    model, served = kv.load("tiny"), Served(kv.load("tiny"), {"stepwise": vectors})
    served.listing = lambda: said  # type: ignore[method-assign]
    with serving(served) as url, pytest.raises(ValueError, match="lists its vectors in a form that isn't known"):
        backend = kv.backends.Server(url, {"stepwise": vectors})
        kv.generate(model, PROMPTS, kv.CacheSteering(vectors, 0, 3), generation=SHORT, backend=backend)
    assert not served.asked


def test_a_refusal_of_the_server_is_passed_on(vectors: kv.KVVectors) -> None:
    model, served = kv.load("tiny"), Served(kv.load("tiny"), {"stepwise": vectors})
    served.complete = lambda body: (400, {"error": {"message": "max_tokens is too large."}}, {})  # type: ignore[method-assign]
    with serving(served) as url, pytest.raises(ValueError, match=r"answered 400: max_tokens is too large\."):
        kv.generate(model, PROMPTS, generation=SHORT, backend=kv.backends.Server(url))


def test_a_reply_that_the_server_cuts_short_is_refused(vectors: kv.KVVectors) -> None:
    model, served = kv.load("tiny"), Served(kv.load("tiny"), {"stepwise": vectors})
    whole = served.complete
    served.complete = lambda body: whole({**body, "max_tokens": 3})  # type: ignore[method-assign]
    with serving(served) as url, pytest.raises(ValueError, match="ended a reply after 3 of 12 tokens; its context or"):
        kv.generate(model, PROMPTS, generation=SHORT, backend=kv.backends.Server(url))
    with serving(served) as url, pytest.raises(ValueError, match=r"serves no model 'other', but smol\."):
        kv.generate(model, PROMPTS, generation=SHORT, backend=kv.backends.Server(url, model="other"))
