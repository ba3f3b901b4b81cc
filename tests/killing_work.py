"""Begin a long piece of work, kill it, begin it again: `python killing_work.py tune|reproduce|replicate FOLDER KILLS
SEED`. Run by test_attack_kills.py, not a test itself.

Every process that computes is a fork of this one, so that imports are paid for once. Every other moment is drawn over
the time of the uninterrupted work, the others over its files, for a search may load and extract for most of its time.
Each is found again by what has been written: work that goes on does not begin at the beginning, and a busy machine has
no steady clock. Prints one JSON line: how the uninterrupted work ended, how the killed one did, and for each kill
whether it hit and how many files were in place when it began and when it died.
"""

from __future__ import annotations

import bisect
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
import torch

import kvsteer_lab as kv
from kvsteer_lab._util.files import is_temporary
from kvsteer_lab.reproduction import chapters
from kvsteer_lab.reproduction.reproduction import reproduce


def tune(out: Path) -> list[str]:
    """The tables of a small search with two rounds and its confirmation."""
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=8, shots=1)
    search = kv.CacheSearch(kv.extract(model, pairs, progress=False), key_shares=(0,))
    few: dict[str, Any] = dict(n=4, generation={"max_new_tokens": 12}, progress=False)
    tuning = kv.tune(model, task, search, cells=4, extensions=1, doses=(1, 4), out=out / "dev", **few)
    results = tuning.confirm(n=4, controls=2, out=out / "test", progress=False)
    return [tuning.cells.to_csv(), results.rows.to_csv()]


def replicate(out: Path) -> list[str]:
    """The replies, the search and the comparison of a small replication, without its times."""
    sizes = kv.replication.Sizes(
        pairs=4,
        shots=1,
        cells=9,
        dev=2,
        test=4,
        controls=1,
        uncached_test=0,
        measured=2,
        block=1,
        max_new_tokens=8,
    )
    done = kv.replicate(kv.load("tiny"), ["tiny-arithmetic"], out, sizes=sizes, progress=False, say=lambda line: None)
    assert done.complete
    rows = done.rows.drop(columns=[name for name in done.rows if "second" in name or "time" in name])
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.suffix != ".lock")
    return [rows.to_csv(), done.cells.to_csv(), done.table.drop(columns="time", errors="ignore").to_csv(), *names]


BOOK = "import os\n\nMODEL = os.environ.get('KVSTEER_MODEL', 'tiny')"


def run_books(out: Path) -> list[str]:
    """What two notebooks print, which load the model and take a moment."""
    books = out.parent / "books"
    if not books.exists():
        books.mkdir()
        for name in ("01_one", "02_two"):
            book = nbformat.v4.new_notebook()
            book.cells = [
                nbformat.v4.new_markdown_cell(f"# {name}"),
                nbformat.v4.new_code_cell(BOOK, metadata={"tags": ["parameters"]}),
                *(
                    nbformat.v4.new_code_cell(f"import time; time.sleep(0.3); print({name!r}, {i!r}, MODEL)")
                    for i in "abc"
                ),
            ]
            nbformat.write(book, books / f"{name}.ipynb")
    chapters.folder = lambda: books  # type: ignore[assignment]
    done = reproduce("tiny", out, say=lambda *told: None, progress=False)
    assert not done.failures, done.failures
    said = []
    for path in sorted((out / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        said.append("".join(output.get("text", "") for cell in cells for output in cell.outputs))
    return [*said, *sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())]


def in_a_fork(work: Callable[[Path], list[str]], out: Path, told: Path) -> int:
    told.unlink(missing_ok=True)  # of work before
    child = os.fork()
    if not child:
        os.setsid()
        told.write_text(json.dumps(work(out)))
        os._exit(0)
    return child


def written(out: Path) -> int:
    """How many files are in place."""
    names = (Path(name) for _, _, names in os.walk(out) for name in names)
    return sum(name.suffix != ".lock" and not is_temporary(name) for name in names)


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def uninterrupted(work: Callable[[Path], list[str]], out: Path, told: Path) -> list[float]:
    """Do the work; at which second it began, put each of its files in place, and ended."""
    start = time.monotonic()
    child, moments = in_a_fork(work, out, told), [0.0]
    while not ended(child):
        time.sleep(0.005)
        moments += [time.monotonic() - start] * (written(out) + 1 - len(moments))
    os.waitpid(child, 0)
    return [*moments, time.monotonic() - start]


def draw(rng: random.Random, kills: int, moments: list[float]) -> list[tuple[int, float]]:
    """When to kill: how many files are in place by then, and how many seconds after the last of them."""
    drawn = []
    for number in range(kills):
        share = rng.uniform(0.02, 0.7)
        if number % 2:
            files = int(share * (len(moments) - 1))
            drawn.append((files, rng.random() * (moments[files + 1] - moments[files])))
        else:
            files = bisect.bisect_right(moments, share * moments[-1]) - 1
            drawn.append((files, share * moments[-1] - moments[files]))
    return sorted(drawn)


def kill(child: int, out: Path, files: int, delay: float) -> bool:
    """Kill a process some time after so many files are in place; whether it was still there."""
    while written(out) < files and not ended(child):
        time.sleep(0.005)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def orphans(session: int) -> list[str]:
    """Processes of a killed one's session that are still there after a while."""
    limit = time.monotonic() + 15
    while True:
        left = []
        for process in psutil.process_iter(["pid", "status", "cmdline"]):
            try:
                if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.info["cmdline"] or []))
            except (ProcessLookupError, PermissionError):
                continue
        if not left or time.monotonic() > limit:
            return left
        time.sleep(0.2)


def main(what: str, folder: Path, kills: int, seed: int) -> None:
    work = {"tune": tune, "reproduce": run_books, "replicate": replicate}[what]
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rng, told = random.Random(seed), folder / "told"
    moments, wanted = uninterrupted(work, folder / "whole", told), json.loads(told.read_text())
    hits = []
    for files, delay in draw(rng, kills, moments):
        before, child = written(folder / "killed"), in_a_fork(work, folder / "killed", told)
        killed = kill(child, folder / "killed", files, delay)
        hits.append({"killed": killed, "files": [before, written(folder / "killed")], "left": orphans(child)})
        if not killed:  # it had come to its end after kills before; the next begins anew
            assert json.loads(told.read_text()) == wanted
            shutil.rmtree(folder / "killed")
    os.waitpid(in_a_fork(work, folder / "killed", told), 0)
    found = json.loads(told.read_text()) if told.exists() else ["it did not end"]
    print(json.dumps({"same": found == wanted, "wanted": wanted, "found": found, "hits": hits}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
