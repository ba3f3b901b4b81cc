"""Checks that several analyses make before they compute anything: there is an edit whose effect can be measured."""

from __future__ import annotations

from collections.abc import Sequence

from ..interventions.base import Intervention
from ..interventions.cache import CacheSteering
from ..interventions.checks import check_intervention
from ..interventions.together import Together
from ..models.model import Model
from ..models.prompts import Prompt


def check_steering(model: Model, steering: CacheSteering, prompts: Sequence[Prompt]) -> None:
    """Refuse a steering without a measurable effect, and a number of prompts without an interval.

    Args:
        model: the model to be steered.
        steering: what should be cache steering that adds something.
        prompts: at least two.

    Raises:
        ValueError: another intervention than cache steering, one that adds nothing, vectors of another model, no
            layers, or a single prompt.
    """
    method = check_intervention(model, steering)
    if not isinstance(method, CacheSteering):
        raise ValueError(
            f"{method.label!r} is not cache steering, so there is no edited slot to be read; pass a kv.CacheSteering."
        )
    check_edits(method)
    if len(prompts) < 2:
        raise ValueError("An interval needs at least two prompts, not one; pass more.")


def check_edits(*methods: Intervention) -> None:
    """Refuse cache steering that edits nothing at its present coefficients, alone or as a part of `kv.Together`: its
    results would be the baseline's under another name.

    Args:
        methods: any interventions.

    Raises:
        ValueError: one that steers no layer, or adds zeros only.

    >>> import kvsteer_lab as kv
    >>> check_edits(kv.Nothing(), kv.CoTPrompt())
    """
    for part in (part for method in methods for part in (method.parts if isinstance(method, Together) else (method,))):
        if not isinstance(part, CacheSteering):
            continue
        if not part.edited_layers:
            raise ValueError(f"{part.label!r} steers no layer; name one, layers=[1] say.")
        if not part.parts_added:
            raise ValueError(
                f"What {part.label!r} adds is zero in the steered layers; check its vectors, coefficients and layers."
            )
