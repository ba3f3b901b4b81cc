"""What a sweep asks for: a YAML file of models, tasks and sets of interventions, checked before anything starts."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from .._util.json import first_fault
from ..tasks.catalogue import NAMES
from .units import InterventionSet, ModelSource, Record, Unit

_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


class SweepPlan(Record):
    """Models x tasks x sets of interventions, each combination one run in `shards` parts.

    What is compared shares a run: a set is asked together with both baselines, the chain-of-thought prompts and its own
    random controls.

    Attributes:
        out: the folder of the sweep; each run gets one in it, named by what it is.
        models: names as in `kv.load`, or mappings with `source`, `template`, `dtype` and `device_map`.
        tasks: names as in `kv.tasks.get`.
        interventions: sets by name: `vectors` (a file; `{model}` and `{task}` stand for the run's), `doses` (each `ck`,
            `cv`), `layers`, `heads`, `controls` of each, `prefix`.
        n, split, seed, samples, batch_size, chunk_size: as in `kv.evaluate`.
        generation: settings of generation, as in `kv.generate`.
        shards: parts of each run: what is given to a worker at a time.
        attempts: how often a shard is started before it counts as failed.
        data_dir: folder with the benchmarks' files.
        slurm: parameters of submitit (`timeout_min`, `gpus_per_node`, `slurm_partition`, `slurm_array_parallelism`).
        ray: resources of a Ray task (`num_cpus`, `num_gpus`).

    >>> sets = {"strengths": {"vectors": "{model}.safetensors", "doses": [{"ck": 0, "cv": 2}]}}
    >>> plan = SweepPlan.of({"out": "runs", "models": ["tiny"], "tasks": ["tiny-arithmetic"], "interventions": sets})
    >>> [unit.run for unit in plan.units]
    ['runs/tiny-tiny-arithmetic-strengths']
    """

    out: Annotated[str, Field(min_length=1)]
    models: Annotated[tuple[str | ModelSource, ...], Field(min_length=1)]
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    interventions: Annotated[dict[str, InterventionSet], Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] | None = 200
    split: str = "test"
    seed: int = 0
    samples: Annotated[int, Field(ge=1)] = 1
    generation: dict[str, Any] = Field(default_factory=dict)
    batch_size: Annotated[int, Field(ge=1)] = 64
    chunk_size: Annotated[int, Field(ge=1)] | None = None
    shards: Annotated[int, Field(ge=1)] = 1
    attempts: Annotated[int, Field(ge=1)] = 3
    data_dir: str | None = None
    slurm: dict[str, Any] = Field(default_factory=dict)
    ray: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of(cls, plan: dict[str, Any], where: str = "The plan") -> SweepPlan:
        """A plan from plain data.

        Args:
            plan: the fields.
            where: what the message of an error begins with.

        Raises:
            ValueError: an unknown or missing field, a wrong type, an unknown task, two runs with one folder.
        """
        try:
            found = cls.model_validate_json(json.dumps(plan))
        except ValidationError as error:
            raise ValueError(f"{where} can't be run: {first_fault(error)}.") from error
        except (TypeError, ValueError, RecursionError) as error:  # a date, a set, a list inside itself
            raise ValueError(f"{where} holds something else than texts, numbers and lists ({error}).") from error
        if unknown := [task for task in found.tasks if task not in NAMES]:
            raise ValueError(f"{where} names the task {unknown[0]!r}; choose among {', '.join(NAMES)}.")
        runs = [unit.run for unit in found.units if unit.shard[0] == 1]
        if double := next((run for run in runs if runs.count(run) > 1), None):
            raise ValueError(f"{where} has two runs in {double}; give models with one name an id of their own.")
        return found

    @classmethod
    def read(cls, path: str | Path) -> SweepPlan:
        """The plan in a YAML file.

        Args:
            path: the file.

        Raises:
            ValueError: no such file, no YAML, or as `of`.
        """
        try:
            found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"There is no plan at {path}; give a YAML file.") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"The plan {path} can't be read as YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(found, dict):
            raise ValueError(f"The plan {path} must be a mapping with out, models, tasks and interventions.")
        return cls.of(found, f"The plan {path}")

    @property
    def units(self) -> list[Unit]:
        """One unit a shard of each run; the first shards of all runs come first, so that faults show early."""
        units = []
        for i, model, task, name in itertools.product(
            range(1, self.shards + 1), self.models, self.tasks, self.interventions
        ):
            source = ModelSource(source=model) if isinstance(model, str) else model
            units.append(
                Unit(
                    run=str(Path(self.out) / _PLAIN.sub("_", f"{source.id}-{task}-{name}")),
                    model=source,
                    task=task,
                    name=name,
                    methods=self.interventions[name].filled(source.id, task),
                    shard=(i, self.shards),
                    **{key: getattr(self, key) for key in Unit.OF_PLAN},
                )
            )
        return units

    def check_files(self) -> None:
        """Refuse to start where a file of vectors isn't there.

        Raises:
            ValueError: one is missing.
        """
        for unit in self.units:
            if unit.methods.vectors is not None and not Path(unit.methods.vectors).is_file():
                raise ValueError(
                    f"The vectors {unit.methods.vectors} of {unit.run} aren't there; extract them with kvsteer extract."
                )
