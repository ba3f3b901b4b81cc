"""The methods that are compared: what is tuned, what is chosen, and the arms of the test that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.tuning.methods import ActivationSearch, CacheSearch, Search
from ..interventions.activation import ActivationSteering, Scope
from ..interventions.base import Intervention, NoOffset, Nothing
from ..interventions.cache import CacheSteering
from ..interventions.prompt import CoTPrefix, CoTPrompt, ForcedPrefix
from ..interventions.steering import Steering
from ..interventions.together import Together
from ..models.model import Model
from ..tasks.base import Task
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from .sources import STYLE

CACHE = "cache steering"
VALUES = "cache steering, values only"
ARTICLES = "cache steering, ck=0.3 cv=6"
RELEASED = "cache steering, ck=0 cv=4"
"""The middle of what the authors released: c_k = 0 in 23 of 24 settings, c_v from 1 to 10. Tuning for accuracy may end
at a relative strength that does nothing; this one is fixed beforehand, so that random vectors stand beside a relative
strength that works.
"""
LAST = "activation, last position"
SCOPES: dict[str, Scope] = {
    "activation, one-shot": "one-shot",
    "activation, onward": "onward",
    "activation, all tokens": "all tokens",
}
"""The scopes that are tuned. `LAST` computes every token anew, too dear to tune: it takes the settings of "onward"."""
CACHE_DOSES = (0.25, 4.0)
ACTIVATION_DOSES = (0.1, 1.6)
"""The range of relative strengths that is searched: the norm of what is added over the norm of what it is added to."""


def searches(vectors: KVVectors, activations: ActivationVectors) -> dict[tuple[float, float], list[Search]]:
    """What is tuned, by the range of relative strengths: two kinds of cache steering and three scopes of activation
    steering.

    Keys and values have three ratios, values alone one; activation steering has three layers. Each gets the same number
    of cells.

    Args:
        vectors: for the cache.
        activations: for the residual stream.
    """
    n = activations.n_layers
    layers = sorted({round(n * share) for share in (0.25, 0.5, 0.75)})
    caches: list[Search] = [
        CacheSearch(vectors, key_shares=(0.05, 0.2, 1.0), name=CACHE),
        CacheSearch(vectors, key_shares=(0.0,), name=VALUES),
    ]
    streams: list[Search] = [
        ActivationSearch(activations, layers=layers, scope=scope, name=name) for name, scope in SCOPES.items()
    ]
    return {CACHE_DOSES: caches, ACTIVATION_DOSES: streams}


def settings_of(steering: Intervention) -> dict[str, Any]:
    """The numbers that a chosen steering is made of, as plain JSON.

    Args:
        steering: one that `searches` leads to.

    Raises:
        ValueError: another intervention.
    """
    if isinstance(steering, CacheSteering):
        return dict(ck=float(steering.ck), cv=float(steering.cv))
    if isinstance(steering, ActivationSteering):
        return dict(layer=steering.layers[0], coefficient=float(steering.coefficient), scope=steering.acts_on)
    raise ValueError(f"{steering.label!r} is none of the tuned methods.")


def chosen_methods(
    chosen: Mapping[str, Mapping[str, Any]], vectors: KVVectors, activations: ActivationVectors
) -> dict[str, Steering]:
    """The tuned methods at what was chosen, two fixed ones, and "last position" at the settings of "onward".

    Args:
        chosen: by the method's name, as `settings_of` gives it.
        vectors, activations: what they add.
    """
    made: dict[str, Steering] = {}
    for name, settings in chosen.items():
        if "cv" in settings:
            made[name] = CacheSteering(vectors, settings["ck"], settings["cv"], name=name)
        else:
            made[name] = ActivationSteering(
                activations, settings["layer"], settings["coefficient"], scope=settings["scope"], name=name
            )
    made[RELEASED] = CacheSteering(vectors, 0, 4, name=RELEASED)
    made[ARTICLES] = CacheSteering(vectors, 0.3, 6, name=ARTICLES)
    onward = chosen["activation, onward"]
    made[LAST] = ActivationSteering(
        activations, onward["layer"], onward["coefficient"], cache=False, scope="last position", name=LAST
    )
    return made


def arms(model: Model, task: Task, made: Mapping[str, Steering]) -> list[Intervention]:
    """All that is compared with the cache in use: baselines, prompts, the response prefill of one token, steering.

    Args:
        model: whose tokenizer cuts the forced token.
        task: whose replies it begins.
        made: from `chosen_methods`.
    """
    steered: Sequence[Steering] = [method for name, method in made.items() if name != LAST]
    return [
        Nothing(),
        NoOffset(),
        CoTPrompt(),
        CoTPrefix(),
        ForcedPrefix.of_style(task, model.tokenizer, STYLE),
        *steered,
        Together(CoTPrompt(), made[VALUES]),
    ]
