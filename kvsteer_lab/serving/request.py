"""What a request may ask of a server: `{"kv_steering": {"vectors": "stepwise", "ck": 0, "cv": 4, "layers": [1, 2]}}`.

A client names vectors that the server's owner has given a name. It never sends a path or a tensor, and it chooses no
token id: the offset token is the vectors' own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from .._util.json import first_fault, read_json
from .._util.text import visible

KEY = "kv_steering"
"""The field's name in a request's body."""
HEADER = "x-kv-steering"
"""The response's header that says what was added, as `SteeringRequest.describe` writes it. A server without cache
steering ignores the field and sends no such header: a client that asked for steering refuses an answer without it."""
NAMES_PATH = "/v1/kv_steering"
"""Where a server lists the vectors that requests may name."""
LIMIT = 64.0
"""The largest coefficient, either sign, that a server takes unless its owner says otherwise."""
MAX_LAYERS = 1024
"""How many layers a model may have: a bound on the work of reading a request."""

_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_SHOWN = 200


class SteeringRequest(BaseModel):
    """One request's cache steering: which vectors are added to the prompt's last slot, and how much of them.

    Attributes:
        vectors: a name that the server knows.
        ck, cv: coefficients of keys and values; `cv` must be given. Both zero is the baseline: the offset token is
            read, and nothing added.
        layers: exactly these layers; `None`: layer 1 and above, as in the paper.

    >>> SteeringRequest(vectors="stepwise", cv=4).describe()
    'stepwise ck=0 cv=4'
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    vectors: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    ck: float = 0.0
    cv: float
    layers: (
        Annotated[tuple[Annotated[int, Field(ge=0, lt=MAX_LAYERS)], ...], Field(min_length=1, max_length=MAX_LAYERS)]
        | None
    ) = None

    @field_validator("layers")
    @classmethod
    def _sort(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and len(set(layers)) != len(layers):
            raise ValueError("a layer is named twice")
        return None if layers is None else tuple(sorted(layers))

    def describe(self) -> str:
        """The request in one line, the same for equal requests.

        >>> SteeringRequest(vectors="stepwise", ck=0.5, cv=4, layers=(2, 1)).describe()
        'stepwise ck=0.5 cv=4 layers=1,2'
        """
        chosen = "" if self.layers is None else f" layers={','.join(map(str, self.layers))}"
        return f"{self.vectors} ck={self.ck:g} cv={self.cv:g}{chosen}"

    @property
    def adds(self) -> bool:
        """Whether a coefficient isn't zero."""
        return bool(self.ck or self.cv)


def read_request(asked: object, served: Mapping[str, int], limit: float = LIMIT) -> SteeringRequest:
    """A request's `kv_steering` field as a checked request that this server can answer.

    Args:
        asked: the field's value as JSON has it, or the same as JSON text.
        served: the vectors that the server has: the number of layers by name.
        limit: the largest coefficient, either sign.

    Returns:
        The request; its layers, if any, in ascending order.

    Raises:
        ValueError: anything that can't be done as asked, in one sentence meant for the client.

    >>> read_request({"vectors": "stepwise", "cv": 4}, {"stepwise": 30})
    SteeringRequest(vectors='stepwise', ck=0.0, cv=4.0, layers=None)
    >>> read_request({"vectors": "other", "cv": 4}, {"stepwise": 30})
    Traceback (most recent call last):
    ValueError: kv_steering names vectors 'other'; this server has stepwise.
    """
    as_text = isinstance(asked, str) and asked.lstrip().startswith("{")
    value = read_json(asked, what=KEY) if as_text else asked  # type: ignore[arg-type]
    if not isinstance(value, dict):
        raise ValueError(f"{KEY} must be an object such as {_EXAMPLE}.")
    try:
        request = SteeringRequest.model_validate_json(json.dumps(value))
    except ValidationError as error:
        fault = first_fault(error).removesuffix(".")
        raise ValueError(
            f"{KEY} can't be read: {visible(fault[:_SHOWN], one_line=True)}; write it as {_EXAMPLE}."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:  # json.dumps: what no JSON document holds
        raise ValueError(f"{KEY} isn't plain JSON; write it as {_EXAMPLE}.") from error
    if request.vectors not in served:
        raise ValueError(
            f"{KEY} names vectors {request.vectors!r}; this server has {', '.join(sorted(served)) or 'none'}."
        )
    for name in ("ck", "cv"):
        if abs(getattr(request, name)) > limit:
            raise ValueError(
                f"{KEY}.{name} is {getattr(request, name):g}; this server takes coefficients from {-limit:g} to"
                f" {limit:g}."
            )
    last = served[request.vectors] - 1
    if request.layers is not None and request.layers[-1] > last:
        raise ValueError(f"{KEY} names layer {request.layers[-1]}; this model has layers 0 to {last}.")
    return request


def check_name(name: str) -> str:
    """A name for vectors: lower-case letters, digits, dots, hyphens and underscores, 64 at most.

    Raises:
        ValueError: another text.

    >>> check_name("stepwise")
    'stepwise'
    >>> check_name("../vectors")
    Traceback (most recent call last):
    ValueError: '../vectors' can't name vectors: use lower-case letters, digits, '.', '-' and '_', 64 at most.
    """
    if not re.fullmatch(_NAME, name):
        raise ValueError(
            f"{visible(name[:_SHOWN], one_line=True)!r} can't name vectors: use lower-case letters, digits, '.', '-'"
            " and '_', 64 at most."
        )
    return name


_EXAMPLE = '{"vectors": "stepwise", "ck": 0, "cv": 4}'
