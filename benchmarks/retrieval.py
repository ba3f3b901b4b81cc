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


def ask(model: kv.Model, split: str, number: int, steer: Steer, size: float, controls: int, both: bool) -> pd.DataFrame:
    """One question: steered towards the right fact and towards the one behind it; or, unless `both`, towards the right
    one in every second question and towards the one behind it in the others.
    """
    question = TASK.questions(split, number + 1)[number]
    right = TASK.right_one(question)
    pair = [right, (right + 1) % TASK.k]
    table = kv.analysis.steer_towards_chunks(
        model,
        [TASK.chat(question)],
        LINES,
        [TASK.answers(question)],
        [TASK.opening(question)],
        lambda i: steer(i, size),
        which=[pair if both else [pair[number % 2]]],
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
                kept(runs / "dev" / f"{arm} {size:g} {i}.parquet", partial(ask, model, "dev", i, steer, size, 0, True))
                for i in range(n)
            ]
            found = kv.analysis.summarise_chunk_steering(pd.concat(parts))
            rows.append({"arm": arm, "size": size, **found[["n", "effect", "low", "high"]]})
            print(kv.readable(pd.DataFrame(rows[-1:])).to_string(header=False), flush=True)
    table = pd.DataFrame(rows)
    best = table.index.isin(table.groupby("arm").effect.apply(lambda part: part.abs().idxmax()))
    return table.assign(tested=best & ((table.low > 0) | (table.high < 0)))


def measure(model: kv.Model, number: int, tested: pd.DataFrame, what: str) -> pd.DataFrame:
    """The right fact of one test question: erased and held against a recomputation (`"erasure"`), where later slots
    keep notes of it (`"notes"`), or the attention that it gets before and after something is done (`"attention"`).
    """
    question = TASK.questions("test", number + 1)[number]
    chat, right, reply = TASK.chat(question), TASK.right_one(question), f"{TASK.opening(question)} {question.answer}."
    if what == "erasure":
        table = kv.analysis.measure_erasure(model, [chat], LINES, reply, which=[[right]], progress=False)
    elif what == "notes":
        table = kv.analysis.notes_of_chunks(model, [chat], LINES, which=[[right]], progress=False)
    else:
        steps = len(model.tokenizer(f"\n{TASK.opening(question)}", add_special_tokens=False).input_ids)
        arms = [(arm, ARMS[arm][0](right, size)) for arm, size in zip(tested.arm, tested["size"], strict=True)]
        methods = [kv.Nothing(), *(kv.CacheEdits(edits.done, arm) for arm, edits in arms)]
        table = kv.analysis.attention_to_chunks(model, [chat], LINES, methods, [reply], steps=steps, progress=False)
        table = table[table.step == steps - 1]  # the token that the answer follows
        names = {f"chunk {i}": "the right fact" if i == right else "the other facts" for i in range(TASK.k)}
        table = table.assign(part=table.part.replace(names))
        table = table.groupby(["intervention", "prompt", "layer", "part"], sort=False).share.sum().reset_index()
    return table.assign(prompt=number)


def main(
    model: str = "smollm2-135m",
    dev: int = 10,
    test: int = 10,
    controls: int = 39,
    erasures: int = 8,
    runs: Path = Path("runs/retrieval"),
    out: Path = RESULTS,
) -> Path:
    """Tune on dev, test once what moved the answer there, and measure what erasing leaves.

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
    tested = tuned[tuned.tested]
    found: dict[str, list[pd.DataFrame]] = {"steering": [], "erasure": [], "notes": [], "attention": []}
    for i in range(test):
        for arm, size in zip(tested.arm, tested["size"], strict=True):
            path = runs / "test" / f"{arm} {size:g} {i}.parquet"
            part = kept(path, partial(ask, loaded, "test", i, ARMS[arm][0], size, controls, False))
            found["steering"].append(part.assign(arm=arm))
        for what in ("erasure", "notes", "attention") if i < erasures else ():
            found[what].append(kept(runs / what / f"{i}.parquet", partial(measure, loaded, i, tested, what)))
        print(f"test question {i + 1} of {test}", flush=True)
        for what, parts in found.items():
            pd.concat(parts, ignore_index=True).to_parquet(out / f"{what}.parquet")
    return out


if __name__ == "__main__":
    tyro.cli(main)
