"""Find the right one of four facts: what steering towards a chunk does, and what is left of one that is erased.

    python benchmarks/retrieval.py --model smollm2-135m

How much is done is chosen on dev questions alone; the test questions are asked once. Chapter 17 reads what this writes
to results/retrieval/. Each question's rows are kept in --runs, so a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import tyro

import kvsteer_lab as kv
from kvsteer_lab.edits import Erase, Map, TowardsChunk

RESULTS = Path(__file__).parent / "results" / "retrieval"
TASK = kv.tasks.FactFinding(4)
LINES = kv.spans.Delimited("\n", after="facts.\n", before="What")


def difference_at_the_end(number: int, size: float) -> kv.CacheEdits:
    """Towards a chunk, at the prompt's last slot."""
    return kv.CacheEdits(TowardsChunk(LINES, number), coefficient=size)


def difference_in_the_chunk(number: int, size: float) -> kv.CacheEdits:
    """Towards a chunk, at the chunk's own last slot."""
    span = kv.spans.ChunkEnds(LINES, number)
    return kv.CacheEdits(TowardsChunk(LINES, number, span=span), coefficient=size)


def values_times(number: int, size: float) -> kv.CacheEdits:
    """All values of a chunk, multiplied."""
    return kv.CacheEdits(Map(size, part="values", span=kv.spans.Chunk(LINES, number)))


def erased(number: int, size: float) -> kv.CacheEdits:
    """A chunk, hidden from all that follows."""
    return kv.CacheEdits(Erase(span=kv.spans.Chunk(LINES, number)))


Steer = Callable[[int, float], kv.CacheEdits]
ARMS: dict[str, tuple[Steer, tuple[float, ...]]] = {
    "difference, prompt's last slot": (difference_at_the_end, (1, 4, 16)),
    "difference, chunk's last slot": (difference_in_the_chunk, (1, 4, 16)),
    "all the chunk's values": (values_times, (2, 4)),
    "erased": (erased, (1,)),
}
"""What is done, and the sizes that are tried on dev."""


def ask(model: kv.Model, split: str, number: int, steer: Steer, size: float, controls: int) -> pd.DataFrame:
    """One question: steered towards the right fact, and towards the one behind it."""
    question = TASK.questions(split, number + 1)[number]
    right = TASK.right_one(question)
    table = kv.analysis.steer_towards_chunks(
        model,
        [TASK.chat(question)],
        LINES,
        [TASK.answers(question)],
        [TASK.opening(question)],
        lambda i: steer(i, size),
        which=[[right, (right + 1) % TASK.k]],
        controls=controls,
        batch_size=96,
        progress=False,
    )
    return table.assign(prompt=number, right=table.chunk == right)


def kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table from its file, or made and kept there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        make().to_parquet(unfinished)
        unfinished.replace(path)
    return pd.read_parquet(path)


def tune(model: kv.Model, n: int, runs: Path) -> pd.DataFrame:
    """Each arm at each size on dev questions."""
    rows = []
    for arm, (steer, sizes) in ARMS.items():
        for size in sizes:
            parts = [
                kept(runs / "dev" / f"{arm} {size:g} {i}.parquet", partial(ask, model, "dev", i, steer, size, 0))
                for i in range(n)
            ]
            found = kv.analysis.summarise_chunk_steering(pd.concat(parts))
            rows.append({"arm": arm, "size": size, **found[["n", "effect", "low", "high"]]})
            print(kv.readable(pd.DataFrame(rows[-1:])).to_string(header=False), flush=True)
    table = pd.DataFrame(rows)
    return table.assign(chosen=table.index.isin(table.groupby("arm").effect.idxmax()))


def main(
    model: str = "smollm2-135m",
    dev: int = 10,
    test: int = 16,
    controls: int = 39,
    erasures: int = 12,
    runs: Path = Path("runs/retrieval"),
    out: Path = RESULTS,
) -> Path:
    """Tune on dev, test once, and measure what erasing leaves.

    Args:
        model: its name, or a folder or hub id.
        dev, test: questions of each split.
        controls: random controls of each steering.
        erasures: test questions whose right fact is erased and held against a recomputation.
        runs: where each question's rows are kept.
        out: where the tables go.
    """
    loaded = kv.load(model)
    tuned = tune(loaded, dev, runs)
    out.mkdir(parents=True, exist_ok=True)
    tuned.to_csv(out / "dev.csv", index=False, float_format="%.5g")
    chosen = tuned[tuned.chosen].set_index("arm")["size"]
    parts = []
    for i in range(test):
        for arm, (steer, _) in ARMS.items():
            path = runs / "test" / f"{arm} {chosen[arm]:g} {i}.parquet"
            part = kept(path, partial(ask, loaded, "test", i, steer, chosen[arm], controls))
            parts.append(part.assign(arm=arm))
        print(f"test question {i + 1} of {test}", flush=True)
    pd.concat(parts, ignore_index=True).to_parquet(out / "steering.parquet")
    for name, measure in (("erasure", erase), ("notes", take_notes)):
        found = [kept(runs / name / f"{i}.parquet", partial(measure, loaded, i)) for i in range(erasures)]
        pd.concat(found, ignore_index=True).to_csv(out / f"{name}.csv", index=False, float_format="%.5g")
    return out


def erase(model: kv.Model, number: int) -> pd.DataFrame:
    """The right fact of one test question, erased, along the right reply."""
    question = TASK.questions("test", number + 1)[number]
    reply = f"{TASK.opening(question)} {question.answer}."
    which = [[TASK.right_one(question)]]
    chat = TASK.chat(question)
    return kv.analysis.measure_erasure(model, [chat], LINES, reply, which=which, progress=False).assign(prompt=number)


def take_notes(model: kv.Model, number: int) -> pd.DataFrame:
    """Where later slots keep notes of it."""
    question = TASK.questions("test", number + 1)[number]
    which = [[TASK.right_one(question)]]
    table = kv.analysis.notes_of_chunks(model, [TASK.chat(question)], LINES, which=which, progress=False)
    return table.assign(prompt=number)


if __name__ == "__main__":
    tyro.cli(main)
