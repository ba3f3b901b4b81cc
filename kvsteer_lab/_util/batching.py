"""Working through rows in batches, with smaller ones where memory runs out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_batch_size(batch_size: int) -> None:
    """Raise a `ValueError` if no row fits a batch."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")


def in_batches(
    items: Sequence[Item],
    batch_size: int,
    run: Callable[[Sequence[Item]], Result],
    fitting: Callable[[Sequence[Item]], int] | None = None,
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Yield each batch with what `run` made of it; out of memory halves the batch, says so, and goes on.

    Args:
        items: what is worked through.
        batch_size: the most items in a batch.
        run: is given a batch.
        fitting: how many of the items that it is given, from the first on, fit into memory together.

    Raises:
        ValueError: a batch size below 1.
        torch.OutOfMemoryError: not even one row fits, on a GPU or a CPU.
    """
    check_batch_size(batch_size)
    start, size = 0, batch_size
    while start < len(items):
        batch = items[start : start + size]
        if fitting is not None:
            batch = batch[: max(1, fitting(batch))]
        try:
            result = run(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = smaller_batch(len(batch), error)
            result = None
        if result is None:
            free_memory()
            continue
        start += len(batch)
        yield batch, result


def smaller_batch(rows: int, error: BaseException) -> int:
    """Half as many rows, and a warning that says so.

    Args:
        rows: that were too many.
        error: what was raised.

    Returns:
        The new number of rows.

    Raises:
        torch.OutOfMemoryError: it was a single row.

    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):
    ...     smaller_batch(9, MemoryError())
    4
    """
    if rows == 1:
        raise torch.OutOfMemoryError(
            "Out of memory with a single row; use shorter prompts, fewer new tokens or a smaller dtype."
        ) from error
    warnings.warn(f"Out of memory with {rows} rows; going on with {rows // 2} at a time.", stacklevel=3)
    return rows // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. CUDA has an exception of its own for it; CPUs and other devices a `RuntimeError` that
    tells it in words.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def free_memory() -> None:
    """Collect what nothing refers to any more, and give the device's unused memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
