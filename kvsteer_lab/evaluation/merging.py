"""Joining the folders that shards of one run were written to, with proof that nothing is missing and nothing
differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .identity import differences
from .runs import CONFIG, Run


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

    Chunks that several folders hold must have the same rows in all of them. Nothing is written unless every chunk is
    there.

    Args:
        paths: folders that `kv.evaluate(..., out=)` wrote.
        out: the folder of the whole run: new, empty, or an earlier merge of the same run.

    Raises:
        ValueError: no folder, one that holds another run or none, damaged files, or overlapping rows that differ.
        IncompleteRunError: chunks that no folder has; it names all of them and their questions.
        OSError: `out` can't be written.
    """
    if not paths:
        raise ValueError("There is nothing to merge; give the folders of the shards.")
    runs = [Run.load(path) for path in paths]
    first = runs[0]
    for run in runs[1:]:
        if run.hash != first.hash:
            found = differences(first.identity, run.identity)
            raise ValueError(
                f"{first.path} and {run.path} are different runs and can't be merged: {found} (there: {first.path},"
                f" here: {run.path})."
            )
        if run.chunks != first.chunks:
            raise ValueError(
                f"{first.path} and {run.path} divide their questions into other chunks; run one of them again with the"
                " other's chunk size."
            )
    kept = [Run.load(out)] if (Path(out) / CONFIG).is_file() else []
    holders = {
        chunk: [run for run in (*runs, *kept) if run.file(chunk).is_file()] for chunk in range(len(first.chunks))
    }
    for run in kept:
        run.check_same(first.identity)
    for chunk, holding in holders.items():
        _check_equal(chunk, holding)
    missing = [chunk for chunk, holding in holders.items() if not holding]
    if missing:
        raise IncompleteRunError(first, missing)
    sources = {"merged": [dict(run.provenance) for run in runs]}
    whole = Run.open(out, first.identity, first.chunks, settings=first.settings, provenance=sources)
    for chunk in whole.missing():
        whole.adopt(chunk, holders[chunk][0].file(chunk))
    return whole


def _check_equal(chunk: int, holding: Sequence[Run]) -> None:
    tables = [run.table(chunk) for run in holding]
    for run, table in zip(holding[1:], tables[1:], strict=True):
        if not table.equals(tables[0]):
            file = run.file(chunk)
            raise ValueError(
                f"{holding[0].file(chunk)} and {file} hold the same chunk with rows that differ; find out which is"
                " right and delete the other."
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
