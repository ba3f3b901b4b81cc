"""Press Ctrl-C in every command at any moment: `python interrupting.py FOLDER TIMES SEED [COMMAND ...]`. Run by
test_interrupting.py, not a test itself.

Every process that is interrupted is a fork of this one, so that imports are paid for once and the moments are those of
the work. Prints one JSON line: for each Ctrl-C, the command, when it came, the exit code, and what the standard error
said.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from chat_server import Server

PUBLISHED = Path(__file__).parent / "fixtures" / "published"
SMALL = ("--n", "6", "--max-new-tokens", "24", "--controls", "2")
STEERED = ("--vectors", "v.safetensors", "--ck", "0", "--cv", "2")
WRITE = ("traces", "--out", "traces.jsonl", "--model", "m", "--task", "tiny-arithmetic", "--style", "causal_chain")
TUNE = ("--pairs", "8", "--shots", "1", "--cells", "12", "--n-dev", "4", "--n-test", "4", "--controls", "2")
REPLICATE = (
    *("--pairs", "4", "--shots", "1", "--cells", "9", "--dev", "2", "--test", "2", "--controls", "1"),
    *("--uncached-test", "0", "--measured", "0", "--block", "2", "--max-new-tokens", "8"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "demo": ("demo", "--out", "demo", "--n", "4", "--controls", "2"),
    "traces": (*WRITE, "--n", "30", "--concurrency", "3"),
    "extract": ("extract", "--out", "new.safetensors", "--n", "16", "--shots", "2"),
    "generate": ("generate", "What is 12 + 7?", *STEERED, "--max-new-tokens", "60"),
    "tune": ("tune", "--out", "tune", *TUNE, "--max-new-tokens", "16", "--methods", "cache"),
    "evaluate": ("evaluate", *STEERED, *SMALL),
    "evaluate --out": ("evaluate", *STEERED, *SMALL, "--out", "run"),
    "merge": ("merge", "part1", "part2", "--out", "whole"),
    "audit": ("audit", str(PUBLISHED), "--out", "audit"),
    "replicate": ("replicate", "--out", "replication", "--model", "tiny", "--tasks", "tiny-arithmetic", *REPLICATE),
    "sweep": ("sweep", "plan.json"),
    "reproduce": ("reproduce", "--out", "reproduction", "--model", "tiny"),
    "info": ("info", "part1"),
    "figure-info": ("figure-info", "figure.png"),
}
PLAN = {
    "out": "sweep",
    "models": ["tiny"],
    "tasks": ["tiny-arithmetic"],
    "interventions": {"strengths": {"vectors": "v.safetensors", "doses": [{"cv": 2}]}},
    "n": 4,
    "generation": {"max_new_tokens": 8},
    "chunk_size": 1,
    "shards": 2,
}
KEPT = ("traces", "tune", "evaluate --out", "merge", "audit", "demo", "extract", "replicate", "reproduce", "sweep")
"""Those that leave something behind; begun again, they must come to the same end."""


def serve() -> str:
    """The address of a server in a process of its own, so that this one has a single thread."""
    ends = os.pipe()
    if not os.fork():
        import kvsteer_lab as kv

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answers = {q.text: q.replies["causal_chain"] for q in kv.tasks.get("tiny-arithmetic").questions("extraction")}

        def answer(prompt: str) -> str:
            time.sleep(0.02)
            return answers[prompt.partition("\n\n")[0]]

        with Server(answer) as server:
            os.write(ends[1], server.url.encode())
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.2)
        os._exit(0)
    return os.read(ends[0], 200).decode()


def run(arguments: Sequence[str], told: Path) -> NoReturn:
    """In a fork: call the command as a shell would, and end with its exit code."""
    from kvsteer_lab.cli.main import main

    handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.dup2(os.open(told.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
    code: Any = 0
    try:
        main(arguments)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 99
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def interrupt(arguments: Sequence[str], after: float | None, told: Path) -> dict[str, Any]:
    """Run a command in a fork and press Ctrl-C after so many seconds; `None`: never."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        run(arguments, told)
    while not told.exists():
        time.sleep(0.001)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGINT)
    limit = time.monotonic() + 120
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    took = time.monotonic() - begun
    said = told.read_text(errors="replace")
    told.unlink()
    return {"after": after, "took": took, "code": os.waitstatus_to_exitcode(done[1]), "said": said}


def prepare() -> None:
    """What the commands need, in this folder; every module that they import is imported on the way."""
    import torch

    import kvsteer_lab as kv
    from kvsteer_lab.cli.main import main

    torch.set_num_threads(1)
    for part in ("1", "2"):
        if part == "1":
            main(["extract", "--out", "v.safetensors", "--n", "8", "--shots", "2"])
        try:
            main(["evaluate", *STEERED, *SMALL, "--out", f"part{part}", "--shard", f"{part}/2"])
        except SystemExit as stop:
            assert stop.code == 3, stop.code
    summary = kv.Results.load("part1").summary()
    kv.figures.save_figure(kv.figures.plot_comparison(summary), Path("figure"))
    for module in ("published.auditing", "published.figures", "published.reporting", "reproduction", "replication"):
        importlib.import_module(f"kvsteer_lab.{module}")
    write_books(Path("books"))
    Path("plan.json").write_text(json.dumps(PLAN))


def write_books(folder: Path) -> None:
    """Two notebooks for `kvsteer reproduce` to run in place of the chapters."""
    import nbformat

    from kvsteer_lab.reproduction import chapters

    folder.mkdir()
    for name in ("01_one", "02_two"):
        book = nbformat.v4.new_notebook()
        book.cells = [
            nbformat.v4.new_markdown_cell(f"# {name}"),
            nbformat.v4.new_code_cell(
                "import os\n\nMODEL = os.environ.get('KVSTEER_MODEL', 'tiny')", metadata={"tags": ["parameters"]}
            ),
            *(
                nbformat.v4.new_code_cell(f"import time; time.sleep(0.3); print({name!r}, {i}, MODEL)")
                for i in range(3)
            ),
        ]
        nbformat.write(book, folder / f"{name}.ipynb")
    folder = folder.resolve()
    chapters.folder = lambda: folder  # type: ignore[assignment]


TIMED = (".json", ".html", ".ipynb", ".lock", ".log")
"""Kinds of files that tell when they were written, how long something took, or where."""


def place(arguments: Sequence[str]) -> Path | None:
    """Where a command writes."""
    if arguments[0] == "sweep":
        return Path(str(PLAN["out"]))
    return Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else None


def digest(path: Path) -> str:
    """Of all that is in a file; safetensors writes the entries of its header in any order."""
    content = path.read_bytes()
    if path.suffix == ".safetensors" and content[8:9] == b"{":
        end = 8 + int.from_bytes(content[:8], "little")
        content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
    return hashlib.sha256(content).hexdigest()


def left_behind(folder: Path) -> dict[str, str]:
    """What is in every file of a command's output; of one with times in it, only that it is there."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"):
        name = str(path.relative_to(folder))
        if path.suffix in TIMED or path.name == "latency.csv":
            found[name] = ""
        elif path.name == "table.csv":
            found[name] = pd.read_csv(path).drop(columns="time", errors="ignore").to_csv()
        else:
            found[name] = digest(path)
    return found


def main(folder: Path, times: int, seed: int, names: Sequence[str]) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["NO_PROXY"] = "127.0.0.1"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    stdout = os.dup(1)
    os.dup2(2, 1)  # what the preparations print is no result
    prepare()
    rng, found = random.Random(seed), []
    url = serve()
    for name in names or COMMANDS:
        arguments = [*COMMANDS[name], *(("--base-url", url) if name == "traces" else ())]
        out = place(arguments)
        whole = interrupt(arguments, None, folder / "told")
        assert whole["code"] in (0, 2, 3), whole["said"]
        wanted = {} if out is None else left_behind(out) if out.is_dir() else {out.name: digest(out)}
        if out is not None:
            out.rename(f"{out}.whole")
        pressed = []
        for _ in range(times):
            pressed.append(interrupt(arguments, rng.uniform(0, whole["took"]), folder / "told"))
            if out is not None and pressed[-1]["code"] == 0 and out.exists():
                out.rename(f"{out}.{len(found)}.{len(pressed)}")
        again = interrupt(arguments, None, folder / "told")
        same = True
        if out is not None and name in KEPT:
            now = left_behind(out) if out.is_dir() else {out.name: digest(out)}
            same = name == "traces" or now == wanted
        found.append({"command": name, "first": whole, "pressed": pressed, "again": again, "same": same})
    os.write(stdout, json.dumps(found).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
