"""A behaviour steered by cache and by activations, tuned on dev, tested once beside a system prompt and random
vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.evaluate import evaluate_all
from ..evaluation.results import Results
from ..evaluation.tuning.methods import SteeringSearch
from ..evaluation.tuning.search import tune
from ..interventions.activation import ActivationSteering
from ..interventions.base import Intervention
from ..interventions.cache import CacheSteering
from ..interventions.steering import Steering
from ..models.model import Model
from ..vectors.activation import ActivationVectors
from ..vectors.activation_extraction import extract_activations
from ..vectors.extraction import extract
from ..vectors.kv import KVVectors
from .behaviour import Behaviour, Kind
from .catalogue import get
from .entanglement import tabulate_one, with_holm

CACHE, ACTIVATION = "cache steering", "activation steering"
_KINDS: tuple[Kind, ...] = ("prompts", "openings")


@dataclass(frozen=True)
class Sizes:
    """How much a study does.

    Attributes:
        pairs: of each kind, at most.
        dev, test: questions, at most.
        tokens: of a reply.
        cells: relative strengths x kinds of pairs that each method tries on dev.
        doses: of cache steering, the smallest and the largest: the norm of what is added over the norm of what it is
            added to.
        activation_doses: of activation steering, which adds to every new token, so that it needs less.
        extensions: how often a range is extended while the best relative strength lies at its end.
        controls: random vectors of each chosen steering.
        seed: of all draws.

    >>> Sizes(test=8).controls
    5
    """

    pairs: int = 64
    dev: int = 12
    test: int = 24
    tokens: int = 32
    cells: int = 8
    doses: tuple[float, float] = (0.5, 4.0)
    activation_doses: tuple[float, float] = (0.05, 0.4)
    extensions: int = 1
    controls: int = 5
    seed: int = 0


@dataclass(frozen=True)
class BehaviourStudy:
    """What `run_study` stored of one or several behaviours.

    Attributes:
        settings: model, its fingerprint, sizes; by behaviour what was chosen.
        results: by behaviour, every test reply.
        cells: every cell that was tried on dev.
        steerings: by behaviour, the chosen cache steering and the chosen activation steering.

    Example:
        >>> BehaviourStudy({"model": "m"}, {}, pd.DataFrame(), {}).settings["model"]
        'm'
    """

    settings: Mapping[str, Any]
    results: Mapping[str, Results] = field(repr=False)
    cells: pd.DataFrame = field(repr=False)
    steerings: Mapping[str, tuple[CacheSteering, ActivationSteering]] = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """One row a behaviour and method, as `kv.behaviours.entangle`'s; Holm's correction is over all of them."""
        rows = []
        for name, results in self.results.items():
            labels = [label for label in results.interventions if label not in ("baseline", "no offset")]
            for row in tabulate_one(results, {label: label for label in labels}, name):
                rows.append(row | {"steered": name, "measured": row["steered"]})
        return with_holm(rows).rename_axis(["behaviour", "method"])

    def replies(self, name: str, question: int = 0) -> pd.DataFrame:
        """Some replies to look at: one row a method, of one question.

        Args:
            name: the behaviour.
            question: its number among those that were asked.

        Returns:
            `text` and whether it was `correct`, by intervention; of random vectors the first of each kind.
        """
        rows = self.results[name].rows
        own = rows[rows.question == list(dict.fromkeys(rows.question))[question]]
        first = ~own.duplicated(["control_of", "control_kind"]) | own.control_of.isna()
        return own[first].set_index("intervention")[["text", "correct"]]


def run_study(
    model: Model, name: str, out: str | Path, *, sizes: Sizes | None = None, progress: bool = True
) -> BehaviourStudy:
    """Tune both steerings on dev, test them once, with the system prompt and random vectors in the same run.

    Args:
        model: from `kv.load`.
        name: of a behaviour with `"prompts"` and `"openings"`.
        out: folder; a study that was stopped goes on there.
        sizes: how much is done; `None`: `Sizes()`.
        progress: whether to show bars.

    Returns:
        The study of this behaviour.

    Raises:
        ValueError: an unknown behaviour, or one without these pairs, or `out` holds something else.
        OSError: `out` can't be written.

    Example:
        >>> import tempfile
        >>> import kvsteer_lab as kv
        >>> run_study(kv.load("tiny"), "facts", tempfile.gettempdir())
        Traceback (most recent call last):
        ValueError: 'facts' has no instructions and openings to steer by; choose another behaviour.
    """
    behaviour, out, sizes = get(name), Path(out), sizes or Sizes()
    if not set(_KINDS) <= set(behaviour.kinds):
        raise ValueError(f"{name!r} has no instructions and openings to steer by; choose another behaviour.")
    generation = {"max_new_tokens": sizes.tokens}
    cache, activation = _steerings(model, behaviour, sizes, out / name, progress)
    tunings = {
        method: tune(
            model,
            behaviour.task,
            SteeringSearch(kinds, method),
            cells=sizes.cells,
            n=_at_most(behaviour, "dev", sizes.dev),
            seed=sizes.seed,
            doses=doses,
            extensions=sizes.extensions,
            objective=behaviour.graded,
            stop_when_flat=False,
            generation=generation,
            out=out / name / method.split()[0],
            progress=progress,
        )
        for method, kinds, doses in (
            (CACHE, cache, sizes.doses),
            (ACTIVATION, activation, sizes.activation_doses),
        )
    }
    chosen = {method: _told(tuning.best[method], tuning.cells, method) for method, tuning in tunings.items()}
    own, beside = chosen[CACHE], chosen[ACTIVATION]
    steerings = (
        cache[own["kind"]].at(own["coefficient"], CACHE),
        activation[beside["kind"]].at(beside["coefficient"], ACTIVATION),
    )
    results = evaluate_all(
        model,
        behaviour.task,
        [behaviour.system_prompt(), *_with_controls(steerings, sizes)],
        n=_at_most(behaviour, "test", sizes.test),
        seed=sizes.seed,
        generation=generation,
        out=out / name / "test",
        progress=progress,
    ).measure([behaviour.graded], behaviour.task)
    cells = pd.concat([tuning.cells for tuning in tunings.values()], ignore_index=True).assign(behaviour=name)
    settings = dict(
        model=model.name,
        fingerprint=model.fingerprint,
        quantised=model.quantised,
        sizes={name: list(x) if isinstance(x, tuple) else x for name, x in asdict(sizes).items()},  # as JSON reads it
        chosen={name: chosen},
    )
    return BehaviourStudy(settings, {name: results}, cells, {name: steerings})


def _at_most(behaviour: Behaviour, split: str, n: int) -> int:
    return min(n, len(behaviour.questions[split]))


# --- the two steerings --------------------------------------------------------------------------------------------


def _steerings(
    model: Model, behaviour: Behaviour, sizes: Sizes, folder: Path, progress: bool
) -> tuple[dict[str, CacheSteering], dict[str, ActivationSteering]]:
    """By kind of pairs: values added to the last slot once, and the residual stream from there on, halfway up. What was
    extracted before is read from the folder.
    """
    cache: dict[str, CacheSteering] = {}
    activation: dict[str, ActivationSteering] = {}
    for kind in _KINDS:
        pairs = behaviour.pairs(model.tokenizer, kind)[: sizes.pairs]
        places = folder / f"{kind}.vectors.safetensors", folder / f"{kind}.activations.safetensors"
        if not places[0].is_file():
            extract(model, pairs, progress=progress).save(places[0])
        if not places[1].is_file():
            extract_activations(model, pairs, progress=progress).save(places[1])
        cache[kind] = CacheSteering(KVVectors.load(places[0]), 0, 1)
        vectors = ActivationVectors.load(places[1])
        activation[kind] = ActivationSteering(vectors, model.n_layers // 2, 1, scope="onward")
    return cache, activation


def _told(best: Intervention, cells: pd.DataFrame, method: str) -> dict[str, Any]:
    row = cells[(cells.method == method) & cells.chosen].iloc[0]
    assert isinstance(best, Steering)
    return dict(kind=str(row.variant), dose=float(row.dose), coefficient=float(best.coefficient))


def _with_controls(steerings: Sequence[Steering], sizes: Sizes) -> list[Steering]:
    drawn = [control for one in steerings for control in one.controls(sizes.controls, sizes.seed)]
    return [*steerings, *drawn]
