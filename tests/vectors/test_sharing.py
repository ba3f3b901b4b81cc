"""Vectors to a hub and back, what their page says, and what is claimed of them measured again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_server import COMMIT, Hub, serving
from safetensors.torch import save_file

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main

PROMPTS = ["What is 2 + 3?", "What is 4 + 4?", "What is 1 + 6?"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def steering() -> kv.CacheSteering:
    """Towards steps, which the bundled model was made for."""
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=12, shots=2)
    return kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)


@pytest.fixture(scope="module")
def claim(steering: kv.CacheSteering) -> kv.Claim:
    return kv.Claim.measure(kv.load("tiny"), steering, PROMPTS, "Step 1", "The answer", controls=5, verdict="held once")


def test_vectors_go_to_a_hub_and_back(hub: Hub, steering: kv.CacheSteering, claim: kv.Claim) -> None:
    vectors = claim.on(steering.vectors)
    address = vectors.push("me/stepwise", endpoint=hub.address)
    assert address.endswith(COMMIT) and set(hub.repositories["me/stepwise"]) == {"vectors.safetensors", "README.md"}
    again = kv.KVVectors.from_hub("me/stepwise", endpoint=hub.address)
    assert torch.equal(again.keys, vectors.keys) and torch.equal(again.values, vectors.values)
    assert kv.Claim.of(again) == claim and again.card.fingerprint == vectors.card.fingerprint


def test_the_page_says_model_pairs_dose_controls_and_verdict(steering: kv.CacheSteering, claim: kv.Claim) -> None:
    page = claim.on(steering.vectors).page("me/stepwise")
    front, _, body = page.removeprefix("---\n").partition("\n---\n")
    assert "license: mit" in front and "base_model: tiny" in front
    for part in ("| pairs | 12 |", "style: stepwise", "c_k = 0, c_v = 6, position -1", f"{claim.nats:+.3f} nats"):
        assert part in body
    assert "5 random vectors of the same size" in body and "Replication: held once." in body
    assert 'KVVectors.from_hub("me/stepwise")' in body and "No claim is made" not in body
    assert "No claim is made" in steering.vectors.page("me/stepwise")


@pytest.mark.parametrize("name", ("stepwise", "me/step/wise", "../up/x", "me/..", "me/a b", ""))
def test_wrong_names_are_refused_before_anything_is_sent(steering: kv.CacheSteering, name: str) -> None:
    for ask in (steering.vectors.push, kv.KVVectors.from_hub):
        with pytest.raises(ValueError, match="is no repository of the hub; write it as 'user/name'"):
            ask(name)


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, steering: kv.CacheSteering) -> None:
    with pytest.raises(ValueError, match=r"^The hub gives no vectors.safetensors of 'me/nothing' \(.+\); check"):
        kv.KVVectors.from_hub("me/nothing", endpoint=hub.address)
    hub.refuses = 401
    with pytest.raises(ValueError, match=r"^The hub didn't take 'me/stepwise' \(.+\); log in with `hf auth login`"):
        steering.vectors.push("me/stepwise", endpoint=hub.address)


def test_a_claim_is_the_shift_of_log_odds(steering: kv.CacheSteering, claim: kv.Claim) -> None:
    model = kv.load("tiny")
    by_hand = 0.0
    for prompt in PROMPTS:
        for text, sign in (("Step 1", 1), ("The answer", -1)):
            steered, plain = (kv.score(model, prompt, text, method).totals[0] for method in (steering, None))
            by_hand += sign * (steered - plain) / len(PROMPTS)
    assert claim.nats == pytest.approx(by_hand, abs=1e-3) and claim.nats > 1 and len(claim.random) == 5


def test_verifying_tells_true_claims_from_false_ones(steering: kv.CacheSteering, claim: kv.Claim) -> None:
    model, vectors = kv.load("tiny"), steering.vectors
    found = kv.verify(claim.on(vectors), model, controls=5)
    assert found.holds and found.same and found.p == pytest.approx(1 / 6) and "The claim holds" in found.sentence
    boast = kv.verify(replace(claim, nats=2 * claim.nats).on(vectors), model, controls=5)
    assert not boast.same and not boast.holds and "does not hold" in boast.sentence
    turned = kv.verify(claim.on(-1.0 * vectors), model, controls=5)
    assert not turned.holds and turned.nats < claim.nats
    noise = steering.controls(1, seed=7)[0].vectors
    assert not kv.verify(claim.on(replace(noise, card=vectors.card)), model, controls=5).holds


def test_random_vectors_that_do_as_much_break_a_claim() -> None:
    assert not kv.Verification(1.0, 1.0, (0.2, 1.1), 2 / 3, True).holds
    assert kv.Verification(1.0, 1.0, (0.2, -1.1), 1 / 3, True).holds  # the other way
    assert not kv.Verification(-1.0, -1.0, (0.2, -1.1), 2 / 3, True).holds


def test_vectors_without_a_claim_or_with_a_broken_one_are_refused(steering: kv.CacheSteering, claim: kv.Claim) -> None:
    model, vectors = kv.load("tiny"), steering.vectors
    with pytest.raises(ValueError, match=r"^These vectors claim nothing, so there is nothing to verify"):
        kv.verify(vectors, model)
    recipe = {**vectors.card.recipe, "claim": {"ck": 0}}
    with pytest.raises(ValueError, match=r"^The claim on the card can't be read: cv: Field required, and \d+ more"):
        kv.verify(replace(vectors, card=replace(vectors.card, recipe=recipe)), model)
    with pytest.raises(ValueError, match="for each a target"):
        kv.Claim.measure(model, steering, PROMPTS, ["Step 1"], "The answer")
    with pytest.raises(ValueError, match="at least 1 random control"):
        kv.verify(claim.on(vectors), model, controls=0)


def test_a_claim_that_could_not_fail_is_not_measured(steering: kv.CacheSteering, claim: kv.Claim) -> None:
    model, measure = kv.load("tiny"), kv.Claim.measure
    with pytest.raises(ValueError, match="The target 'Step 1' is held against itself"):
        measure(model, steering, PROMPTS, "Step 1", "Step 1")
    with pytest.raises(ValueError, match="at least 1 random control to stand beside, not 0"):
        measure(model, steering, PROMPTS, "Step 1", "The answer", controls=0)
    with pytest.raises(ValueError, match=r"A claim is made of a kv.CacheSteering, .+ not of a CacheEdits"):
        measure(model, kv.CacheEdits(kv.edits.Map(0.5)), PROMPTS, "Step 1", "The answer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The claim on the card is of nan nats; measure it again"):
        kv.verify(replace(claim, nats=float("nan")).on(steering.vectors), model)


def test_a_single_prompt_is_one_prompt_and_not_its_letters(steering: kv.CacheSteering) -> None:
    model = kv.load("tiny")
    one, listed = (kv.Claim.measure(model, steering, p, "Step 1", "The", controls=1) for p in (PROMPTS[0], PROMPTS[:1]))
    assert one == listed and one.prompts == (PROMPTS[0],)


def test_the_command_verifies_a_file(
    steering: kv.CacheSteering, claim: kv.Claim, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = claim.on(steering.vectors).save(tmp_path / "good.safetensors")
    main(["verify", str(good), "--controls", "3"])
    assert "The claim holds" in capsys.readouterr().out
    bad = replace(claim, nats=-claim.nats).on(steering.vectors).save(tmp_path / "bad.safetensors")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bad), "--controls", "3"])
    assert ended.value.code == 1 and "does not hold" in capsys.readouterr().out


def test_steering_lite_s_files_are_read_and_other_methods_refused(tmp_path: Path) -> None:
    model, row = kv.load("tiny"), torch.arange(128.0)
    path = tmp_path / "honest.safetensors"
    save_file({"layer1.v": row}, path, metadata={"cfg": '{"method": "pca", "coeff": 1.5}'})
    found = kv.ActivationVectors.from_steering_lite(path, model)
    assert torch.equal(found.residuals[1], row) and not found.residuals[0].any()
    assert "coefficient there was 1.5" in found.card.note and found.card.recipe["layers"] == [1]
    save_file({"layer1.v": row}, path, metadata={"cfg": '{"method": "spherical"}'})
    with pytest.raises(ValueError, match=r"method 'spherical', which does more than add one; only mean_diff, pca"):
        kv.ActivationVectors.from_steering_lite(path, model)
    save_file({"layer1.v": row}, path)
    with pytest.raises(ValueError, match=r"^honest.safetensors holds no configuration of steering-lite; write it with"):
        kv.ActivationVectors.from_steering_lite(path, model)
    save_file({"v": row}, path, metadata={"cfg": '{"method": "pca"}'})
    with pytest.raises(ValueError, match=r"holds a tensor 'v'; steering-lite's must be called layerN\.v"):
        kv.ActivationVectors.from_steering_lite(path, model)
    with pytest.raises(ValueError, match=r"^vector.pt may be a pickle, .+ so it isn't; .+vector\.save"):
        kv.ActivationVectors.from_steering_lite(tmp_path / "vector.pt", model)
