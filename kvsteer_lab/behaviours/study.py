"""A behaviour steered by cache and by activations, tuned on dev, tested once beside a system prompt and random
vectors; and the stored result of that, with its replies.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from .._util.files import write_atomically
from .._util.json import read_json
from ..evaluation.evaluate import evaluate_all
from ..evaluation.results import Results
from ..evaluation.tuning.methods import SteeringSearch
from ..evaluation.tuning.search import tune
from ..generation.generate import generate_all
from ..interventions.activation import ActivationSteering
from ..interventions.base import Intervention, Nothing
from ..interventions.cache import CacheSteering
from ..interventions.steering import Steering
from ..models.model import Model
from ..vectors.activation import extract_activations
from ..vectors.extraction import extract
from .behaviour import Behaviour
from .catalogue import get
from .entanglement import tabulate_one, with_holm

_CACHE, _ACTIVATION = "cache steering", "activation steering"
_KINDS = ("prompts", "openings")


@dataclass(frozen=True)
class Sizes:
    """How much a study does.

    Attributes:
        pairs: of each kind, at most.
        dev, test: questions, at most.
        tokens: of a reply.
        cells: doses x kinds of pairs that each method tries on dev.
        doses: of cache steering, the smallest and the largest: the norm of what is added over the norm of what it is
            added to.
        activation_doses: of activation steering, which adds to every new token, so that it needs less.
        extensions: how often a range is extended while the best dose lies at its end.
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

    Example:
        >>> BehaviourStudy({"model": "m"}, {}, pd.DataFrame()).settings["model"]
        'm'
    """

    settings: Mapping[str, Any]
    results: Mapping[str, Results] = field(repr=False)
    cells: pd.DataFrame = field(repr=False)

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
    cache, activation = _steerings(model, behaviour, sizes, progress)
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
            (_CACHE, cache, sizes.doses),
            (_ACTIVATION, activation, sizes.activation_doses),
        )
    }
    chosen = {method: _told(tuning.best[method], tuning.cells, method) for method, tuning in tunings.items()}
    steerings = _rebuild(cache, activation, chosen)
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
        sizes=asdict(sizes),
        chosen={name: chosen},
    )
    return BehaviourStudy(settings, {name: results}, cells)


def write_study(studies: Sequence[BehaviourStudy], out: str | Path) -> Path:
    """Write studies of several behaviours to one folder: `NAME.parquet`, `cells.parquet`, `settings.json`.

    The replies are kept; the questions are this package's own.

    Args:
        studies: of one model, with the same sizes.
        out: the folder.

    Raises:
        ValueError: none, or studies of different models.
        OSError: the folder can't be written.

    Example:
        >>> write_study([], "nowhere")
        Traceback (most recent call last):
        ValueError: There are no studies to write, or they are of different models; pass those of one model.
    """
    if len({study.settings["fingerprint"] for study in studies}) != 1:
        raise ValueError("There are no studies to write, or they are of different models; pass those of one model.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for study in studies:
        for name, results in study.results.items():
            results.save(out / f"{name}.parquet")
    cells = pd.concat([study.cells for study in studies], ignore_index=True)
    chosen = {name: about for study in studies for name, about in study.settings["chosen"].items()}
    settings = json.dumps({**studies[0].settings, "chosen": chosen}, indent=1)
    write_atomically(out / "cells.parquet", lambda file: cells.to_parquet(file, index=False))
    return write_atomically(
        out / "settings.json", lambda file: file.write_text(settings + "\n", encoding="utf-8")
    ).parent


def read_study(path: str | Path) -> BehaviourStudy:
    """Read what `write_study` wrote.

    Args:
        path: the folder.

    Raises:
        ValueError: nothing of that kind there.

    Example:
        >>> read_study("nowhere")
        Traceback (most recent call last):
        ValueError: There is no study of behaviours in nowhere; write one with kv.behaviours.write_study.
    """
    path = Path(path)
    if not (path / "settings.json").is_file():
        raise ValueError(f"There is no study of behaviours in {path}; write one with kv.behaviours.write_study.")
    settings = read_json(path / "settings.json", what="settings.json")
    results = {name: Results.load(path / f"{name}.parquet") for name in settings["chosen"]}
    return BehaviourStudy(settings, results, pd.read_parquet(path / "cells.parquet"))


def recompute_study(
    model: Model, study: BehaviourStudy, name: str, *, questions: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Extract the vectors and generate some stored replies anew: every method, one random vector of each steering.

    Args:
        model: the one that the study is of.
        study: from `read_study`.
        name: the behaviour.
        questions: how many, drawn with `seed` from those that were asked.
        seed: of the draw.

    Returns:
        `question`, `intervention`, `text` as stored, `now`, and `same`. Float32 on another processor may turn a
        near-tie, and all that follows.

    Raises:
        ValueError: another model, or a behaviour that the study hasn't got.

    Example:
        >>> import kvsteer_lab as kv
        >>> recompute_study(kv.load("tiny"), BehaviourStudy({}, {}, pd.DataFrame()), "french")
        Traceback (most recent call last):
        ValueError: The study has no behaviour 'french'; choose one of those that it has: none.
    """
    if name not in study.results:
        raise ValueError(
            f"The study has no behaviour {name!r}; choose one of those that it has:"
            f" {', '.join(study.results) or 'none'}."
        )
    if model.fingerprint != study.settings["fingerprint"]:
        raise ValueError(f"The study is of {study.settings['model']}, not of {model.name}; load that model.")
    sizes = TypeAdapter(Sizes).validate_python(study.settings["sizes"])
    behaviour = get(name)
    steerings = _rebuild(*_steerings(model, behaviour, sizes, False), study.settings["chosen"][name])
    methods: list[Intervention] = [Nothing(), behaviour.system_prompt()]
    methods += [part for one in steerings for part in (one, *one.controls(1, sizes.seed))]
    rows = study.results[name].rows.set_index(["question", "intervention"])
    ids = list(dict.fromkeys(rows.index.get_level_values(0)))
    known = {question.id: question for question in behaviour.task.questions("test")}
    picked = random.Random(seed).sample(ids, min(questions, len(ids)))
    texts = generate_all(model, [known[i].text for i in picked], methods, generation={"max_new_tokens": sizes.tokens})
    found = [
        dict(
            question=known[picked[text.prompt]].text,
            intervention=text.intervention,
            text=str(rows.loc[(picked[text.prompt], text.intervention), "text"]),
            now=text.text,
        )
        for text in texts
    ]
    table = pd.DataFrame(found)
    return table.assign(same=table.text == table.now)


def _at_most(behaviour: Behaviour, split: str, n: int) -> int:
    return min(n, len(behaviour.questions[split]))


# --- the two steerings --------------------------------------------------------------------------------------------


def _steerings(
    model: Model, behaviour: Behaviour, sizes: Sizes, progress: bool
) -> tuple[dict[str, Steering], dict[str, Steering]]:
    """By kind of pairs: values added to the last slot once, and the residual stream from there on, halfway up."""
    cache: dict[str, Steering] = {}
    activation: dict[str, Steering] = {}
    for kind in _KINDS:
        pairs = behaviour.pairs(model.tokenizer, kind)  # type: ignore[arg-type]
        pairs = pairs[: sizes.pairs]
        cache[kind] = CacheSteering(extract(model, pairs, progress=progress), 0, 1)
        vectors = extract_activations(model, pairs, progress=progress)
        activation[kind] = ActivationSteering(vectors, model.n_layers // 2, 1, scope="onward")
    return cache, activation


def _told(best: Intervention, cells: pd.DataFrame, method: str) -> dict[str, Any]:
    row = cells[(cells.method == method) & cells.chosen].iloc[0]
    assert isinstance(best, Steering)
    return dict(kind=str(row.variant), dose=float(row.dose), coefficient=float(best.coefficient))


def _rebuild(
    cache: Mapping[str, Steering], activation: Mapping[str, Steering], chosen: Mapping[str, Mapping[str, Any]]
) -> list[Steering]:
    return [
        kinds[chosen[method]["kind"]].at(chosen[method]["coefficient"], method)
        for method, kinds in ((_CACHE, cache), (_ACTIVATION, activation))
    ]


def _with_controls(steerings: Sequence[Steering], sizes: Sizes) -> list[Steering]:
    drawn = [control for one in steerings for control in one.controls(sizes.controls, sizes.seed)]
    return [*steerings, *drawn]
