"""The paper's experiment (Belitsky et al. 2025), on any model, in a folder that a stopped run goes on in.

settings.json            model, sizes, seed: what can't change any more
TASK/vectors.safetensors, activations.safetensors, dev/, cells.csv, chosen.json
TASK/test/arms-000/      the first block of test questions under every method: a run, as `kv.Run` reads it
TASK/test/random-000/    the same questions under random vectors; anew-000: the scope that uses no cache
release/                 all replies in the form of the authors' release, for `kvsteer audit`
rows.parquet, cells.parquet, table.csv, index.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._util.files import write_atomically
from .._util.json import read_json
from .._util.progress import bar
from .._version import __version__
from ..evaluation.runs import parse_shard
from ..evaluation.tuning.tuning import check_disjoint
from ..models.model import Model
from ..tasks.base import Question, Task
from .blocks import Block
from .choosing import Chosen, choose
from .estimating import estimate_cost
from .latency import measure_latency
from .sizes import Sizes
from .sources import with_demonstrations
from .stored import SETTINGS, Replication, load, summarise_folder
from .styles import GROUP


def replicate(
    model: Model,
    tasks: Sequence[str],
    out: str | Path,
    *,
    sizes: Sizes | None = None,
    seed: int = 0,
    shard: str | tuple[int, int] | None = None,
    data_dir: str | Path | None = None,
    traces: str | Path | None = None,
    batch_size: int = 64,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Replication:
    """Run the paper's experiment: extract, tune every method on dev with one budget, test once, with random controls.

    Tasks are done one after another, so the table of each is usable when the next begins. A killed run goes on where
    it was; one with larger test sizes goes on where the smaller one ended. The methods are the baseline, no offset
    token, chain-of-thought prompts, the response prefill of one token, cache steering of keys and values, of values
    alone, with a chain-of-thought prompt and at the coefficients of the articles, activation steering in its published
    scopes, and random vectors at the coefficients of the values' steering and at its divergence.

    Args:
        model: from `kv.load`.
        tasks: names, each with demonstrations of its own or traces.
        out: the folder.
        sizes: how large; `None`: `Sizes()`.
        seed: of pairs, questions and controls.
        shard: `"i/N"`: only every N-th block of test questions, beginning with the i-th. Shards share the folder; one
            of them has to extract and tune first.
        data_dir: folder with the benchmarks' files.
        traces: folder with `TASK.jsonl`; `None`: `traces` in the folder of the data.
        batch_size: replies decoded together.
        say: is told what is being done, and the cost before it starts.
        progress: whether to show bars.

    Returns:
        What is in the folder now.

    Raises:
        ValueError: no tasks, one without demonstrations, a folder that holds another replication; before anything is
            computed.
        OSError: the folder can't be written, or another process is tuning there.
        KeyboardInterrupt: stopped; the same call goes on.

    Example:
        >>> import tempfile
        >>> import kvsteer_lab as kv
        >>> kv.replicate(kv.load("tiny"), [], tempfile.mkdtemp())
        Traceback (most recent call last):
        ValueError: There are no tasks to replicate on; name at least one, commonsense_qa say.
    """
    if not tasks:
        raise ValueError("There are no tasks to replicate on; name at least one, commonsense_qa say.")
    path, sizes, part = Path(out), sizes or Sizes(), parse_shard(shard)
    sources = {name: with_demonstrations(name, _path(data_dir), _path(traces)) for name in dict.fromkeys(tasks)}
    asked = {name: task.questions("test", None, seed) for name, task in sources.items()}
    _settle(path, model, sizes, seed)
    for task in sources.values():
        say(str(estimate_cost(model, task, sizes, seed)))
    done = True
    for name, task in sources.items():
        chosen = choose(model, task, path / name, sizes, seed, batch_size, progress)
        check_disjoint(chosen.settings["questions"], [question.id for question in asked[name]])
        done &= _test(model, task, path / name, sizes, seed, part, batch_size, progress, chosen, asked[name], say)
        measure_latency(model, task, chosen, path / name / "latency.csv")
        summarise_folder(path, list(sources), sources)
        say(f"{name}: see {path / 'index.html'}")
    return load(path, complete=done)


def blocks_of(folder: Path, sizes: Sizes, chosen: Chosen, questions: Sequence[Question]) -> list[Block]:
    """All blocks of a task, in the order in which they are done.

    Args:
        folder: of the task.
        sizes: of the replication.
        chosen: the methods.
        questions: of the test split, in the order of the seed.
    """
    size = {
        "arms": "test",
        "random": "control_test",
        "tuned": "control_test",
        "anew": "uncached_test",
        GROUP: "control_test",
    }
    return [
        Block(folder / "test", f"{group}-{start:03d}", methods, tuple(questions[start:end]))
        for group, methods in chosen.groups.items()
        if methods
        for start, end in sizes.blocks(size[group], len(questions))
    ]


def _test(
    model: Model,
    task: Task,
    folder: Path,
    sizes: Sizes,
    seed: int,
    shard: tuple[int, int],
    batch_size: int,
    progress: bool,
    chosen: Chosen,
    questions: Sequence[Question],
    say: Callable[[str], None],
) -> bool:
    """Ask the blocks of a shard; whether all blocks are there afterwards."""
    blocks = blocks_of(folder, sizes, chosen, questions)
    mine = [block for number, block in enumerate(blocks) if number % shard[1] == shard[0] - 1]
    with bar(sum(len(b.methods) * len(b.questions) for b in mine), f"test {task.name}", "reply", progress) as shown:
        for block in mine:
            if not block.done:
                say(f"{task.name}: {block.name}, {len(block.methods)} methods x {len(block.questions)} questions")
            block.ask(model, task, sizes.limit(task.name), seed, batch_size)
            start = int(block.name.rpartition("-")[2])
            plain = Block(block.folder, f"arms-{start:03d}", (), block.questions)
            if start < sizes.measured and not block.name.startswith(("anew", GROUP)) and plain.done:
                replies = plain.rows()
                block.measure(model, task, replies[replies.intervention == "baseline"].text.tolist(), batch_size)
            shown.update(len(block.methods) * len(block.questions))
    return all(block.done for block in blocks)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _settle(path: Path, model: Model, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Write what can't change, or compare it with what is there; test sizes are those of the last call."""
    fixed = dict(
        model=model.name,
        fingerprint=model.read_fingerprint(),
        dtype=str(model.dtype),
        seed=seed,
        sizes=sizes.fixed(),
    )
    place = path / SETTINGS
    if place.is_file():
        there = read_json(place, what=str(place))
        for name, value in fixed.items():
            if there.get(name) != value:
                raise ValueError(
                    f"{path} holds a replication with {name} {there.get(name)!r}, not {value!r}; choose another"
                    " folder, or ask for the same."
                )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty and holds no replication; choose another folder.")
    settings = {**fixed, "asked": asdict(sizes), "version": __version__}
    write_atomically(place, lambda file: file.write_text(json.dumps(settings, indent=1), encoding="utf-8"))
    return settings
