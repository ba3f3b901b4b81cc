"""Clocks, medians and result files: what every benchmark shares."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


class Clock:
    """Seconds that only this process spent: CPU time on a CPU, wall time between two synchronised points on a GPU.

    CPU time of all threads of one process, run with one thread, is what the wall clock of an idle machine would show;
    other work on the machine barely disturbs it. With more threads only the wall clock tells, and the machine should be
    idle.
    """

    def __init__(self, device: str, threads: int = 1) -> None:
        self.device = torch.device(device)
        self.wall = self.device.type == "cuda" or threads > 1
        self.name = (
            "wall, synchronised"
            if self.device.type == "cuda"
            else f"wall, {threads} threads"
            if threads > 1
            else "process CPU time, one thread"
        )
        if self.device.type == "cpu":
            torch.set_num_threads(threads)

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() if self.wall else time.process_time()

    def time(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds that `run` took, and what it returned."""
        start = self()
        result = run()
        return self() - start, result


def rounds(
    runs: Mapping[str, Callable[[], Any]], repeats: int, warm: int = 1, budget: float = float("inf")
) -> dict[str, list[Any]]:
    """What each run returns, round by round: interleaved, each round beginning with another one, so that drift hits all
    alike.

    Args:
        runs: the variants to compare.
        repeats: rounds.
        warm: rounds before those, not counted.
        budget: seconds of wall time after which no round is begun, once there are five.
    """
    names = list(runs)
    found: dict[str, list[Any]] = {name: [] for name in names}
    start = time.perf_counter()
    for turn in range(-warm, repeats):
        if turn >= 5 and time.perf_counter() - start > budget:
            break
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            result = runs[name]()
            if turn >= 0:
                found[name].append(result)
    return found


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """The median of the rounds' own ratios, with its quartiles and (median +- 1.57 IQR / sqrt n) its 95% interval."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def spread(values: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Median, quartiles and the median's rough 95% interval."""
    values = [v * scale for v in values]
    middle = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (middle,) * 3
    margin = 1.57 * (high - low) / len(values) ** 0.5
    named = dict(median=middle, q1=low, q3=high, low=middle - margin, high=middle + margin)
    return {name: round(value, 5) for name, value in named.items()} | {"n": len(values)}


def environment(clock: Clock, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What a figure depends on besides the code: processor, device, versions. No names of hosts or folders."""
    found: dict[str, Any] = {"cpu": _cpu(), "device": "cpu", "clock": clock.name, "threads": torch.get_num_threads()}
    if clock.device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(clock.device)
    if dtype is not None:
        found["dtype"] = str(dtype).removeprefix("torch.")
    from kvsteer_lab._version import __version__

    packages = {name: version(name) for name in ("torch", "transformers", "nnsight")}
    return found | {"python": platform.python_version(), **packages, "kvsteer_lab": __version__}


def write(
    name: str, env: Mapping[str, Any], settings: Mapping[str, Any], results: Any, out: Path | None = None
) -> Path:
    """Write `NAME.json` (on a GPU `NAME-cuda.json`) into `out`, by default `benchmarks/results`."""
    folder = RESULTS if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'' if env['device'] == 'cpu' else '-cuda'}.json"
    content = {"benchmark": name, "environment": dict(env), "settings": dict(settings), "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")
    return path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(tuple(part.strip() for part in line.split(":", 1)) for line in lines if ":" in line)
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name
