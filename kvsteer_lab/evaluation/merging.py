"""Joining the folders of one run's shards, with proof that nothing is missing and nothing differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .identity import differences
from .run_config import CONFIG
from .runs import Run


class IncompleteRunError(ValueError):
    """Chunks are missing.

    Attributes:
        chunks: their numbers.
        questions: the ids of all their questions, in order.
    """

    def __init__(self, run: Run, chunks: Sequence[int]) -> None:
        self.chunks = tuple(chunks)
        self.questions = tuple(q for chunk in chunks for q in run.chunks[chunk])
        some = f"{len(chunks)} of {len(run.chunks)} chunks are missing ({_ranges(chunks)})"
        first = self.questions[0] if len(self.questions[0]) <= 60 else f"{self.questions[0][:57]}..."
        super().__init__(
            f"{some}, with {len(self.questions)} questions from {first!r} on; finish the shards they belong to, then"
            " merge again."
        )


def merge(paths: Sequence[str | Path], out: str | Path) -> Run:
    """Join folders of one run into a complete one.

    Chunks that several folders hold must have the same rows in all of them. Everything is checked before anything is
    written, and nothing is written unless every chunk is there.

    Args:
        paths: folders that `kv.evaluate(..., out=)` wrote.
        out: the folder of the whole run: new, empty, or an earlier merge of the same run.

    Returns:
        The run in `out`.

    Raises:
        ValueError: no folder, one that holds another run or none, one that divides its questions into other chunks or
            read them with other rules, damaged files, or overlapping rows that differ.
        IncompleteRunError: chunks that no folder has; it names all of them and their questions.
        OSError: `out` can't be written, or another process is writing there.

    >>> merge([], "whole")
    Traceback (most recent call last):
    ValueError: There is nothing to merge; give the folders of the shards.
    """
    if not paths:
        raise ValueError("There is nothing to merge; give the folders of the shards.")
    first, *others = runs = [Run.load(path) for path in paths]
    kept = [Run.load(out)] if (Path(out) / CONFIG).is_file() else []
    for run in kept:
        run.check_same(first.identity.texts)
    for run in (*others, *kept):
        _check_mergeable(first, run)
    holders = {chunk: [run for run in (*runs, *kept) if chunk in run.finished] for chunk in range(len(first.chunks))}
    for chunk, holding in holders.items():
        _check_equal(chunk, holding)
    if missing := [chunk for chunk, holding in holders.items() if not holding]:
        raise IncompleteRunError(first, missing)
    sources = {"merged": [dict(run.provenance) for run in runs]}
    whole = replace(first, path=Path(out), provenance=sources).begin()
    with whole.lock():
        for chunk in whole.missing():
            whole.adopt(chunk, holders[chunk][0].file(chunk))
            whole.table(chunk)  # read back: the copy is whole
    return whole


def _check_mergeable(first: Run, run: Run) -> None:
    where = f"(there: {first.path}, here: {run.path})"
    if run.hash != first.hash:
        found = differences(first.identity.texts, run.identity.texts)
        raise ValueError(f"{first.path} and {run.path} are different runs and can't be merged: {found} {where}.")
    if run.chunks != first.chunks:
        raise ValueError(
            f"{first.path} and {run.path} divide their questions into other chunks; run one of them again in a new"
            " folder, with the other's chunk size."
        )
    if run.identity.readings_hash != first.identity.readings_hash:
        found = differences(first.identity.readings, run.identity.readings)
        raise ValueError(
            f"The replies in {first.path} and {run.path} were read with other rules: {found} {where}. Run the same"
            " evaluation on both folders again: it keeps the texts and reads them anew."
        )


def _check_equal(chunk: int, holding: Sequence[Run]) -> None:
    tables = [run.table(chunk) for run in holding]
    for run, table in zip(holding[1:], tables[1:], strict=True):
        if not table.equals(tables[0]):
            raise ValueError(
                f"{holding[0].file(chunk)} and {run.file(chunk)} hold the same chunk with rows that differ. Nothing was"
                " written; find out which of them is right, and merge without the other's folder."
            )


def _ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 as "0-2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
