"""Numbers and arrays as users hand them in, of whatever library, or a sentence about what is wrong with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole_number(what: str, number: Any) -> int:
    """A whole number as Python has it.

    Args:
        what: it is, for the error: `"The chunk's number"`.
        number: what was given.

    Raises:
        ValueError: something else.

    >>> import numpy as np
    >>> whole_number("The chunk's number", np.int64(-1))
    -1
    """
    try:
        if not isinstance(number, bool):
            return operator.index(number)
    except TypeError:
        pass
    raise ValueError(f"{what} is {number!r}; it must be a whole number.")


def whole_numbers(name: str, chosen: Any) -> tuple[int, ...] | None:
    """Chosen layers or heads as a tuple.

    Args:
        name: of the argument, for the error.
        chosen: one number or several, counted from 0; `None`: all.

    Raises:
        ValueError: none at all, or something that isn't a whole number from 0.

    >>> whole_numbers("layers", [1, 2]), whole_numbers("layers", 3), whole_numbers("layers", None)
    ((1, 2), (3,), None)
    """
    if chosen is None:
        return None
    listed = chosen.tolist() if isinstance(chosen, np.ndarray | np.generic | Tensor) else chosen
    each = tuple(listed) if isinstance(listed, Iterable) else (listed,)
    try:
        found = tuple(whole_number(name, n) for n in each)
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise ValueError(f"{name}={chosen!r} must be one or more whole numbers from 0, or None for all.")
    return found


def finite_number(what: str, number: Any) -> float:
    """A finite real number.

    Args:
        what: it is, for the error: `"The factor"`.
        number: what was given.

    Raises:
        ValueError: something else, NaN or infinity.

    >>> finite_number("The factor", 2)
    2
    """
    if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
        raise ValueError(f"{what} is {number!r}; it must be a finite number.")
    return number if isinstance(number, int | float) else float(number)


def float_array(what: str, given: Any, needs: str) -> Tensor:
    """An array in float32 on the CPU; what is that already is taken as it is.

    Args:
        what: it is, for the error: `"The map's shift"`.
        given: a tensor or an array of another library, or nested lists of numbers.
        needs: what it must be, for the error.

    Raises:
        ValueError: something that holds no numbers.

    >>> import numpy as np
    >>> float_array("The shift", np.ones(2), "an array").dtype
    torch.float32
    """
    try:
        if isinstance(given, np.generic) or not isinstance(given, str | Real | complex | None):
            return torch.as_tensor(given, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        pass
    said = repr(given) if isinstance(given, str | Real | complex | None) else f"of type {type(given).__name__}"
    raise ValueError(f"{what} is {said}; it must be {needs}.")


def check_sequence(what: str, given: Sequence[Any], n: int, each: str) -> None:
    """Refuse a list that hasn't one entry for each of something.

    Args:
        what: it is, for the error.
        given: the list.
        n: how many there must be.
        each: what each is for.

    Raises:
        ValueError: another number of entries.

    >>> check_sequence("lengths", [3, 4], 2, "row")
    """
    if len(given) != n:
        raise ValueError(f"{what} has {len(given)} entries for {n} {each}s; give one for each.")


def check_there(what: str, chosen: Sequence[int] | None, n: int, name: str) -> None:
    """Refuse layers or heads that a model or cache hasn't got.

    Args:
        what: what is counted, for the error: `"layer"`, `"KV head"`.
        chosen: their numbers; `None`: all.
        n: how many there are.
        name: whose they are, for the error.

    Raises:
        ValueError: a number that is too large.

    >>> check_there("layer", [4], 4, "tiny")
    Traceback (most recent call last):
    ValueError: There is no layer 4; tiny has layers 0 to 3.
    """
    wrong = next((i for i in chosen or () if i >= n), None)
    if wrong is not None:
        raise ValueError(f"There is no {what} {wrong}; {name} has {what}s 0 to {n - 1}.")
