"""What is settled before the test: vectors from the extraction split, coefficients and controls from the dev split."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._util.files import write_atomically
from .._util.json import read_json
from .._util.locks import one_writer
from ..evaluation.results import Results
from ..evaluation.tuning.search import tune
from ..generation.divergence import divergences
from ..generation.generate import generate_all
from ..interventions.base import Intervention, Nothing
from ..interventions.cache import Control
from ..interventions.steering import Steering
from ..models.model import Model
from ..tasks.base import Task
from ..vectors.activation import ActivationVectors
from ..vectors.activation_extraction import extract_activations
from ..vectors.extraction import extract
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from .blocks import FIRST
from .matching import match_controls, scaled_controls
from .methods import LAST, RELEASED, VALUES, arms, chosen_methods, searches, settings_of
from .sizes import Sizes
from .sources import STYLE
from .styles import GROUP, style_methods

MATCHED_ON = 12
"""Development questions on which random vectors are matched."""


@dataclass(frozen=True)
class Chosen:
    """Everything that the test needs, chosen without a look at it.

    Attributes:
        arms: what is compared, baselines included.
        last: the scope that computes every token anew.
        controls: random vectors at the coefficients of `RELEASED`, and the same directions as large as it takes to
            move the model as far as `RELEASED` does.
        tuned_controls: random vectors at the coefficients of `VALUES`.
        styles: steering towards each of several styles, with controls; empty for a task of one.
        settings: the chosen numbers, the divergence that was matched, the ids of the development questions.
    """

    arms: tuple[Intervention, ...]
    last: Steering
    controls: tuple[Intervention, ...]
    tuned_controls: tuple[Intervention, ...]
    settings: Mapping[str, Any]
    styles: tuple[Intervention, ...] = ()

    @property
    def groups(self) -> dict[str, tuple[Intervention, ...]]:
        """The methods by the group that they are asked in, in the order in which groups are done."""
        groups = {"arms": self.arms, "random": self.controls, "tuned": self.tuned_controls, "anew": (self.last,)}
        return {**groups, GROUP: self.styles}


def choose(model: Model, task: Task, folder: Path, sizes: Sizes, seed: int, batch_size: int, progress: bool) -> Chosen:
    """Extract, tune and match, or read what was chosen before.

    Args:
        model, task: who is asked what; the task has demonstrations in `STYLE`.
        folder: of the task. Holds `vectors.safetensors`, `activations.safetensors`, `dev/`, `cells.csv` and, when all
            is chosen, `chosen.json`.
        sizes: of the replication.
        seed: of pairs, questions and controls.
        batch_size, progress: as in `kv.evaluate`.

    Raises:
        ValueError: too few questions or demonstrations.
        OSError: another process is choosing; start this one when it has finished.
    """
    place = folder / "chosen.json"
    with one_writer(folder / "choosing", wait=2.0):
        vectors, activations = _vectors(model, task, folder, sizes, seed, progress)
        if not place.is_file():
            settings = _tune(model, task, folder, sizes, seed, batch_size, progress, vectors, activations)
            made = chosen_methods(settings["methods"], vectors, activations)
            settings |= _match(model, task, sizes, seed, batch_size, made[RELEASED])
            text = json.dumps(settings, indent=1)
            write_atomically(place, lambda file: file.write_text(text, encoding="utf-8"))
        styles = style_methods(model, task, folder, sizes, seed, progress)
    chosen = rebuild(model, task, vectors, activations, read_json(place, what=str(place)), sizes, seed)
    return replace(chosen, styles=styles)


def rebuild(
    model: Model,
    task: Task,
    vectors: KVVectors,
    activations: ActivationVectors,
    settings: Mapping[str, Any],
    sizes: Sizes,
    seed: int,
) -> Chosen:
    """All methods and controls but those of styles, made of vectors and of what was chosen.

    Args:
        model, task: who is asked what.
        vectors, activations: what the methods add.
        settings: what `choose` wrote.
        sizes: of the replication.
        seed: of the controls.
    """
    made = chosen_methods(settings["methods"], vectors, activations)
    drawn = _controls(made[RELEASED], sizes, seed)
    return Chosen(
        tuple(arms(model, task, made)),
        made[LAST],
        (*drawn, *scaled_controls(drawn, settings["factors"])),
        tuple(_controls(made[VALUES], sizes, seed)),
        settings,
    )


def _vectors(
    model: Model, task: Task, folder: Path, sizes: Sizes, seed: int, progress: bool
) -> tuple[KVVectors, ActivationVectors]:
    files = folder / "vectors.safetensors", folder / "activations.safetensors"
    if not all(file.is_file() for file in files):
        pairs = ContrastiveSet.few_shot(task, model.tokenizer, style=STYLE, n=sizes.pairs, shots=sizes.shots, seed=seed)
        if not files[0].is_file():
            extract(model, pairs, batch_size=4, progress=progress).save(files[0])
        if not files[1].is_file():
            extract_activations(model, pairs, batch_size=4, progress=progress).save(files[1])
    return KVVectors.load(files[0]), ActivationVectors.load(files[1])


def _tune(
    model: Model,
    task: Task,
    folder: Path,
    sizes: Sizes,
    seed: int,
    batch_size: int,
    progress: bool,
    vectors: KVVectors,
    activations: ActivationVectors,
) -> dict[str, Any]:
    """The chosen numbers of every method; all cells that were tried go to `cells.csv`."""
    cells: list[pd.DataFrame] = []
    chosen: dict[str, Any] = {}
    questions: tuple[str, ...] = ()
    plain: dict[str, float] = {}
    for number, (doses, group) in enumerate(searches(vectors, activations).items()):
        with warnings.catch_warnings():
            # what both warnings say, the table of cells and the baseline beside it say
            warnings.filterwarnings("ignore", message="The best relative strength")
            warnings.filterwarnings("ignore", message="The objective")
            tuning = tune(
                model,
                task,
                group,
                cells=sizes.cells,
                n=sizes.dev,
                seed=seed,
                doses=doses,
                extensions=0,
                generation={"max_new_tokens": sizes.limit(task.name)},
                batch_size=batch_size,
                out=folder / "dev" / ("cache", "activation")[number],
                progress=progress,
            )
        cells.append(tuning.cells)
        own = Results.load(folder / "dev" / ("cache", "activation")[number] / "round-0").of("baseline")
        plain = dict(accuracy=float(own.correct.mean()), tokens=float(own.tokens.mean()), n=len(own))
        chosen |= {name: settings_of(best) for name, best in tuning.best.items()}
        questions = tuning.questions
    table = pd.concat(cells, ignore_index=True)
    write_atomically(folder / "cells.csv", lambda file: table.to_csv(file, index=False))
    return dict(methods=chosen, questions=list(questions), baseline=plain)


def _controls(steering: Steering, sizes: Sizes, seed: int) -> list[Control]:
    return [control for control in steering.controls(sizes.controls, seed) if isinstance(control, Control)]


def _match(model: Model, task: Task, sizes: Sizes, seed: int, batch_size: int, steering: Steering) -> dict[str, Any]:
    """The divergence of a steering, and the factor that brings each of its controls there."""
    chats = [task.chat(q) for q in task.questions("dev", min(MATCHED_ON, sizes.dev), seed)]
    texts = _openings(model, chats, batch_size)
    moved = divergences(model, chats, texts, [steering], Nothing(), batch_size=batch_size)[0]
    nats = float(np.mean(moved.totals))
    controls = _controls(steering, sizes, seed)
    factors = match_controls(model, chats, texts, nats, controls, batch_size=batch_size) if controls else {}
    return dict(nats=nats, matched_on=len(chats), factors=factors)


def _openings(model: Model, chats: Sequence[Any], batch_size: int) -> list[list[int]]:
    """The first tokens of the baseline's replies."""
    return generate_all(model, chats, generation={"max_new_tokens": max(FIRST)}, batch_size=batch_size).token_ids
