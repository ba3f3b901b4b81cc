"""How long `import kvsteer_lab` takes in a fresh process, and that it leaves torch unloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import measure
import tyro

CODE = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
import kvsteer_lab
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, "torch" in sys.modules]))
"""


def main(repeats: int = 15, out: Path | None = None) -> Path:
    """Measure it.

    Args:
        repeats: fresh processes.
        out: folder for the JSON file.
    """
    wall, cpu, torch_loaded = zip(*(_once() for _ in range(repeats)), strict=True)
    assert not any(torch_loaded), "importing kvsteer_lab loads torch"
    result = {"wall_s": measure.spread(wall), "cpu_s": measure.spread(cpu), "torch_loaded": False}
    print(
        f"import kvsteer_lab: {result['wall_s']['median'] * 1e3:.1f} ms wall, {result['cpu_s']['median'] * 1e3:.1f} ms"
        " CPU; torch is not loaded"
    )
    clock = measure.Clock("cpu")
    return measure.write(
        "import_time", measure.environment(clock) | {"clock": "wall, and CPU"}, dict(repeats=repeats), result, out
    )


def _once() -> tuple[float, float, bool]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    wall, cpu, torch_loaded = json.loads(done.stdout)
    return wall, cpu, torch_loaded


if __name__ == "__main__":
    tyro.cli(main)
