"""How much memory rows take, estimated from the model's own numbers, so that a batch is as large as fits and no larger.

The budget is half of the memory that is free where the model runs, or `KVSTEER_MEMORY` gigabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .layers import hidden_size
from .model import Model

SHARE = 0.5
"""Of the free memory, what a batch may take."""
_CACHED = 0.6  # of the budget for what the rows keep; the rest for what a prefill needs while it runs
_PREFILL = {"cpu": 4096, "cuda": 32768}
"""Tokens prefilled in one pass, padding counted: enough to fill the device."""
_BUSY = 512  # tokens in a pass from which on padding costs more than another pass over large matrices
_FIXED = 5e9  # what a pass costs besides its tokens, in tokens x parameters: a small model's passes should be longer
_UNKNOWN = 4e9  # bytes, where nothing tells how much memory is free


def memory_budget(device: torch.device) -> float:
    """Bytes that a batch may take: half of what is free now, or what `KVSTEER_MEMORY` says, in gigabytes.

    Args:
        device: where the model runs.

    Returns:
        Bytes.

    Raises:
        ValueError: `KVSTEER_MEMORY` is no positive number.

    >>> import torch
    >>> memory_budget(torch.device("cpu")) > 0
    True
    """
    asked = os.environ.get("KVSTEER_MEMORY")
    if asked:
        try:
            gigabytes = float(asked)
        except ValueError:
            gigabytes = 0.0
        if not gigabytes > 0:
            raise ValueError(
                f"KVSTEER_MEMORY={asked!r} is no number of gigabytes; set it to what a batch may take, such as 6, or"
                " unset it for half of the free memory."
            )
        return gigabytes * 1e9
    return SHARE * free_bytes(device)


def free_bytes(device: torch.device) -> float:
    """Bytes that are free where a model runs; within a container, what its limit leaves.

    Args:
        device: where the model runs.

    Returns:
        Bytes; 4e9 where nothing tells.

    >>> import torch
    >>> free_bytes(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + idle)
    found = [_of_meminfo(Path("/proc/meminfo")), _of_container(Path("/sys/fs/cgroup"))]
    return min((n for n in found if n is not None), default=_UNKNOWN)


def _of_meminfo(path: Path) -> float | None:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_container(folder: Path) -> float | None:
    try:
        limit, used = (float((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        files = next(
            float(line.split()[1])
            for line in (folder / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):  # no container, or "max": no limit
        return None
    return limit - used + files


def row_bytes(model: Model, tokens: int) -> float:
    """Bytes that one row of a batch keeps: keys and values of all layers, and a step's logits with the copies that
    choosing a token makes of them.

    Args:
        model: the model.
        tokens: the row's length at its end, padding counted.

    Returns:
        Bytes.

    >>> import kvsteer_lab as kv
    >>> row_bytes(kv.load("tiny"), 100) > 100 * 4 * 2 * 2 * 32 * 4
    True
    """
    slots = sum(min(tokens, window or tokens) for window in model.shape.windows)
    cached = 2 * slots * model.n_kv_heads * model.head_dim * model.dtype.itemsize
    return 1.15 * cached + model.n_tokens * (model.dtype.itemsize + 16)


def prefill_bytes(model: Model, tokens: int) -> float:
    """Bytes that one row of a prefill needs while it runs, besides its cache: one layer's activations, and attention
    weights, which padding makes the CPU write out.

    Args:
        model: the model.
        tokens: the row's length, padding counted.

    Returns:
        Bytes.

    >>> import kvsteer_lab as kv
    >>> prefill_bytes(kv.load("tiny"), 200) > 2 * prefill_bytes(kv.load("tiny"), 100)
    True
    """
    config = model.hf.config.get_text_config(decoder=True)
    width = hidden_size(model.hf)
    inner = getattr(config, "intermediate_size", None) or 4 * width
    heads = getattr(config, "num_attention_heads", None) or model.n_kv_heads
    streams = tokens * (8 * width + 4 * int(inner) + 4 * heads * model.head_dim)
    return model.dtype.itemsize * (streams + 3 * heads * tokens**2)


def rows_that_fit(model: Model, lengths: Sequence[int], more: int = 0, budget: float | None = None) -> int:
    """How many of these rows, from the first on, may be prefilled, and read on from, in one batch.

    Args:
        model: the model that runs.
        lengths: of the rows, in tokens.
        more: how many tokens are read on from each.
        budget: bytes; `None`: those of `memory_budget`.

    Returns:
        At least 1.

    >>> import kvsteer_lab as kv
    >>> rows_that_fit(kv.load("tiny"), [100] * 8, budget=1e6), rows_that_fit(kv.load("tiny"), [100] * 8)
    (1, 8)
    """
    budget = memory_budget(model.device) if budget is None else budget
    return fit(
        lengths,
        lambda rows, longest: (
            rows * row_bytes(model, longest + more) <= _CACHED * budget
            and rows * prefill_bytes(model, longest) <= (1 - _CACHED) * budget
        ),
    )


def rows_to_prefill(model: Model, lengths: Sequence[int], budget: float | None = None) -> int:
    """How many of these prompts, from the first on, are prefilled in one pass: as many as keep the device busy, within
    the budget.

    Args:
        model: the model that runs.
        lengths: of the prompts, in tokens.
        budget: bytes; `None`: those of `memory_budget`.

    Returns:
        At least 1.

    >>> import kvsteer_lab as kv
    >>> rows_to_prefill(kv.load("tiny"), [1024] * 9)
    4
    """
    budget = memory_budget(model.device) if budget is None else budget
    most = _PREFILL.get(model.device.type, _PREFILL["cuda"])
    return fit(
        lengths,
        lambda rows, longest: rows * longest <= most and rows * prefill_bytes(model, longest) <= (1 - _CACHED) * budget,
    )


def rows_of_like_length(model: Model, lengths: Sequence[int]) -> int:
    """How many rows, from the first on, go together with little padding: a twelfth of what they hold, unless they are
    too few to be worth a pass of their own.

    Args:
        model: the model that runs.
        lengths: of rows, the shortest first.

    Returns:
        At least 1.

    >>> import kvsteer_lab as kv
    >>> rows_of_like_length(kv.load("tiny"), [3000, 3000, 3100, 6000])
    3
    """
    parameters = sum(weights.numel() for weights in model.hf.parameters())
    worth = _BUSY + _FIXED / parameters
    held = [0]
    for length in lengths:
        held.append(held[-1] + length)
    return fit(lengths, lambda rows, longest: rows * longest <= 13 / 12 * held[rows] or held[rows - 1] < worth)


def cached_rows_fit(model: Model, rows: int, tokens: int, budget: float) -> bool:
    """Whether a batch of so many rows may grow to so many tokens.

    Args:
        model: the model that runs.
        rows: in the batch.
        tokens: of the longest row at its end.
        budget: bytes, as `memory_budget` gives them.

    Returns:
        Whether they take no more than their share of the budget.

    >>> import kvsteer_lab as kv
    >>> cached_rows_fit(kv.load("tiny"), 64, 200, budget=1e9), cached_rows_fit(kv.load("tiny"), 64, 200, budget=1e7)
    (True, False)
    """
    return rows * row_bytes(model, tokens) <= _CACHED * budget


def fit(lengths: Sequence[int], holds: Callable[[int, int], bool]) -> int:
    """How many of the lengths, from the first on, still hold: `holds(rows, longest)`.

    Args:
        lengths: of rows.
        holds: whether so many rows, padded to so many tokens, may go together.

    Returns:
        At least 1.

    >>> fit([2, 2, 9], lambda rows, longest: rows * longest <= 12)
    2
    """
    longest, count = 0, 0
    for length in lengths:
        longest = max(longest, length)
        if count and not holds(count + 1, longest):
            break
        count += 1
    return max(1, count)
