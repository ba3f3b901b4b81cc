"""Let every command and every `save` run out of space: `python filling_disk.py FOLDER TIMES SEED [NAME ...]`. Run by
test_attack_disk.py, not a test itself.

Each process that writes is a fork of this one. Where FOLDER is the root of a file system of its own (a small tmpfs),
another file takes its space until there is too little; elsewhere a limit on the size of files stands in for that.
Prints one JSON line: for each try how much room there was, the exit code, what was said, what was left behind, and
whether the old file was still there; and whether the work came to the same end once there was room.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from interrupting import COMMANDS, KEPT, digest, left_behind, place, prepare, serve

BALLAST = Path(".ballast")
Save = Callable[[Path], object]


def saves(folder: Path) -> dict[str, tuple[str, Save]]:
    """By name, the file that a `save` writes, and the call."""
    import kvsteer_lab as kv
    from kvsteer_lab.explorer.state import ExplorerState
    from kvsteer_lab.explorer.work.files import write_page, write_state, write_vectors
    from kvsteer_lab.explorer.workspace import Workspace
    from kvsteer_lab.published.auditing import audit

    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=3, shots=1)
    vectors = kv.extract(model, pairs, progress=False)
    activations = kv.extract_activations(model, pairs, progress=False)
    results = kv.Results.load(folder / "part1")
    found = audit(folder / "release")
    figure = kv.figures.plot_norms(vectors)
    workspace = Workspace(model, {"stepwise": vectors}, tasks={task.name: task})
    state = ExplorerState().changed({"task": task.name, "mix": {"stepwise": 1.0}})
    probe = kv.outcomes.fit_probe(task, "causal_chain", n=40)
    return {
        "vectors": ("v.safetensors", vectors.save),
        "activation vectors": ("a.safetensors", activations.save),
        "a contrastive set": ("pairs.jsonl", pairs.save),
        "a probe": ("probe.json", probe.save),
        "results": ("r.parquet", results.save),
        "an explorer's state": ("state.json", lambda path: write_state(str(path), True, workspace, state)),
        "an explorer's page": ("page.html", lambda path: write_page(str(path), True, "<p>page</p>" * 5000)),
        "an explorer's vectors": ("mixed.safetensors", lambda path: write_vectors(str(path), True, workspace, state)),
        "a figure": ("figure.png", lambda path: kv.figures.save_figure(figure, path.with_suffix(""), seed=0)),
        "an audit": ("checks.csv", lambda path: found.save(path.parent)),
    }


SAVES = (
    *("vectors", "activation vectors", "a contrastive set", "a probe", "results", "an explorer's state"),
    *("an explorer's page", "an explorer's vectors", "a figure", "an audit"),
)


def in_a_fork(work: Callable[[], Any], room: int | None) -> tuple[int, str]:
    """Work with so much room: the exit code, and what was said on the standard error."""
    ends = os.pipe()
    child = os.fork()
    if not child:
        _work(work, room, ends[1])
    os.close(ends[1])
    said = bytearray()
    while piece := os.read(ends[0], 65536):
        said += piece
    os.close(ends[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode(errors="replace")


def _work(work: Callable[[], Any], room: int | None, told: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(told, 2)
    os.close(told)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # Python has SIGXFSZ ignored
    code: Any = 0
    try:
        work()
    except SystemExit as stop:
        code = stop.code
    except OSError as error:
        code = f"kvsteer: {error}"
    except BaseException:
        traceback.print_exc()
        code = 99
    if isinstance(code, str):
        os.write(2, f"{code}\n".encode(errors="replace"))
        code = 1
    sys.stdout.flush()
    os._exit(code or 0)


def take_all_but(room: int) -> None:
    """On a file system of its own: leave so many bytes free."""
    BALLAST.unlink(missing_ok=True)
    free = shutil.disk_usage(".").free
    with BALLAST.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - room))


def hidden() -> list[str]:
    """Temporary files that somebody left."""
    return [
        str(path)
        for path in Path().rglob(".*")
        if path.is_file() and path.name != BALLAST.name and not path.name.endswith(".lock")
    ]


def sizes(out: Path) -> list[int]:
    return [path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file()]


def fill(work: Callable[[], Any], out: Path, times: int, rng: random.Random, name: str) -> dict[str, Any]:
    """The work in one go, then with too little room so many times, then with room again."""
    whole = in_a_fork(work, None)
    assert whole[0] in (0, 2, 3), whole
    wanted, most, everything = content(out), max(sizes(out)), sum(sizes(out))
    shutil.rmtree(f"{out}.whole", ignore_errors=True)
    out.rename(f"{out}.whole")
    if name in SAVES or name == "extract":
        out.write_bytes(b"old")
    tries, own = [], os.path.ismount(".")
    for _ in range(times):
        room = rng.randrange(everything if own else most)
        before = content(out) if out.is_file() else None
        if own:
            take_all_but(room)
        code, said = in_a_fork(work, None if own else room)
        BALLAST.unlink(missing_ok=True)
        kept = before is None or code == whole[0] or name == "traces" or content(out) == before
        tries.append({"room": room, "code": code, "said": said, "hidden": hidden(), "kept": kept})
        if code == whole[0] and out.exists() and out.is_dir():
            shutil.rmtree(out)  # there was room after all
    again = in_a_fork(work, None)
    same = name == "traces" or content(out) == wanted
    return {"name": name, "whole": whole, "tries": tries, "again": again, "same": same}


def content(out: Path) -> dict[str, str]:
    return left_behind(out) if out.is_dir() else {out.name: digest(out)}


def main(folder: Path, times: int, seed: int, names: list[str]) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["NO_PROXY"] = "127.0.0.1"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    stdout = os.dup(1)
    os.dup2(2, 1)
    prepare()
    from interrupting import PUBLISHED

    from kvsteer_lab.cli.main import main as kvsteer

    rng, found = random.Random(seed), []
    (folder / "release").symlink_to(PUBLISHED)
    names = names or [*KEPT, *SAVES]
    calls = saves(folder) if set(names) & set(SAVES) else {}
    assert set(calls) in (set(), set(SAVES))
    for name in names:
        if name in calls:
            file, save = calls[name]
            out = folder / "saved" / name / file
            found.append(fill(lambda save=save, out=out: save(out), out, times, rng, name))  # type: ignore[misc]
        else:
            arguments = [*COMMANDS[name], *(("--base-url", serve()) if name == "traces" else ())]
            out = place(arguments)
            assert out is not None
            found.append(fill(lambda given=arguments: kvsteer(given), out, times, rng, name))  # type: ignore[misc]
    os.write(stdout, json.dumps(found).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
