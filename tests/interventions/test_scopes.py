"""Scopes of activation steering: each is what a published tool does, token for token, by runs that those tools wrote
and by a plain loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from random_models import PROMPTS, activations_for, newline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import kvsteer_lab as kv
from kvsteer_lab.edits.residual import ResidualDelta
from kvsteer_lab.evaluation.identity import describe
from kvsteer_lab.generation.elicitation import letter_tokens

FOLDER = Path(__file__).parent.parent / "fixtures" / "steering_packages"
WRITTEN = json.loads((FOLDER / "runs.json").read_text(encoding="utf-8"))
RUNS = [run for run in WRITTEN["runs"] if run["scope"]]
ENDLESS = {"max_new_tokens": 8, "eos_token_id": []}
Load = Callable[[str], kv.Model]


def words(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


@pytest.fixture(scope="module")
def written() -> kv.Model:
    """The model that the packages steered; token i is the word `wi`."""
    vocabulary = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    return kv.load(
        AutoModelForCausalLM.from_pretrained(FOLDER),
        PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="w0"),
    )


def steered(model: kv.Model, run: dict[str, Any], **settings: Any) -> kv.ActivationSteering:
    vectors = kv.ActivationVectors.from_steering_vectors(FOLDER / "vectors.safetensors", model)
    chosen = dict(scope=run["scope"], cache=run["cache"], **settings)
    return kv.ActivationSteering(vectors, run["layers"], WRITTEN["coefficient"], **chosen)


# --- what the packages wrote ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["one-shot", "onward", "all tokens", "last position"])
def test_a_scope_is_what_the_packages_do(scope: str, written: kv.Model) -> None:
    runs = [run for run in RUNS if run["scope"] == scope]
    assert {run["package"] for run in runs} >= (
        {"repeng", "steering-vectors"} if scope == "all tokens" else {"steering-vectors"}
    )
    new = {"max_new_tokens": WRITTEN["new"]}
    for run in runs:
        (found,) = kv.generate(
            written, words(run["ids"]), steered(written, run), chat=False, offset=None, generation=new
        )
        assert list(found.token_ids) == run["new"], f"{run['package']}, {run['call']}"
        if scope in ("all tokens", "last position"):  # the offset token is a token like any other
            *prompt, offset = run["ids"]
            (found,) = kv.generate(
                written, words(prompt), steered(written, run), chat=False, offset=offset, generation=new
            )
            assert list(found.token_ids) == run["new"]


def test_without_steering_the_model_is_the_one_that_the_packages_had(written: kv.Model) -> None:
    for run in WRITTEN["runs"]:
        if run["scope"] is None:
            (found,) = kv.generate(
                written, words(run["ids"]), chat=False, offset=None, generation={"max_new_tokens": WRITTEN["new"]}
            )
            assert list(found.token_ids) == run["new"]


def test_the_fixture_tells_the_scopes_apart() -> None:
    first = RUNS[0]["ids"]
    texts = {run["scope"]: run["new"] for run in RUNS if run["ids"] == first and run["layers"] == [0, 2]}
    texts["nothing"] = next(run["new"] for run in WRITTEN["runs"] if run["scope"] is None and run["ids"] == first)
    assert len({tuple(new) for new in texts.values()}) == 5


def test_prompts_of_different_length_share_a_batch(written: kv.Model) -> None:
    """Padding gets nothing, whatever the scope, and rows of all scopes may be asked for at once."""
    for layers in ([1], [0, 2]):
        own = {(run["scope"], run["cache"]): run for run in RUNS if run["layers"] == layers}
        methods = {key: steered(written, run) for key, run in own.items()}
        prompts = list(dict.fromkeys(words(run["ids"]) for run in RUNS))
        found = kv.generate(
            written, prompts, list(methods.values()), chat=False, offset=None, generation={"max_new_tokens": 16}
        )
        for run in RUNS:
            if run["layers"] == layers:
                rows = [
                    g
                    for g in found.of(methods[run["scope"], run["cache"]].label)
                    if found.prompts[g.prompt] == words(run["ids"])
                ]
                assert [list(g.token_ids) for g in rows] == [run["new"]]


# --- a plain loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "falcon", "gemma2"])
def test_the_last_position_of_each_uncached_pass(name: str, load_random: Load) -> None:
    """The call that the comparison of Belitsky et al. (2025) timed: computed anew for each token, and added to the
    newest alone.
    """
    model = load_random(name)
    vectors = activations_for(model)
    method = kv.ActivationSteering(vectors, 1, 4.0, cache=False, scope="last position")
    added = 4.0 * vectors.only([1]).residuals
    expected = [
        reference.steered_at_the_newest(model.hf, [*model.encode(p), newline(model)], added, 8) for p in PROMPTS
    ]
    assert kv.generate(model, PROMPTS, method, generation=ENDLESS).token_ids == expected
    others = [
        kv.ActivationSteering(vectors, 1, 4.0, cache=False, scope=s) for s in ("one-shot", "onward", "all tokens")
    ]
    texts = [kv.generate(model, PROMPTS, m, generation=ENDLESS).token_ids for m in others]
    assert expected not in texts


def test_scores_and_choices_of_the_last_position_are_those_of_its_own_texts(model: kv.Model) -> None:
    """A text is read as it was written: each token from a pass of its own."""
    vectors = activations_for(model)
    method = kv.ActivationSteering(vectors, 1, 4.0, cache=False, scope="last position")
    texts = kv.generate(model, PROMPTS, method, generation=ENDLESS).token_ids
    scores = kv.score(model, PROMPTS, texts, method)
    added = 4.0 * vectors.only([1]).residuals
    for prompt, new, row in zip(PROMPTS, texts, scores.logprobs, strict=True):
        logits = reference.logits_at_the_newest(model.hf, [*model.encode(prompt), newline(model)], added, list(new))
        expected = logits.log_softmax(-1)[range(len(new)), list(new)]
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
        assert logits.argmax(-1).tolist() == list(new)
    moved = kv.divergence(model, PROMPTS, texts, method)
    assert min(moved.totals) > 0.1
    closing, letters = "\nSo it is", ("A", "B")
    replies = kv.generate(model, PROMPTS, [method], generation=ENDLESS)
    asking = letter_tokens(model.tokenizer, closing, letters)
    for prompt, new, choice in zip(
        PROMPTS,
        texts,
        kv.elicit(model, PROMPTS, [method], replies, closing=closing, letters=[letters] * 3),
        strict=True,
    ):
        ids = [*model.encode(prompt), newline(model), *new, *asking.closing, *asking.shared]
        among = reference.logits_at_the_newest(model.hf, ids, added, [0])[0][list(asking.letters.values())].log_softmax(
            -1
        )
        assert [choice.logprobs[letter] for letter in letters] == pytest.approx(among.tolist(), abs=1e-4)


def test_a_method_of_ones_own_can_t_keep_the_newest_in_a_cache(model: kv.Model) -> None:
    class Own(kv.Intervention):
        label = "own"

        def residuals(self, model: kv.Model, lengths: Sequence[int]) -> list[tuple[ResidualDelta, ...]]:
            return [(ResidualDelta(activations_for(model).residuals, newest=True),)] * len(lengths)

    with pytest.raises(
        ValueError, match="'own' steers the newest position of each pass alone, and a cache would keep it steered"
    ):
        kv.generate(model, PROMPTS, Own(), generation=ENDLESS)


# --- names ----------------------------------------------------------------------------------------------------


def test_the_two_older_scopes_are_the_same_methods_under_another_name(model: kv.Model) -> None:
    vectors = activations_for(model)
    for every_token, scope in ((False, "one-shot"), (True, "onward")):
        old = kv.ActivationSteering(vectors, 1, 4.0, every_token)
        new = kv.ActivationSteering(vectors, 1, 4.0, scope=scope)
        assert old == new and describe(old) == describe(new) and old.label == new.label and new.acts_on == scope
        assert old.at(2.0).acts_on == scope
    assert kv.ActivationSteering(vectors, 1, 4.0, True, scope="onward").every_token


def test_a_new_scope_shows_in_label_and_identity_and_in_what_is_made_of_it(model: kv.Model) -> None:
    vectors = activations_for(model)
    every = kv.ActivationSteering(vectors, 1, 4.0, scope="all tokens")
    newest = kv.ActivationSteering(vectors, 1, 4.0, scope="last position", cache=False)
    assert (every.label, newest.label) == (
        "activation layer=1 c=4 all tokens cache on",
        "activation layer=1 c=4 last position cache off",
    )
    for method in (every, newest):
        assert describe(method) != describe(kv.ActivationSteering(vectors, 1, 4.0, cache=method.cache))
        assert {m.acts_on for m in (method, method.at(1.0), *method.controls(2))} == {method.acts_on}
        search = kv.ActivationSearch(vectors, cache=method.cache, scope=method.acts_on)
        built = search.variants(model, PROMPTS)
        assert [*built] == ["layer 0", "layer 1", "layer 2", "layer 3"] and built["layer 1"](
            1.0, "x"
        ).acts_on == method.acts_on


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(scope="everywhere"),
            "scope='everywhere' is unknown; choose one of: 'one-shot', 'onward', 'all tokens', 'last position'",
        ),
        (dict(scope="one-shot", every_token=True), "every_token=True is scope='onward', but scope='one-shot' is given"),
        (
            dict(scope="all tokens", every_token=True),
            "every_token=True is scope='onward', but scope='all tokens' is given",
        ),
        (
            dict(scope="last position"),
            r"pass cache=False\. With a cache, the last position of each pass is scope='onward'",
        ),
    ],
)
def test_scopes_that_contradict_something_are_refused(settings: dict[str, Any], message: str, model: kv.Model) -> None:
    with pytest.raises(ValueError, match=message):
        kv.ActivationSteering(activations_for(model), 1, 4.0, **settings)
