"""Extraction against the paper's procedure written plainly: the same vectors, time a prompt, and peak memory.

The paper's procedure runs each prompt alone, computes the logits of every token, and asks for all hidden states. Peak
memory is that of a process of its own for each number of pairs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import measure
import models
import torch
import tyro
from torch import Tensor

import kvsteer_lab as kv
from kvsteer_lab.models.caches import cache_of
from kvsteer_lab.models.tokens import encode


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    pairs: int = 24,
    shots: tuple[int, ...] = (1, 5),
    batch: tuple[int, ...] = (4, 16),
    repeats: int = 5,
    memory: tuple[int, ...] = (50, 500),
    memory_of: tuple[Literal["ours", "paper"], ...] = ("ours", "paper"),
    out: Path | None = None,
    peak: Literal["ours", "paper"] | None = None,
) -> Path | None:
    """Measure one model.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights; vectors are asserted to be the same in float32 only.
        pairs: pairs in a timed run.
        shots: worked examples in each prompt: short and long ones.
        batch: batch sizes of `kv.extract`.
        repeats: rounds; each has every variant once.
        memory: numbers of pairs at which peak memory is read; the fewest shots, the largest batch.
        memory_of: whose peak memory is read.
        out: folder for the JSON file.
        peak: only print the peak memory of one extraction of `pairs` pairs (what this script runs itself with).
    """
    clock = measure.Clock(device)
    loaded = models.load(model, device, getattr(torch, dtype))
    if peak:
        print(json.dumps(measure_peak(loaded, clock, peak, pairs, shots[0], batch[-1])))
        return None
    results: list[dict[str, Any]] = []
    for n in shots:
        results.append(measure_time(loaded, clock, pairs, n, batch, repeats))
        report(results[-1])
    own = ["--model", model, "--device", device, "--dtype", dtype, "--shots", str(shots[0]), "--batch", str(batch[-1])]
    for who in memory_of:
        for n in memory:
            command = [sys.executable, __file__, *own, "--pairs", str(n), "--peak", who]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.strip().splitlines()[-1])
            results.append(
                dict(
                    what="peak memory",
                    who=who,
                    pairs=n,
                    shots=shots[0],
                    batch=batch[-1] if who == "ours" else 1,
                    **found,
                )
            )
            print(
                f"peak memory  {who:5s} N={n:4d}: {found['peak_mb']:.0f} MB, {found['extraction_mb']:.0f} MB more than"
                " before the extraction"
            )
    settings = dict(model=model, pairs=pairs, shots=shots, batch=batch, repeats=repeats, memory=memory)
    return measure.write(f"extract-{model}", measure.environment(clock, loaded.dtype), settings, results, out)


@torch.no_grad()
def as_in_the_paper(model: kv.Model, pairs: kv.ContrastiveSet) -> tuple[Tensor, Tensor]:
    """Keys' and values' mean differences: one prompt at a time, all logits, all hidden states, every pair's slots
    kept.
    """
    kept: dict[str, list[Tensor]] = {"keys": [], "values": []}
    for pair in pairs:
        sides = []
        for text in pair:
            ids = torch.tensor([encode(model.tokenizer, text)], device=model.device)
            output = model.hf(input_ids=ids, use_cache=True, output_hidden_states=True)
            layers = cache_of(output).layers
            sides.append(
                {name: torch.stack([getattr(x, name)[0, :, -1].float().cpu() for x in layers]) for name in kept}
            )
        for name, differences in kept.items():
            differences.append(sides[0][name] - sides[1][name])
    return torch.stack(kept["keys"]).mean(0), torch.stack(kept["values"]).mean(0)


def measure_time(
    model: kv.Model, clock: measure.Clock, n: int, shots: int, batch: tuple[int, ...], repeats: int
) -> dict[str, Any]:
    """Milliseconds a prompt, the paper's procedure over ours for each batch size, and how far the vectors are apart."""
    pairs = models.pairs(model, n, shots)
    runs: dict[str, Any] = {"paper": lambda: as_in_the_paper(model, pairs)}
    runs |= {str(b): lambda b=b: kv.extract(model, pairs, batch_size=b, progress=False) for b in batch}
    found = measure.rounds({name: lambda run=run: clock.time(run) for name, run in runs.items()}, repeats)
    seconds = {name: [time for time, _ in timed] for name, timed in found.items()}
    keys, values = found["paper"][0][1]
    apart = 0.0
    for b in batch:
        ours = found[str(b)][0][1]
        apart = max(apart, float((ours.keys - keys).abs().max()), float((ours.values - values).abs().max()))
    if model.dtype == torch.float32:
        assert apart < 1e-5, f"the vectors differ by {apart:.1g}"
    lengths = [len(encode(model.tokenizer, text)) for pair in pairs for text in pair]
    return dict(
        what="time",
        shots=shots,
        pairs=n,
        prompt_tokens=[min(lengths), max(lengths)],
        ms_a_prompt={name: measure.spread(s, 1e3 / (2 * n)) for name, s in seconds.items()},
        paper_over_ours={str(b): measure.ratio(seconds["paper"], seconds[str(b)]) for b in batch},
        largest_difference=apart,
    )


def measure_peak(model: kv.Model, clock: measure.Clock, who: str, n: int, shots: int, batch: int) -> dict[str, float]:
    """Peak memory of this process (on a GPU, of the device) in MB, and how much of it the extraction added.

    Two pairs go first, so that what is allocated once (buffers, compiled traces) isn't counted.
    """
    pairs = models.pairs(model, n, shots)
    run = (
        (lambda p: as_in_the_paper(model, p))
        if who == "paper"
        else (lambda p: kv.extract(model, p, batch_size=batch, progress=False))
    )
    run(pairs[:2])
    if clock.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clock.device)
        before = torch.cuda.memory_allocated(clock.device) / 2**20
    else:
        before = peak_mb()
    run(pairs)
    after = torch.cuda.max_memory_allocated(clock.device) / 2**20 if clock.device.type == "cuda" else peak_mb()
    return {"peak_mb": round(after, 1), "extraction_mb": round(after - before, 1)}


def peak_mb() -> float:
    """The most memory this process has had. On Linux from its own status: getrusage counts what its parent had before
    exec.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def report(result: dict[str, Any]) -> None:
    """One line a result."""
    low, high = result["prompt_tokens"]
    line = (
        f"{result['pairs']} pairs, {result['shots']} shots ({low} to {high} tokens): paper"
        f" {result['ms_a_prompt']['paper']['median']:.2f} ms a prompt;"
    )
    line += "".join(
        f" batch {b} x{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for b, r in result["paper_over_ours"].items()
    )
    print(f"{line}; vectors within {result['largest_difference']:.1g}")


if __name__ == "__main__":
    tyro.cli(main)
