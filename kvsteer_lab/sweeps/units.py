"""A unit of a sweep, one shard of one run: plain data that any process can be given, and what it does with it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..evaluation.evaluate import evaluate
from ..evaluation.run_config import CONFIG, RunConfig
from ..interventions.base import Intervention
from ..interventions.cache import CacheSteering
from ..interventions.prompt import CoTPrefix, CoTPrompt, ForcedPrefix
from ..models.loading import load
from ..models.model import Model
from ..tasks import catalogue
from ..vectors.kv import KVVectors


class Record(BaseModel):
    """Data that is read from a file: checked, and never changed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ModelSource(Record):
    """Where a model comes from, and how it is loaded.

    Attributes:
        source: as in `kv.load`.
        id: what it is called in folders and tables; by default the end of `source`.
        template, dtype, device_map: as in `kv.load`.
    """

    source: Annotated[str, Field(min_length=1)]
    id: str = ""
    template: str | None = None
    dtype: str | None = None
    device_map: str | dict[str, str | int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("source"), str):
            return {"id": Path(given["source"]).name, **given}
        return given


class Dose(Record):
    """Coefficients of keys and values."""

    ck: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    cv: Annotated[float, Field(allow_inf_nan=False)]


class InterventionSet(Record):
    """What is compared in one run, beside the baselines and the chain-of-thought prompts.

    Attributes:
        vectors: a file of `KVVectors`.
        doses: one steering each, with its own random controls.
        layers, heads: as in `kv.CacheSteering`.
        controls: random controls of each of them.
        prefix: words that are forced as the answer's first on the unsteered model.
    """

    vectors: str | None = None
    doses: tuple[Dose, ...] = ()
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    controls: Annotated[int, Field(ge=0)] = 40
    prefix: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> InterventionSet:
        if (self.vectors is None) != (not self.doses):
            raise ValueError("steering needs vectors and doses, or neither of them")
        return self

    def filled(self, model: str, task: str) -> InterventionSet:
        """The set with `{model}` and `{task}` replaced in the name of its vectors' file."""
        vectors = self.vectors and self.vectors.replace("{model}", model).replace("{task}", task)
        return self.model_copy(update={"vectors": vectors})

    def build(self) -> list[Intervention]:
        """The interventions in the order of the run."""
        methods: list[Intervention] = [CoTPrompt(), CoTPrefix()]
        if self.prefix is not None:
            methods.append(ForcedPrefix(self.prefix))
        if self.vectors is not None:
            vectors = KVVectors.load(self.vectors)
            for dose in self.doses:
                steering = CacheSteering(vectors, dose.ck, dose.cv, layers=self.layers, heads=self.heads)
                methods += [steering, *(steering.controls(self.controls) if self.controls else [])]
        return methods


class Unit(Record):
    """One shard of one run, as plain data. Made by `SweepPlan.units`.

    Attributes:
        run: the run's folder.
        model, task, name, methods: what is asked of whom; `name` is the set's.
        shard: part i of N.
        n, split, seed, samples, generation, batch_size, chunk_size, data_dir: as in `SweepPlan`.

    >>> methods, model = InterventionSet(prefix="Step"), ModelSource(source="tiny")
    >>> Unit(run="runs/a", model=model, task="gsm8k", name="first", methods=methods, shard=(1, 2)).title
    'runs/a shard 1/2'
    """

    OF_PLAN: ClassVar = ("n", "split", "seed", "samples", "generation", "batch_size", "chunk_size", "data_dir")

    run: str
    model: ModelSource
    task: str
    name: str
    methods: InterventionSet
    shard: tuple[int, int]
    n: int | None = 200
    split: str = "test"
    seed: int = 0
    samples: int = 1
    generation: dict[str, Any] = Field(default_factory=dict)
    batch_size: int = 64
    chunk_size: int | None = None
    data_dir: str | None = None

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.run} shard {self.shard[0]}/{self.shard[1]}"

    def located(self) -> Unit:
        """The unit with absolute paths, for workers that run in another folder."""
        source = self.model.source
        place = {"source": str(Path(source).resolve())} if Path(source).exists() else {}
        vectors = self.methods.vectors and str(Path(self.methods.vectors).resolve())
        return self.model_copy(
            update=dict(
                run=str(Path(self.run).resolve()),
                model=self.model.model_copy(update=place),
                methods=self.methods.model_copy(update={"vectors": vectors}),
                data_dir=self.data_dir and str(Path(self.data_dir).resolve()),
            )
        )


def unfinished(units: Iterable[Unit]) -> list[Unit]:
    """The units of which the store lacks a chunk, whoever wrote the others.

    Args:
        units: which to look up. Each run's folder is listed once.

    Raises:
        ValueError: a run's `config.json` is damaged.

    >>> unfinished([])
    []
    """

    @cache
    def missing(run: str) -> set[int] | None:
        folder = Path(run)
        if not (folder / CONFIG).is_file():
            return None
        written = {entry.name for entry in os.scandir(folder / "rows")}
        return {i for i in range(chunks_of(folder)) if f"{i:05d}.parquet" not in written}

    def lacks(unit: Unit) -> bool:
        lacking, (i, n) = missing(unit.run), unit.shard
        return lacking is None or any(chunk % n == i - 1 for chunk in lacking)

    return [unit for unit in units if lacks(unit)]


def chunks_of(folder: Path) -> int:
    """How many chunks a run has: fixed since it was begun, so that its config is read once."""
    status = (folder / CONFIG).stat()
    return _chunks(folder, status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _chunks(folder: Path, inode: int, written: int) -> int:
    return len(RunConfig.read(folder).chunks)


def run_unit(text: str) -> str | None:
    """Ask what a unit lacks: what a worker does. A second time it goes on where the first was stopped.

    Args:
        text: the unit as JSON.

    Returns:
        `None`; or, where trying again would change nothing, why it was refused, in one sentence.

    Raises:
        RuntimeError: another process has some of its chunks.
    """
    unit = Unit.model_validate_json(text)
    try:
        evaluate(
            _model(unit.model.model_dump_json()),
            catalogue.get(unit.task, unit.data_dir),
            unit.methods.build(),
            out=unit.run,
            shard=unit.shard,
            progress=False,
            **{key: getattr(unit, key) for key in Unit.OF_PLAN if key != "data_dir"},
        )
    except ValueError as error:
        return str(error)
    if unfinished([unit]):
        raise RuntimeError("another process holds some of its chunks")
    return None


@lru_cache(maxsize=1)
def _model(source: str) -> Model:
    """A worker keeps the last model: shards of one run follow one another."""
    found = ModelSource.model_validate_json(source)
    return load(found.source, template=found.template, dtype=found.dtype, device_map=found.device_map)
