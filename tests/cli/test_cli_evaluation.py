"""`kvsteer evaluate`, `merge` and `tune`, called as a user calls them."""

from pathlib import Path

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main

SMALL = ("--n", "6", "--max-new-tokens", "48", "--controls", "2")


@pytest.fixture
def kvsteer(tmp_path, monkeypatch, capsys, tiny):
    """Run a command in an empty folder that holds vectors: what it printed, and its exit code."""
    monkeypatch.chdir(tmp_path)
    task = kv.tasks.get("tiny-arithmetic")
    kv.extract(
        tiny, kv.ContrastiveSet.few_shot(task, tiny.tokenizer, style="stepwise", n=8, shots=2), progress=False
    ).save("v.safetensors")
    capsys.readouterr()

    def run(*arguments):
        code = 0
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
        return capsys.readouterr().out, code

    return run


def test_shards_are_unfinished_until_they_are_merged(kvsteer, tiny):
    command = ("evaluate", "--vectors", "v.safetensors", "--ck", "0", "--cv", "2", "--prefix", "Step", *SMALL)
    for i in (1, 2):
        printed, code = kvsteer(*command, "--out", f"part{i}", "--shard", f"{i}/2")
        assert code == 3 and "Rows are missing: run the same command again, or merge the shards." in printed
    printed, code = kvsteer("merge", "part1", "--out", "whole")
    assert code not in (0, None) and "missing" in f"{printed}{code}"
    printed, code = kvsteer("merge", "part1", "part2", "--out", "whole")
    assert code == 0
    printed, code = kvsteer(*command, "--out", "whole")  # nothing is left to do
    assert (
        code == 0
        and "CoT prefix" in printed
        and "p_holm" in printed
        and "Side effects" in printed
        and "Accuracy under each rule" in printed
    )
    merged = kv.Results.load("whole")
    steering = kv.CacheSteering(kv.KVVectors.load("v.safetensors"), 0, 2)
    alone = kv.evaluate(
        tiny, kv.tasks.get("tiny-arithmetic"), steering, n=6, generation={"max_new_tokens": 48}, progress=False
    )
    assert merged.of(steering.label).text.tolist() == alone.of(steering.label).text.tolist()


def test_settings_that_do_nothing_are_refused(kvsteer):
    for arguments, message in [
        (("--vectors", "v.safetensors", "--cv", "2"), "pass --vectors, --ck and --cv together"),
        (("--ck", "0", "--cv", "2"), "pass --vectors, --ck and --cv together"),
        (("--shard", "1/2"), "pass --out"),
        (("--task", "mmlu"), "There is no task 'mmlu'"),
        (("--temperature", "0.5"), "does nothing to a single, greedy reply; pass --samples 2 or more"),
    ]:
        assert message in kvsteer("evaluate", *arguments)[1]


def test_tune_writes_every_cell_and_goes_on(kvsteer):
    sizes = (
        "--pairs",
        "8",
        "--shots",
        "2",
        "--cells",
        "12",
        "--n-dev",
        "4",
        "--n-test",
        "6",
        "--max-new-tokens",
        "48",
        "--controls",
        "2",
    )
    command = ("tune", "--out", "t", *sizes)
    printed, code = kvsteer(*command)
    assert code == 0 and "Chosen on 4 development questions" in printed
    assert "Held-out test, 6 questions, once" in printed
    cells = pd.read_csv("t/cells.csv")
    assert cells.groupby("method").size().nunique() == 1 and cells.chosen.sum() == 2
    for file in (
        "vectors.safetensors",
        "activations.safetensors",
        "comparison.csv",
        "test/config.json",
        "dev/round-0/config.json",
    ):
        assert pd.io.common.file_exists(f"t/{file}"), file
    again, code = kvsteer(*command)  # all rounds are read from disk
    assert code == 0 and again == printed
    stopped, code = kvsteer("tune", "--out", "flat", *sizes, "--max-new-tokens", "1")  # no answer, whatever the dose
    assert code == 0 and "so there is no held-out test" in stopped and "Held-out test," not in stopped


def test_tune_refuses_before_it_extracts(kvsteer, monkeypatch):
    def computed(*args, **kwargs):
        pytest.fail("vectors were extracted before the input was refused")

    monkeypatch.setattr(kv, "extract", computed)
    monkeypatch.setattr(kv, "extract_activations", computed)
    Path("file").write_text("")
    for arguments, message in [
        (("--objective", "fame"), "objective='fame' is unknown; choose 'correct' or"),
        (("--cells", "10"), "choose a multiple of 4, 12 at least"),
        (("--controls", "0"), "The number of controls must be at least 1"),
        (("--n-dev", "100000"), "at most 5000 questions of a split, not 100000"),
        (("--n-test", "100000"), "at most 5000 questions of a split, not 100000"),
        (("--out", "file/t"), "Cannot write file/t/cells.csv"),
    ]:
        assert message in kvsteer("tune", "--out", "t", *arguments)[1]
    assert not Path("t/vectors.safetensors").exists()


def test_outcomes_and_cut_replies_are_printed(kvsteer):
    command = ("evaluate", "--n", "4", "--split", "dev", "--controls", "2", "--max-new-tokens", "4")
    printed, code = kvsteer(*command, "--outcomes", "words", "direct")
    assert code == 0 and "Outcomes; p:" in printed and "difference_low" in printed
    assert "Lengths in tokens: replies that were cut count as longer than the limit" in printed
    printed, code = kvsteer(*command, "--outcomes", "all")
    assert code == 0 and "connective rate" in printed
    printed, code = kvsteer(*command, "--outcomes", "nonsense")
    assert code not in (0, None)
