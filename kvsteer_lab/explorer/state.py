"""Everything that can be set in the explorer: one frozen value that goes to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic.dataclasses import dataclass

from .._util.files import write_atomically
from ..interventions.prompt import STEP_BY_STEP
from .state_files import FORMAT, Origin, read_file, read_state, refuse_existing

Arm = Literal["baseline", "CoT prompt", "forced prefix", "cache steering", "activation steering", "random control"]
Part = Literal["keys and values", "keys", "values"]
SweepKind = Literal["layers", "heads", "ck x cv"]
Measure = Literal["reasoned", "accuracy", "tokens", "loops", "changed"]

ARMS: tuple[Arm, ...] = (
    "baseline",
    "CoT prompt",
    "forced prefix",
    "cache steering",
    "activation steering",
    "random control",
)
"""What can be compared side by side, in the order in which it is shown."""
PARTS: tuple[Part, ...] = ("keys and values", "keys", "values")
SWEEPS: tuple[SweepKind, ...] = ("layers", "heads", "ck x cv")
MEASURES: tuple[Measure, ...] = ("reasoned", "accuracy", "tokens", "loops", "changed")
FIGURES = ("the texts, token by token", "the sweep", "the pairs")
"""What can be saved as a figure."""

SWEEP_FIELDS = frozenset({"sweep", "sweep_questions", "sweep_ck", "sweep_cv", "measure", "ladder"})
GEOMETRY_FIELDS = frozenset({"geometry_layer", "geometry_part"})
"""What the texts of the first tab don't depend on."""
_STEERING_FIELDS = ("mix", "ck", "cv", "part", "layers", "heads", "slot", "offset")
_SAMPLING_FIELDS = ("sample", "temperature", "top_p", "seed", "max_new_tokens")
CELL_FIELDS = ("prompt", "task", "split", *_STEERING_FIELDS, *_SAMPLING_FIELDS)
"""What the texts of a sweep's cell depend on, beside which questions are asked."""

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, StringConstraints(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ExplorerState:
    """All settings of the explorer, a frozen value.

    Attributes:
        prompt: the user's own text; read where `task` is `None`.
        task, split, question: the task, its split, and the number of the question that is asked.
        mix: weight of each set of vectors, by name.
        ck, cv: coefficients of keys and values.
        part: whether keys, values or both are steered.
        layers, heads: what is steered; `None`: layer 1 and above, all KV heads.
        slot, offset: the steered slot, and the token that is read after the prompt.
        arms: what is compared.
        cot, prefix: the instruction of the CoT prompt, and the response prefill.
        activation_layer, activation_coefficient, every_token: of activation steering.
        control_seed, n_controls: which random vectors, and how many of them.
        sample, temperature, top_p, seed, max_new_tokens: how texts are generated; `sample=False` is greedy.
        sweep, sweep_questions, sweep_ck, sweep_cv, measure: of the ablation tab.
        ladder: value coefficients of the strength ladder.
        geometry_layer, geometry_part: of the geometry tab.

    Raises:
        ValueError: a field of the wrong type or out of range.

    >>> ExplorerState(task="tiny-arithmetic", cv=3.0, layers=(1, 2)).layers
    (1, 2)
    """

    prompt: str = ""
    task: str | None = None
    split: Words = "dev"
    question: Count = 0
    mix: Annotated[dict[str, Number], Field(min_length=1)] = Field(default_factory=lambda: {"vectors": 1.0})
    ck: Number = 0.0
    cv: Number = 2.0
    part: Part = "keys and values"
    layers: tuple[Count, ...] | None = None
    heads: tuple[Count, ...] | None = None
    slot: int = -1
    offset: Words = "\n"
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("baseline", "cache steering", "random control")
    cot: Words = STEP_BY_STEP
    prefix: Words = "Step"
    activation_layer: Count = 1
    activation_coefficient: Number = 1.0
    every_token: bool = False
    control_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # what torch's generators take
    n_controls: Annotated[int, Field(ge=1, le=40)] = 5
    sample: bool = False
    temperature: Annotated[Number, Field(gt=0)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    seed: Count = 0
    max_new_tokens: Positive = 64
    sweep: SweepKind = "layers"
    sweep_questions: Positive = 8
    sweep_ck: Annotated[tuple[Number, ...], Field(min_length=1)] = (0.0, 1.0, 2.0)
    sweep_cv: Annotated[tuple[Number, ...], Field(min_length=1)] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    measure: Measure = "reasoned"
    ladder: Annotated[tuple[Number, ...], Field(min_length=1, max_length=64)] = (
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
        3.0,
        4.0,
        6.0,
        8.0,
    )
    geometry_layer: Count = 1
    geometry_part: Literal["keys", "values"] = "values"

    def changed(self, changes: Mapping[str, Any]) -> ExplorerState:
        """The state with some fields changed.

        Raises:
            ValueError: one sentence for each bad field.

        >>> ExplorerState().changed({"cv": 1.5, "seed": 3}).cv
        1.5
        """
        return _checked(lambda: replace(self, **changes), {**asdict(self), **changes})

    def difference(self, other: ExplorerState) -> frozenset[str]:
        """The names of the fields in which two states differ.

        >>> sorted(ExplorerState().difference(ExplorerState(cv=1.0, seed=2)))
        ['cv', 'seed']
        """
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))

    @property
    def everything(self) -> dict[str, Any]:
        """Every field by its name.

        >>> ExplorerState(cv=1.5).everything["cv"]
        1.5
        """
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def asks(self) -> tuple[Any, ...]:
        """What is asked: the question's task, split and number, or the user's own text.

        >>> ExplorerState(task="gsm8k", question=7).asks
        ('gsm8k', 'dev', 7)
        """
        return (self.prompt,) if self.task is None else (self.task, self.split, self.question)

    def says_the_same(self, other: ExplorerState) -> bool:
        """Whether an intervention that both states compare gives the same text in both.

        >>> ExplorerState().says_the_same(ExplorerState(measure="tokens"))
        True
        """
        return not self.difference(other) - SWEEP_FIELDS - GEOMETRY_FIELDS - {"arms"}

    # --- files ------------------------------------------------------------------------------------------------

    def to_json(self, origin: Origin | None = None) -> str:
        """JSON text that `from_json` reads; its first field names the format's version, the next, if it is known, where
        the state was set.

        >>> ExplorerState.from_json(ExplorerState(cv=1.5).to_json()).cv
        1.5
        """
        said = {} if origin is None else {"origin": asdict(origin)}
        return json.dumps({"format": FORMAT, **said, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ExplorerState:
        """Read what `to_json` wrote. Fields that are not there keep their defaults.

        Raises:
            ValueError: no JSON object, another format or version, or one sentence for each bad field.
        """
        found = read_state(text, "This state")
        found.pop("origin", None)
        return _checked(lambda: cls(**found), found)

    def save(self, path: str | Path, *, overwrite: bool = False, origin: Origin | None = None) -> Path:
        """Write the state as JSON.

        Args:
            path: where to.
            overwrite: whether a file that is there may be replaced.
            origin: the model that the state belongs to, and where its vectors came from.

        Raises:
            ValueError: the file exists and `overwrite` isn't set.
            OSError: the path can't be written.
        """
        refuse_existing(path, overwrite)
        return write_atomically(path, lambda temporary: temporary.write_text(self.to_json(origin), encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> ExplorerState:
        """Read a file that `save` wrote.

        Raises:
            ValueError: no such file, or what `from_json` refuses.
        """
        found = read_file(path)
        found.pop("origin", None)
        return _checked(lambda: cls(**found), found)


def _checked(make: Any, given: Mapping[str, Any]) -> ExplorerState:
    try:
        return make()
    except ValidationError as error:
        by_field = {problem["loc"][:1]: problem for problem in reversed(error.errors())}
        raise ValueError(" ".join(_sentence(problem, given) for problem in reversed(by_field.values()))) from None
    except TypeError as error:  # a field of another name, in `replace`
        raise ValueError(f"The state can't be changed: {error}.") from None


def _sentence(problem: Any, given: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "state"
    if problem["type"] == "unexpected_keyword_argument":
        return f"The state has no field {name!r}; leave it out."
    return f"The state's {name} is {given.get(name)!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}."
