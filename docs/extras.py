"""What each extra weighs in a fresh environment, and whether it does there what it is for: the table in
docs/installation.md. `python docs/extras.py [EXTRA ...] [--folder FOLDER]`

An environment is made, weighed, tried with one of the tests, and deleted. Lines of extras that aren't named stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "installation.md"
BEGIN, END = "<!-- extras -->\n", "<!-- extras end -->\n"
PINNED = ("-c", "constraints.txt", "-e")
TRIED = {
    "no extra": ((*PINNED, "."), "generation/test_oracles.py::test_the_oracles_hold_on_the_bundled_model"),
    "slurm": ((*PINNED, ".[slurm]"), "sweeps/test_sweep_clusters.py::test_submitit_runs_a_sweep_on_this_machine"),
    "ray": ((*PINNED, ".[ray]"), "sweeps/test_sweep_clusters.py::test_a_worker_of_ray_that_dies_is_replaced"),
    "lm-eval": ((*PINNED, ".[lm-eval]"), "integrations/test_lm_eval.py::test_the_harness_runs_local_tasks_end_to_end"),
    "inspect": ((*PINNED, ".[inspect]"), "integrations/test_inspect.py::test_inspect_runs_a_local_task_end_to_end"),
}
"""What pip is asked for, and the test that tries it."""


def measure(extra: str, folder: Path) -> str:
    """One line of the table; the environment is gone afterwards."""
    asked, test = TRIED[extra]
    python, pip = folder / "bin" / "python", [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([*pip, *asked], cwd=ROOT, check=True)
        weighed = subprocess.run(["du", "-sm", folder], check=True, capture_output=True, text=True).stdout
        packages = len(list(folder.glob("lib/python3*/site-packages/*.dist-info")))
        subprocess.run([*pip, *PINNED[:2], "pytest", "psutil", "setuptools"], cwd=ROOT, check=True)
        quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([python, "-m", "pytest", "-q", f"tests/{test}"], cwd=ROOT, env=quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    said = "passes" if done.returncode == 0 else "**fails**"
    size, name, date = int(weighed.split()[0]), test.partition("::")[2], datetime.now(UTC).date()
    return f"| {extra} | `pip install {' '.join(asked)}` | {size:,} MB | {packages} | `{name}` {said} | {date} |"


def write(line: str) -> None:
    """Put one line into the table, in place of the one of that name."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    head, rows = table.splitlines()[:2], table.splitlines()[2:]
    named = {row.split(" | ")[0]: row for row in [*rows, line]}
    text = "\n".join([*head, *named.values()])
    PAGE.write_text(f"{before}{BEGIN}{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", default=list(TRIED), help=f"of {', '.join(TRIED)}; by default all")
    parser.add_argument("--folder", type=Path, help="where environments are made; a temporary folder by default")
    given = parser.parse_args()
    for extra in given.extras:
        line = measure(extra, Path(tempfile.mkdtemp(prefix=f"extra-{extra}-", dir=given.folder)))
        print(line, flush=True)
        write(line)
