"""What each extra adds to a plain installation, and whether it does there what it is for: the table in
docs/installation.md. `python docs/extras.py [EXTRA ...] [--plain FOLDER]`

A fresh environment with no extra is made, and a copy of it for each extra, which is weighed, tried with a test and
deleted. Lines of extras that aren't named stay.
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
NONE = "no extra"
TRIED = {
    NONE: "generation/test_oracles.py::test_the_oracles_hold_on_the_bundled_model",
    "llama-cpp": "backends/test_llama_backend.py::test_rows_are_those_of_transformers",
    "lm-eval": "integrations/test_lm_eval.py::test_the_harness_runs_local_tasks_end_to_end",
    "inspect": "integrations/test_inspect.py::test_inspect_runs_a_local_task_end_to_end",
    "slurm": "sweeps/test_sweep_clusters.py::test_submitit_runs_a_sweep_on_this_machine",
    "ray": "sweeps/test_sweep_clusters.py::test_a_worker_of_ray_that_dies_is_replaced",
}
"""The test that tries each."""


def install(environment: Path, *asked: str) -> None:
    """What pip is asked for, at the pinned versions."""
    subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "--quiet", *asked], cwd=ROOT, check=True)


def measure(extra: str, environment: Path) -> str:
    """One line of the table, of an environment in which nothing but the extra is to be installed."""
    asked = "." if extra == NONE else f".[{extra}]"
    install(environment, *PINNED, asked)
    weighed = subprocess.run(["du", "-sm", environment], check=True, capture_output=True, text=True).stdout
    packages = len(list(environment.glob("lib/python3*/site-packages/*.dist-info")))
    install(environment, *PINNED[:2], "pytest", "psutil", "setuptools")
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    test = [environment / "bin" / "python", "-m", "pytest", "-q", f"tests/{TRIED[extra]}"]
    told = subprocess.run(test, cwd=ROOT, env=quiet, capture_output=True, text=True)
    print(told.stdout)
    said = "passes" if told.returncode == 0 and "1 passed" in told.stdout else "**fails**"  # a skipped one is no test
    size, name, date = int(weighed.split()[0]), TRIED[extra].partition("::")[2], datetime.now(UTC).date()
    return f"| {extra} | {size:,} MB | {packages} | `{name}` {said} | {date} |"


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
    parser.add_argument("--plain", type=Path, help="where the environment with no extra is, or is to be; it stays")
    given = parser.parse_args()
    if unknown := set(given.extras) - set(TRIED):
        parser.error(f"there is no test of {', '.join(sorted(unknown))}; choose from {', '.join(TRIED)}")
    with tempfile.TemporaryDirectory(prefix="extras-", dir=given.plain and given.plain.parent) as made:
        plain = given.plain or Path(made) / "plain"
        if not (plain / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", plain], check=True)
            install(plain, *PINNED, ".")
        for extra in given.extras:
            subprocess.run(["cp", "-al", plain, copy := Path(made) / extra], check=True)
            line = measure(extra, copy)
            print(line, flush=True)
            write(line)
            shutil.rmtree(copy)
