"""Identities and labels of interventions stay what they were in the first release: stored runs go on, colours stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kvsteer_lab as kv
from kvsteer_lab.evaluation.identity import describe, hash_of
from kvsteer_lab.interventions import OtherOffset
from kvsteer_lab.vectors import Card


def card(keys: str | None) -> Card:
    return Card("m", "llama", "f" * 16, "torch.float32", keys, 5, None, 2, recipe={"style": "stepwise"})


PART = torch.arange(24.0).reshape(3, 2, 4) / 7 - 1
VECTORS = kv.KVVectors(PART, PART.flip(0), card("post_rope"))
FREE = kv.KVVectors(PART, PART.flip(0), card("position_free"))
ACTIVATIONS = kv.ActivationVectors(torch.arange(24.0).reshape(3, 8) / 5 - 2, card(None))
CACHE = kv.CacheSteering(VECTORS, 0.5, 2, layers=[1, 2], heads=[0], slot=-2)
ACTIVATION = kv.ActivationSteering(ACTIVATIONS, 1, 2.5)
SHOTS = ({"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"})
ALL = "steered stepwise ck=0.5 cv=2 layers=1,2 heads=0 slot=-2"

FIRST_RELEASE = [
    (kv.Nothing(), "f5cb3304acdf52ba", "baseline"),
    (kv.NoOffset(), "bdf4cf8a551a4b0a", "no offset"),
    (kv.CoTPrompt(), "7a46445af6bd00ae", "CoT prompt"),
    (kv.CoTPrefix(), "d9cdf11b2d5ea366", "CoT prefix"),
    (kv.ForcedPrefix("Step 1"), "0a1d7322f3da7fb6", "forced 'Step 1'"),
    (kv.FewShot(SHOTS), "c5b55d64022f72b1", "1-shot"),
    (kv.FewShot(SHOTS, "1-shot stepwise"), "2a93386be729e8c2", "1-shot stepwise"),
    (kv.HideSlot(layers=[1], first=1), "dd521a4eaad22ca7", "slot hidden layers=1 from step 1"),
    (OtherOffset("."), "998919ce0161111d", "offset '.'"),
    (kv.CacheSteering(VECTORS, 0, 1), "c9951643f0f8a36f", "steered stepwise ck=0 cv=1"),
    (CACHE, "3b64facab19fd17f", ALL),
    (kv.CacheSteering(FREE, 1, 1, name="mine"), "c7112e3ecd227490", "mine"),
    (kv.random_controls(CACHE, 1, 3)[0], "a01aea68d4d75c74", f"random 3 for {ALL}"),
    (kv.layer_shuffle_controls(CACHE, 1, 0)[0], "9e26227edb05f7e5", f"layer shuffle 0 of {ALL}"),
    (kv.sign_flip(CACHE), "fc933ac36fc87de5", f"sign flip of {ALL}"),
    (kv.other_slot(CACHE, -1), "c78a0c15286f8d56", f"slot -1 for {ALL}"),
    (ACTIVATION, "7e713c1b4d92b61c", "activation stepwise layer=1 c=2.5 one-shot cache on"),
    (
        kv.ActivationSteering(ACTIVATIONS, [0, 2], -1, every_token=True, cache=False, offset="", name="mine"),
        "45f8a89353a5e2bc",
        "mine",
    ),
    (
        kv.random_activation_controls(ACTIVATION, 1, 3)[0],
        "fc6e529d6a31303c",
        "random 3 for activation stepwise layer=1 c=2.5 one-shot cache on",
    ),
    (kv.Together(CACHE, kv.CoTPrompt()), "19b9c4f5c61be1c3", f"{ALL} + CoT prompt"),
]
"""Computed by the first release's code."""


@pytest.mark.parametrize(("method", "identity", "label"), FIRST_RELEASE, ids=[label for _, _, label in FIRST_RELEASE])
def test_an_intervention_keeps_its_identity_and_its_label(method: kv.Intervention, identity: str, label: str) -> None:
    assert (hash_of(describe(method))[:16], method.label) == (identity, label)


def test_numbers_of_numpy_are_the_same_numbers() -> None:
    """Notebooks hand over what NumPy and pandas gave them."""
    same = kv.CacheSteering(
        VECTORS, np.float64(0.5), np.int64(2), layers=np.array([2, 1]), heads=np.int64(0), slot=np.int64(-2)
    )
    assert describe(same) == describe(CACHE) and same.label == CACHE.label
    assert describe(kv.ActivationSteering(ACTIVATIONS, np.int64(1), np.float64(2.5))) == describe(ACTIVATION)
    assert kv.CacheSteering(VECTORS, 0, 1, layers=2).edited_layers == (2,)
    for wrong in (True, 1.0, "1", [1.5], [None], object()):
        with pytest.raises(ValueError, match="There is no layer"):
            kv.CacheSteering(VECTORS, 0, 1, layers=wrong)
