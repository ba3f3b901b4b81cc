"""The command line, called as a user calls it, and the demo behind it."""

import subprocess
import sys
from pathlib import Path

import pytest

import kvsteer_lab as kv
from kvsteer_lab.demo import run_demo


def kvsteer(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kvsteer_lab.cli", *arguments], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = kvsteer("extract", "--out", "v.safetensors", "--n", "8", "--shots", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "vectors of 8 pairs" in done.stdout
    return folder


def test_extract_writes_what_the_library_extracts(folder):
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=8, shots=2, seed=0)
    assert (kv.KVVectors.load(folder / "v.safetensors").values - kv.extract(model, pairs, progress=False).values).abs().max() < 1e-4


def test_generate_prints_the_library_s_text(folder):
    model, prompt = kv.load("tiny"), "Story: Ann has 3 coins, finds 4, loses 2. How many coins does Ann have now?"
    steering = kv.CacheSteering(kv.KVVectors.load(folder / "v.safetensors"), 0, 2)
    done = kvsteer("generate", prompt, "--vectors", "v.safetensors", "--ck", "0", "--cv", "2", cwd=folder)
    assert done.stdout.strip("\n") == kv.generate(model, prompt, steering).texts[0].strip("\n")
    plain = kvsteer("generate", prompt, cwd=folder)
    assert plain.stdout.strip("\n") == kv.generate(model, prompt).texts[0].strip("\n")


def test_info_tells_files_and_models_apart(folder):
    assert "n_pairs: 8" in kvsteer("info", "v.safetensors", cwd=folder).stdout
    told = kvsteer("info", "tiny", cwd=folder).stdout
    assert "can be steered" in told and kv.load("tiny").fingerprint in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent.safetensors"], "There are no vectors at absent.safetensors"),
        (["generate", "hi", "--vectors", "v.safetensors"], "pass --ck and --cv"),
        (["generate", "hi", "--cv", "1"], "pass --vectors"),
        (["generate", "hi", "--model", "no/such/model"], "Cannot load 'no/such/model'"),
        (["extract", "--out", "w.safetensors", "--task", "mmlu"], "There is no task 'mmlu'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(folder, arguments, message):
    done = kvsteer(*arguments, cwd=folder)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (folder / "w.safetensors").exists()


def test_demo_writes_vectors_results_and_a_figure(tmp_path, capsys):
    demo = run_demo(tmp_path / "out", n=6, controls=3)
    printed = capsys.readouterr().out
    assert [p.name for p in demo.files] == ["vectors.safetensors", "results.parquet", "comparison.png"] and all(p.is_file() for p in demo.files)
    for label in ("baseline", "no offset", "CoT prompt", "forced", "steered stepwise", "3 random vectors"):
        assert label in printed
    assert printed.count("Q  ") == 3 and str(demo.files[0]) in printed
    assert kv.Results.load(demo.files[1]).rows.equals(demo.results.rows)
