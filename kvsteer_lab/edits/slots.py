"""Slots by number, counted from either end of a row."""

from __future__ import annotations

from typing import SupportsIndex


def check_slot(slot: SupportsIndex) -> int:
    """The slot as a Python integer.

    Args:
        slot: what is checked; numpy's whole numbers will do, too.

    Returns:
        The integer.

    Raises:
        ValueError: something that isn't a whole number.

    >>> check_slot(-1)
    -1
    """
    if isinstance(slot, bool) or not isinstance(slot, SupportsIndex):
        raise ValueError(f"The slot is {slot!r}; it must be a whole number, negative to count from the prompt's end.")
    return slot.__index__()


def slot_from_end(slot: int, length: int, row: int) -> int:
    """How far a slot lies from the end of a row of `length` cached tokens: 1 is the last.

    Args:
        slot: index into the row; negative counts from its end.
        length: cached tokens of the row.
        row: its number, for the error.

    Returns:
        A number from 1 to `length`.

    Raises:
        ValueError: the row has no such slot.

    >>> slot_from_end(0, 5, row=0), slot_from_end(-1, 5, row=0)
    (5, 1)
    """
    back = length - slot if slot >= 0 else -slot
    if not 1 <= back <= length:
        raise ValueError(
            f"Slot {slot} is out of range for row {row}, which has {length} cached tokens; choose {-length} to"
            f" {length - 1}."
        )
    return back
