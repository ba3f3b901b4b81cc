"""The command line, called as a user calls it, and the demo behind it."""

import subprocess
import sys

import pytest

import kvsteer_lab as kv
from kvsteer_lab.cli.demo import run_demo
from kvsteer_lab.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with vectors that the command line extracted, in a process of its own."""
    folder = tmp_path_factory.mktemp("cli")
    command = [
        sys.executable,
        "-m",
        "kvsteer_lab.cli.main",
        "extract",
        "--out",
        "v.safetensors",
        "--n",
        "8",
        "--shots",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert "vectors of 8 pairs" in done.stdout
    return folder


@pytest.fixture
def kvsteer(folder, monkeypatch, capsys):
    """Run a command in the folder and give what it prints."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> str:
        main(arguments)
        return capsys.readouterr().out

    return run


def test_extract_writes_what_the_library_extracts(folder):
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=8, shots=2, seed=0)
    assert (
        kv.KVVectors.load(folder / "v.safetensors").values - kv.extract(model, pairs, progress=False).values
    ).abs().max() < 1e-4


def test_generate_prints_the_library_s_text(folder, kvsteer):
    model, prompt = kv.load("tiny"), "Story: Ann has 3 coins, finds 4, loses 2. How many coins does Ann have now?"
    steering = kv.CacheSteering(kv.KVVectors.load(folder / "v.safetensors"), 0, 2)
    steered = kvsteer("generate", prompt, "--vectors", "v.safetensors", "--ck", "0", "--cv", "2")
    assert steered.strip("\n") == kv.generate(model, prompt, steering).texts[0].strip("\n")
    assert kvsteer("generate", prompt).strip("\n") == kv.generate(model, prompt).texts[0].strip("\n")


def test_generate_takes_a_prompt_verbatim(kvsteer):
    verbatim = kv.generate(kv.load("tiny"), "Story: Ann has 3", chat=False, generation={"max_new_tokens": 8})
    shown = kvsteer("generate", "Story: Ann has 3", "--no-chat", "--max-new-tokens", "8")
    assert shown.strip("\n") == verbatim.texts[0].strip("\n")


def test_info_tells_files_and_models_apart(kvsteer):
    assert "n_pairs: 8" in kvsteer("info", "v.safetensors")
    told = kvsteer("info", "tiny")
    assert "can be steered" in told and kv.load("tiny").fingerprint in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent.safetensors"], "There are no vectors at absent.safetensors"),
        (["generate", "hi", "--vectors", "v.safetensors"], "pass --ck and --cv"),
        (["generate", "hi", "--cv", "1"], "pass --vectors"),
        (["generate", "hi", "--model", "no/such/model"], "There is no folder no/such/model"),
        (["extract", "--out", "w.safetensors", "--task", "mmlu"], "There is no task 'mmlu'"),
        (["extract", "--out", "w.pt"], "not to w.pt; end --out in .safetensors"),
        (["extract", "--out", "v.safetensors/w.safetensors", "--model", "no/model"], "Cannot write v.safetensors/w"),
    ],
)
def test_bad_input_is_one_line_and_a_failure(folder, kvsteer, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        kvsteer(*arguments)
    assert message in str(stopped.value) and "\n" not in str(stopped.value)  # a string makes Python exit with 1
    assert not (folder / "w.safetensors").exists()


def test_demo_writes_vectors_results_and_a_figure(tmp_path, capsys):
    demo = run_demo(tmp_path / "out", n=6, controls=3)
    printed = capsys.readouterr().out
    assert [p.name for p in demo.files] == ["vectors.safetensors", "results.parquet", "quickstart.png"] and all(
        p.is_file() for p in demo.files
    )
    for label in ("baseline", "no offset", "CoT prompt", "response prefill", "steered stepwise", "3 random vectors"):
        assert label in printed
    assert printed.count("Q  ") == 3 and str(demo.files[0]) in printed
    assert kv.Results.load(demo.files[1]).rows.equals(demo.results.rows)
