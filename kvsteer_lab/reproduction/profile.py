"""What the chapters run with on another model: task, styles, strengths in relative units, and sizes. One file a model
lies in `profiles/`; a model without one runs with `default.json`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .._util.json import first_fault, read_json

Positive = Annotated[int, Field(ge=1)]
Dose = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Literal["quick", "full"]


class Sizes(BaseModel):
    """How much is computed.

    Attributes:
        pairs, shots: contrastive pairs of a style, and examples in each prompt.
        dev, test: questions that settings are looked for on, and those that they are confirmed on.
        controls: random vectors beside each steering. Fewer than 39 can't give p < 0.05 at a two-sided look.
        new_tokens: of each reply.
        layers: about so many layers are looked at singly, at even distances; `None`: all of them.
        cells: of a search for coefficients, for each method; a multiple of four, at least twelve.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    pairs: Annotated[int, Field(ge=8)]
    shots: Positive
    dev: Positive
    test: Positive
    controls: Positive
    new_tokens: Positive
    layers: Positive | None
    cells: Annotated[int, Field(multiple_of=4, ge=12)]


class Profile(BaseModel):
    """What the chapters run with.

    Attributes:
        task: anything that `kv.tasks.get` takes.
        styles: the style that is steered to, and the one that it is compared and mixed with.
        dose: the strength: the norm of what is added to the slot's values, over their own norm.
        doses: those of dose-response curves.
        outcome: what a search maximises: right answers (`"correct"`), or replies in a reasoning style.
        comparison: a second model for the sections that compare; `None`: these sections are left out.
        quick, full: sizes.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    task: str
    styles: Annotated[list[str], Field(min_length=2, max_length=2)]
    dose: Dose
    doses: Annotated[list[Dose], Field(min_length=2)]
    outcome: Literal["correct", "reasoned"]
    comparison: str | None
    quick: Sizes
    full: Sizes

    def sizes(self, size: Size) -> Sizes:
        """The sizes of that name."""
        return self.quick if size == "quick" else self.full


def read_profile(model: str) -> Profile:
    """The profile of a model, by the name that it is loaded by; of any other the default.

    Raises:
        ValueError: a file that isn't a profile.

    >>> read_profile("smollm2-135m").task
    'tiny-arithmetic'
    """
    folder = files(__package__).joinpath("profiles")
    file = folder.joinpath(f"{model}.json")
    if "/" in model or "\\" in model or not file.is_file():
        file = folder.joinpath("default.json")
    text = file.read_bytes()
    try:
        read_json(text, what=file.name)
        return Profile.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{file.name} is no profile: {first_fault(error)}.") from error
