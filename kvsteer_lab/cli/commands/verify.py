"""`kvsteer verify`: do vectors do on a model what their card says?"""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from ..models import load_model
from ..printing import say_line


def verify(
    file: Annotated[str, tyro.conf.Positional],
    model: str | None = None,
    template: str | None = None,
    controls: int = 19,
    seed: int = 0,
) -> None:
    """Measure what a vectors' card claims, in nats, beside random vectors; exit code 1 where it does not hold.

    Args:
        file: a .safetensors file, a folder with vectors.safetensors, or a hub repository.
        model: "tiny", another model's name, a folder or a hub id; by default the one on the card.
        template: for a base model, how a question is written.
        controls: random vectors of the same size.
        seed: of these.
    """
    import kvsteer_lab as kv

    vectors = kv.KVVectors.load(file)
    claim = kv.Claim.of(vectors)
    found = kv.verify(vectors, load_model(model or vectors.card.model, template), controls=controls, seed=seed)
    say_line(f"{file}: c_k = {claim.ck:g}, c_v = {claim.cv:g}, {len(claim.prompts)} prompts.", found.sentence)
    if found.other_weights:
        say_line(found.other_weights)
    if not found.holds:
        sys.exit(1)
