"""The table of attacks, run again at its large counts: `python tests/attacks.py [ROW ...]`, some hours on two cores.

Each row is a few slow tests; `make full` runs them with all others. Prints the table of docs/attacks.md, one row as it
ends, and what a test printed that failed. A ROW is a part of an attack's name: `python tests/attacks.py disk fork`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """An attack.

    Attributes:
        attack: what is done to the product.
        count: how often.
        tests: files, or tests of files, whose slow cases do it.
    """

    attack: str
    count: str
    tests: tuple[str, ...]


ROWS = (
    Row("Kill an evaluation, go on", "43 kills", ("evaluation/test_kill.py",)),
    Row("Kill a search for coefficients, go on", "20 kills", ("evaluation/test_attack_kills.py[tune-20]",)),
    Row(
        "Kill the chapters' run on another model, go on", "12 kills", ("evaluation/test_attack_kills.py[reproduce-12]",)
    ),
    Row(
        "Kill a replication of the paper's experiment, go on",
        "12 kills",
        ("evaluation/test_attack_kills.py[replicate-12]",),
    ),
    Row(
        "Kill a writer of traces, go on",
        "288 kills",
        ("tasks/test_attack_traces.py::test_killed_again_and_again_it_goes_on",),
    ),
    Row(
        "Kill a save",
        "100 kills",
        ("util/test_files.py::test_a_save_that_is_killed_at_any_moment_leaves_a_whole_file",),
    ),
    Row("Kill a merge, go on", "40 kills", ("evaluation/test_two_writers.py::test_a_merge_that_is_killed_goes_on",)),
    Row("Ctrl-C in a command, go on", "24 for each of 14 commands", ("cli/test_interrupting.py",)),
    Row(
        "Ctrl-C in an analysis called from Python",
        "10 for each of 32 functions",
        ("analysis/test_interrupted_analyses.py",),
    ),
    Row(
        "No space left in a command or a save",
        "6 for each of 10 saves and 5 commands, 4 for each of 5 commands",
        ("test_attack_disk.py",),
    ),
    Row(
        "Writers that start together: traces",
        "60 starts of 3 processes",
        ("tasks/test_attack_traces.py::test_of_writers_that_start_together_one_asks",),
    ),
    Row(
        "Writers that start together: a run, files, a figure",
        "16 processes, 16 processes of 60 rounds, 100 rounds",
        (
            "evaluation/test_two_writers.py::test_each_chunk_is_done_once",
            "util/test_files.py::test_writers_at_the_same_time_leave_one_whole_file_and_nothing_else",
            "figures/test_saving.py::test_two_writers_of_one_figure_leave_files_that_belong_together",
        ),
    ),
    Row("Extract beside threads that analyse", "60 extractions, three times", ("analysis/test_every_analysis.py",)),
    Row(
        "Fork, idle and beside a thread that generates",
        "40 forks of each",
        ("models/test_lock.py::test_a_fork_works_or_says_why_not",),
    ),
    Row(
        "Ten functions at once in an event loop",
        "20 times",
        ("models/test_lock.py::test_within_an_event_loop_as_in_a_notebook",),
    ),
    Row("Damaged files", "450 mutants of each of 18 kinds", ("test_attack_files.py",)),
    Row(
        "Damaged JSON and pictures",
        "20,000; 3,000 of each of 3 kinds",
        ("util/test_json.py", "figures/test_figure_info.py"),
    ),
    Row(
        "One flipped bit in vectors, runs and results",
        "one in every byte",
        (
            "vectors/test_vectors.py::test_a_flipped_bit_in_a_file_is_refused_or_changes_nothing",
            "evaluation/test_store.py",
        ),
    ),
    Row("Hostile models' folders", "71", ("test_attack_folders.py::test_a_hostile_model_is_refused_or_loaded",)),
    Row(
        "Hostile cards and tensors of vectors",
        "all fields with 15 values each",
        ("test_attack_folders.py::test_vectors_with_wrong_cards_or_tensors_are_refused_or_usable",),
    ),
    Row("Hostile releases", "341", ("test_attack_folders.py::test_a_hostile_release_is_audited_without_leaving_it",)),
    Row(
        "Hostile strings in the explorer",
        "516 in each of 11 views",
        ("explorer/test_explorer_texts.py::test_every_view_shows_texts_as_they_were_written",),
    ),
)


def command(row: Row) -> list[str]:
    """How pytest runs the slow cases of a row."""
    paths, chosen = [], ""
    for test in row.tests:
        path, _, case = test.partition("[")
        paths.append(str(TESTS / path))
        chosen = case.rstrip("]") or chosen
    options = ["-q", "-m", "slow", "-p", "no:cacheprovider", *(("-k", chosen) if chosen else ())]
    return [sys.executable, "-m", "pytest", *options, *paths]


def run(row: Row) -> bool:
    """Run a row, print its line of the table, and tell whether it held."""
    begun = time.monotonic()
    done = subprocess.run(command(row), capture_output=True, text=True, cwd=TESTS.parent)
    *_, last = done.stdout.rstrip().splitlines() or [""]
    result = re.sub(r", \d+ deselected| in [\d.]+s.*|=", "", last).strip()
    print(f"| {row.attack} | {row.count} | {result} | {time.monotonic() - begun:.0f} s |", flush=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr, flush=True)
    return done.returncode == 0


def main(names: list[str]) -> None:
    chosen = [row for row in ROWS if not names or any(name.lower() in row.attack.lower() for name in names)]
    print("| attack | count | tests | time |\n|---|---|---|---|", flush=True)
    held = [run(row) for row in chosen]
    sys.exit(not (held and all(held)))


if __name__ == "__main__":
    main(sys.argv[1:])
