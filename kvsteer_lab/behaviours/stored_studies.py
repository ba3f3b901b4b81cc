"""Studies of behaviours in a folder, with their replies: written, read, and some of their replies generated anew."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from .._util.files import write_atomically
from .._util.json import read_json
from ..evaluation.results import Results
from ..generation.generate import generate_all
from ..interventions.activation import ActivationSteering
from ..interventions.base import Intervention, Nothing
from ..interventions.cache import CacheSteering
from ..models.model import Model
from ..vectors.activation import ActivationVectors
from ..vectors.kv import KVVectors
from .catalogue import get
from .study import ACTIVATION, CACHE, BehaviourStudy, Sizes


def write_study(studies: Sequence[BehaviourStudy], out: str | Path) -> Path:
    """Write studies of several behaviours to one folder: `NAME.parquet`, the chosen vectors beside it, `cells.parquet`,
    `settings.json`.

    The replies are kept; the questions are this package's own. Behaviours that the folder holds already stay, or are
    replaced by those of the same name.

    Args:
        studies: of one model, with the same sizes.
        out: the folder.

    Raises:
        ValueError: none, or studies of different models, or a folder with studies of another model or of other sizes.
        OSError: the folder can't be written.

    Example:
        >>> write_study([], "nowhere")
        Traceback (most recent call last):
        ValueError: There are no studies to write, or they are of different models; pass those of one model.
    """
    if len({study.settings["fingerprint"] for study in studies}) != 1:
        raise ValueError("There are no studies to write, or they are of different models; pass those of one model.")
    out = Path(out)
    cells = pd.concat([study.cells for study in studies], ignore_index=True)
    chosen = {name: about for study in studies for name, about in study.settings["chosen"].items()}
    if (out / "settings.json").is_file():
        there = read_study(out)
        _check_same(there, studies[0], out)
        cells = pd.concat([there.cells[~there.cells.behaviour.isin(chosen)], cells], ignore_index=True)
        chosen = {**there.settings["chosen"], **chosen}
    out.mkdir(parents=True, exist_ok=True)
    for study in studies:
        for name, results in study.results.items():
            results.save(out / f"{name}.parquet")
            cache, activation = study.steerings[name]
            cache.vectors.save(out / f"{name}.vectors.safetensors")
            activation.vectors.save(out / f"{name}.activations.safetensors")
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
    steerings = {name: _read_steerings(path, name, settings["chosen"][name]) for name in settings["chosen"]}
    return BehaviourStudy(settings, results, pd.read_parquet(path / "cells.parquet"), steerings)


def _check_same(there: BehaviourStudy, study: BehaviourStudy, out: Path) -> None:
    """Refuse to mix studies that can't be compared."""
    for name in ("fingerprint", "sizes"):
        if there.settings[name] != study.settings[name]:
            raise ValueError(
                f"{out} holds studies with {name} {there.settings[name]!r}, not {study.settings[name]!r}; choose"
                " another folder."
            )


def _read_steerings(
    path: Path, name: str, chosen: Mapping[str, Mapping[str, Any]]
) -> tuple[CacheSteering, ActivationSteering]:
    keys_values = KVVectors.load(path / f"{name}.vectors.safetensors")
    residuals = ActivationVectors.load(path / f"{name}.activations.safetensors")
    coefficient, beside = chosen[CACHE]["coefficient"], chosen[ACTIVATION]["coefficient"]
    return (
        CacheSteering(keys_values, 0, coefficient, name=CACHE),
        ActivationSteering(residuals, residuals.n_layers // 2, beside, scope="onward", name=ACTIVATION),
    )


def recompute_study(
    model: Model, study: BehaviourStudy, name: str, *, questions: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Generate some stored replies anew: every method, one random vector of each steering.

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
        >>> recompute_study(kv.load("tiny"), BehaviourStudy({}, {}, pd.DataFrame(), {}), "french")
        Traceback (most recent call last):
        ValueError: The study has no behaviour 'french'; choose one of those that it has: none.
    """
    if name not in study.results:
        there = ", ".join(study.results) or "none"
        raise ValueError(f"The study has no behaviour {name!r}; choose one of those that it has: {there}.")
    if model.fingerprint != study.settings["fingerprint"]:
        raise ValueError(f"The study is of {study.settings['model']}, not of {model.name}; load that model.")
    sizes = TypeAdapter(Sizes).validate_python(study.settings["sizes"])
    behaviour = get(name)
    methods: list[Intervention] = [Nothing(), behaviour.system_prompt()]
    methods += [part for one in study.steerings[name] for part in (one, *one.controls(1, sizes.seed))]
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
