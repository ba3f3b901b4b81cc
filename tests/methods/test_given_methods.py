"""Methods as users call them: what doesn't fit is one sentence, and a string of letters is no list of prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab import methods

PAIRS = kv.ContrastiveSet.from_texts(
    ["Step 1, add. Sum?", "Step 1, add. Rest?", "Step 1, add. All?"], ["Sum?", "Rest?", "All?"]
)
ASKED, SAID = ["What is 2 + 3?", "What is 4 + 5?"], ["Step 1: add.", "Step 1: add."]

Given = tuple[kv.Model, Any, kv.KVVectors, kv.edits.Bank]
ALL = kv.spans.Everything()
SCORES = pd.DataFrame({"layer": [9], "kv_head": [0], "logit": [1.0]})


@pytest.fixture(scope="module")
def given(tiny: kv.Model) -> Given:
    differences = kv.extract_pairs(tiny, PAIRS, progress=False)
    return tiny, differences, differences.mean(), kv.edits.Bank.of(tiny, "What is 2 + 3?")


@pytest.mark.parametrize(
    "name", ["mean_difference", "first_component", "whitened", "logistic", "nearest_pair", "clustered"]
)
def test_a_mean_is_no_differences_of_pairs(name: str, given: Given) -> None:
    with pytest.raises(ValueError, match=r"^Differences of single pairs are asked for, .+ not a KVVectors.$"):
        getattr(methods, name)(given[2])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, d, v, b: methods.clustered(d, 1.5), "The number of clusters is 1.5"),
        (lambda m, d, v, b: methods.clustered(d, 2, layer=9), "There is no layer 9; choose -4 to 3"),
        (lambda m, d, v, b: methods.logistic(d, steps=0), "steps=0 must be at least 1"),
        (lambda m, d, v, b: methods.logistic(d, penalty=-1), "penalty=-1 at least 0"),
        (lambda m, d, v, b: methods.whitened(d, "0.1"), "The shrinkage is '0.1'; it must be a finite number"),
        (lambda m, d, v, b: methods.several_slots(m, PAIRS, 1.5, 0, 1), "The number of slots is 1.5"),
        (lambda m, d, v, b: methods.best_heads(v, SCORES, 1), "layer 9, KV head 0, which the vectors haven't got"),
        (lambda m, d, v, b: methods.best_heads(v, None, 1), "The scores lack kv_head, layer, logit"),
        (lambda m, d, v, b: methods.largest_heads(v, 1.5), "The number of heads is 1.5"),
        (lambda m, d, v, b: methods.scheduled(v, 2.0), "A schedule has one finite weight for each of 4 layers"),
        (lambda m, d, v, b: methods.scheduled(v, "rise"), "A schedule has one finite weight"),
        (lambda m, d, v, b: methods.scheduled(v, lambda depth: None), "A schedule has one finite weight"),
        (lambda m, d, v, b: methods.key_orthogonal(v, None), "The bank is of type NoneType"),
        (lambda m, d, v, b: methods.key_orthogonal(v, b, 1.5), "The rank is 1.5"),
        (lambda m, d, v, b: methods.key_projection(d, "1", span=ALL), "The gain is '1'; it must be a finite number"),
        (lambda m, d, v, b: methods.key_projection(v, 1, span=ALL), "Differences of single pairs are asked for"),
        (lambda m, d, v, b: methods.value_gram(d, b, float("nan"), span=ALL), "The gain is nan"),
        (lambda m, d, v, b: methods.value_gram(d, None, 1, span=ALL), "The bank is of type NoneType"),
        (lambda m, d, v, b: methods.turned(v, "30"), "The angle is '30'; it must be a finite number"),
        (lambda m, d, v, b: methods.retrieved(m, PAIRS, 0, float("nan")), "The coefficient cv is nan"),
        (lambda m, d, v, b: methods.learned_delta(m, ASKED, SAID, rate=float("nan")), "The rate is nan"),
        (lambda m, d, v, b: methods.learned_delta(m, ASKED, SAID, penalty=-1), "penalty=-1 at least 0"),
        (lambda m, d, v, b: methods.learned_delta(m, ASKED, SAID, neutral_replies=["So."]), "0 prompts and 1 replies"),
        (lambda m, d, v, b: methods.learned_bank(m, None, ASKED, SAID), "The bank is of type NoneType"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call: Callable[..., Any], sentence: str, given: Given) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        call(*given)
    assert "\n" not in str(error.value)


def test_a_gate_is_fitted_to_prompts_and_not_to_letters(tiny: kv.Model) -> None:
    one, listed = (methods.fit_gate(tiny, *both) for both in (("What is 2?", "Hello."), (["What is 2?"], ["Hello."])))
    assert one.layer == listed.layer and one.at_least == listed.at_least
    foreign = kv.KVVectors(torch.ones(2, 1, 4), torch.ones(2, 1, 4), kv.extract(tiny, PAIRS, progress=False).card)
    with pytest.raises(ValueError, match="The condition's values are of another model"):
        methods.fit_gate(tiny, ASKED, ["Hello."], foreign)
