"""Draw every figure of the notebooks and of the README: `python notebooks/draw.py -n 2`. The notebooks stay as they
are.

They are drawn into a folder of their own, and take the places of those in `figures/` when all of them are there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import manifest
from execute import ENVIRONMENT, HERE

FIGURES = HERE.parent / "figures"


def draw(job: str, folder: Path) -> str:
    """Draw the figures of one notebook, or of the README, into `folder`. The answer is empty, or says what went
    wrong.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        command = (
            [str(HERE / "execute.py"), job, "--to", scratch]
            if job.endswith(".ipynb")
            else ["-m", "kvsteer_lab.cli", "demo", "--out", scratch]
        )
        environment = {**os.environ, **ENVIRONMENT, "KVSTEER_FIGURES": str(folder)}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        for path in Path(scratch).glob("quickstart.*"):
            shutil.copy(path, folder)
    print(f"{job}: {time.perf_counter() - began:.0f} s", flush=True)
    return f"{job} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}" if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many notebooks run at a time")
    workers = parser.parse_args().n
    began = time.perf_counter()
    notebooks = sorted((path.name for path in HERE.glob("*.ipynb")), reverse=True)  # the later ones take longer
    runs = HERE.parent / "runs"
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as folder:
        fresh = Path(folder)
        with ThreadPoolExecutor(workers) as pool:
            failures = [told for told in pool.map(lambda job: draw(job, fresh), [*notebooks, "README"]) if told]
        if failures:
            print(*failures, "Nothing was changed in figures/.", sep="\n", file=sys.stderr)
            return 1
        manifest.write(fresh)
        drawn = manifest.figures_in(fresh)
        for old in set(manifest.read(FIGURES) if (FIGURES / manifest.NAME).is_file() else ()) - set(drawn):
            (FIGURES / old).unlink(missing_ok=True)
        for name in [*drawn, manifest.NAME]:
            os.replace(fresh / name, FIGURES / name)
    size = sum((FIGURES / name).stat().st_size for name in drawn)
    print(
        f"{len(drawn) // len(manifest.SUMS_OF)} figures in figures/, {size / 1e6:.1f} MB,"
        f" {time.perf_counter() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
