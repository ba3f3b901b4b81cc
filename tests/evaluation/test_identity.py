"""What makes two runs the same one, and what doesn't."""

import re
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab._util.provenance import commit, provenance
from kvsteer_lab.evaluation.evaluate import with_baselines
from kvsteer_lab.evaluation.identity import describe, differences, hash_of
from kvsteer_lab.evaluation.plan import EvaluationPlan
from kvsteer_lab.evaluation.run_identity import identify
from kvsteer_lab.tasks.base import Question


@dataclass(frozen=True)
class Method(kv.Intervention):
    tensor: Any = None
    number: float = 0
    text: str = "a"

    @property
    def label(self) -> str:
        return "mine"


def test_equal_parameters_have_one_hash():
    assert hash_of(describe(Method(torch.ones(2), 1.0))) == hash_of(describe(Method(torch.ones(2).clone(), 1)))
    assert hash_of(describe({"b": (1, 2), "a": {"y", "x"}})) == hash_of(describe({"a": {"x", "y"}, "b": [1, 2]}))
    assert (
        describe(np.float32(0.5)) == 0.5
        and describe(torch.bfloat16) == "torch.bfloat16"
        and describe(float("-inf")) == "-inf"
    )


@pytest.mark.parametrize(
    "other",
    [
        Method(torch.ones(2) * (1 + 1e-7), 1),
        Method(torch.ones(2, 1), 1),
        Method(torch.ones(2, dtype=torch.float64), 1),
        Method(torch.ones(2).bfloat16(), 1),
        Method(np.ones(2, dtype=np.float32), 1),
        Method(torch.ones(2), 1.5),
        Method(torch.ones(2), True),
        Method(torch.ones(2), 1, "b"),
        Method(None, 1),
    ],
)
def test_every_parameter_counts(other):
    assert hash_of(describe(Method(torch.ones(2), 1))) != hash_of(describe(other))


def test_what_a_card_tells_doesn_t_count_but_how_keys_are_used_does(vectors):
    renamed = replace(vectors, card=replace(vectors.card, note="moved", history=("read again",), model="elsewhere"))
    assert describe(kv.CacheSteering(vectors, 1, 1)) == describe(kv.CacheSteering(renamed, 1, 1))
    free = replace(vectors, card=replace(vectors.card, keys="position_free"))
    assert describe(kv.CacheSteering(vectors, 1, 1)) != describe(kv.CacheSteering(free, 1, 1))
    assert describe(kv.CacheSteering(vectors, 1, 1)) != describe(kv.CacheSteering(vectors * 2, 1, 1))
    assert describe(kv.CacheSteering(vectors, 1, 1)) != describe(kv.CacheSteering(vectors, 1, 1, layers=[1]))
    assert len({hash_of(describe(control)) for control in kv.random_controls(kv.CacheSteering(vectors, 1, 1), 5)}) == 5


def test_what_has_no_description_is_refused():
    with pytest.raises(ValueError, match=r"can't be identified by a object; make it a dataclass"):
        describe(Method(tensor=object()))


def test_differences_name_the_places():
    there, here = (
        describe({"a": {"b": [1, 2]}, "c": "x", "same": 3}),
        describe({"a": {"b": [1, 5]}, "d": "y", "same": 3}),
    )
    assert (
        differences(there, here)
        == 'a.b[1] is 2 there and 5 here; c is "x" there and absent here; d is absent there and "y" here'
    )
    many = differences({str(i): i for i in range(9)}, {str(i): -1 for i in range(9)})
    assert many.endswith("; and 6 more")


@pytest.fixture(scope="module")
def plan(tiny):
    task = kv.tasks.get("tiny-arithmetic")
    return EvaluationPlan(tiny, task, with_baselines(kv.CoTPrompt()), "\n", None, 1, 0, "steered", 64)


@pytest.fixture(scope="module")
def questions(plan):
    return plan.task.questions("dev", 5)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (dict(seed=1), "settings.seed is 0 there and 1 here"),
        (dict(offset=" "), "settings.offset"),
        (dict(generation={"max_new_tokens": 5}), "settings.generation.max_new_tokens is 128 there and 5 here"),
        (dict(generation={"repetition_penalty": 1.5}), "settings.generation.other.repetition_penalty"),
        (
            dict(generation={"do_sample": True, "temperature": 0.5}),
            "settings.generation.sample is false there and true here",
        ),
        (dict(second_stage="unsteered"), "settings.second_stage"),
        (dict(methods=with_baselines(kv.CoTPrompt("Think."))), r"interventions\[2\].text"),
        (dict(methods=with_baselines([])), r"interventions\[2\].label"),
    ],
)
def test_every_setting_is_part_of_a_run(plan, questions, change, place):
    other = identify(replace(plan, **change), questions)
    assert re.search(place, differences(identify(plan, questions).texts, other.texts))


def test_data_is_part_of_a_run(plan, questions):
    own = identify(plan, questions)
    first = questions[0]
    asked_otherwise = [Question(first.id, first.text + " ", first.answer), Question("other", first.text, first.answer)]
    for question in asked_otherwise:
        found = identify(plan, [question, *questions[1:]])
        assert "data.prompts" in differences(own.texts, found.texts) and own.readings != found.readings
    other_gold = identify(plan, [Question(first.id, first.text, "-1"), *questions[1:]])
    assert own.texts == other_gold.texts and "answers" in differences(own.readings, other_gold.readings)
    assert own.texts != identify(plan, questions[:4]).texts and own.texts != identify(plan, questions[::-1]).texts


def test_how_rows_are_computed_is_no_part_of_a_run(plan, questions):
    assert identify(plan, questions) == identify(replace(plan, batch_size=3), questions)


def test_provenance_names_versions_and_nothing_of_the_machine():
    found = provenance("cpu")
    assert (
        found["torch"] == version("torch")  # a wheel of the index has no +cpu in it
        and found["device"] == "cpu"
        and re.match(r"\d{4}-\d\d-\d\dT", found["date"])
    )
    assert commit() is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit())
    assert "/" not in "".join(str(v) for v in found.values())
