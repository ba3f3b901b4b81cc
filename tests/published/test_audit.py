"""`kvsteer audit` on trees of our own making, hostile ones among them, and on the real release where it is at hand."""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvsteer_lab.cli.main import main
from kvsteer_lab.published.auditing import audit
from kvsteer_lab.published.release import read_release
from kvsteer_lab.published.reporting import report
from kvsteer_lab.published.rescoring import check_metrics

CLOSING = "\nSo the correct choice is"
N = 20
BASELINE, COT, STEERED, BOTH = (
    "baseline_results/base.json",
    "baseline_results/cot.json",
    "steering_results/steered.json",
    "cot_steering_results/both.json",
)


def run_of(right: int, reply: str = "Hm.", metrics: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """A run over 20 questions whose answer is A: the first `right` replies say so, the others say B."""
    letters = ["A" if i < right else "B" for i in range(N)]
    samples = [
        {
            "id": f"q{i}",
            "input": "Why?\nA: this\nB: that",
            "target": "A",
            "response": f"{reply}{CLOSING} {letter}.<|eot_id|>",
            "filtered_response": {},
        }
        for i, letter in enumerate(letters)
    ]
    settings = {
        "model": "lab/Toy-Instruct",
        "task": "arc-oai",
        "max_new_tokens": 64,
        "do_sample": False,
        "append_prefix_to_prompt": False,
    }
    claimed = {"augmented_extract": right / N, "last_letter": right / N} if metrics is None else metrics
    return {"arguments": settings | arguments, "metrics": claimed, "samples": samples}


STEERING = {"c_keys": 0.0, "c_values": 6.0, "n_contrastive_samples": 200, "num_fewshot_examples": 10}


def whole() -> dict[str, Any]:
    """Right: 10 of 20 questions without anything, 12 with CoT, 18 steered, 12 with both; the same questions as far as
    they go.
    """
    return {
        BASELINE: run_of(10),
        COT: run_of(12, "One two.", append_prefix_to_prompt=True),
        STEERED: run_of(18, "One two three four.", **STEERING),
        BOTH: run_of(12, "One two three.", append_prefix_to_prompt=True, **STEERING),
    }


def write(root: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "release", whole())


def run_command(capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and error message of `kvsteer audit`."""
    code = 0
    try:
        main(["audit", *map(str, arguments)])
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
        if isinstance(stopped.code, str):
            return code, capsys.readouterr().out, stopped.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


# --- numbers ----------------------------------------------------------------------------------------------------


def test_comparisons_are_those_computed_by_hand(tree: Path) -> None:
    table = audit(tree).comparisons.set_index(["file", "against"])
    base, cot, both = table.loc[(STEERED, "baseline")], table.loc[(STEERED, "CoT")], table.loc[(BOTH, "baseline")]
    assert (base.gained, base.lost, base.n) == (8, 0, N) and base.gain == pytest.approx(0.4)
    assert base.p == pytest.approx(2 / 2**8) and cot.p == pytest.approx(2 / 2**6) and both.p == pytest.approx(0.5)
    # Two runs against each reference: Holm doubles the smaller p.
    assert (
        base.p_holm == pytest.approx(4 / 2**8)
        and cot.p_holm == pytest.approx(4 / 2**6)
        and both.p_holm == pytest.approx(0.5)
    )
    assert 0.1 < base.low < 0.4 < base.high < 0.7


def test_accuracy_interval_length_and_rules(tree: Path) -> None:
    found = audit(tree)
    runs = found.runs.set_index("file")
    # Wilson for 18 of 20: (18 + z²/2 ± z √(18·2/20 + z²/4)) / (20 + z²)
    z = 1.959964
    half = z * math.sqrt(18 * 2 / 20 + z**2 / 4)
    assert runs.loc[STEERED, "low"] == pytest.approx((18 + z**2 / 2 - half) / (20 + z**2), abs=1e-6)
    assert runs.loc[STEERED, "high"] == pytest.approx((18 + z**2 / 2 + half) / (20 + z**2), abs=1e-6)
    assert runs.loc[STEERED, "accuracy_two_stage"] == 0.9 and runs.loc[STEERED, "accuracy_strict"] == 0
    assert found.texts.set_index("file").loc[STEERED, "ratio"] == 4
    assert found.effects[["gain", "best_of"]].to_numpy().tolist() == [[pytest.approx(0.4), 1]]


def test_labels_that_the_paper_s_rules_can_t_name_are_counted(tree: Path) -> None:
    numbered = run_of(10)
    for sample in numbered["samples"][-5:]:
        sample |= {"target": "2", "input": "Why?\n1: this\n2: that", "response": f"Hm.{CLOSING} 2."}
    found = audit(write(tree, {BASELINE: numbered}))
    run = found.runs.set_index("file").loc[BASELINE]
    assert (run.accuracy, run.accuracy_two_stage, run.unreachable) == (0.5, 0.75, 0.25)
    assert "25.0% of the questions of arc can never count as right" in " ".join(report(found).split())


def test_the_best_of_several_runs_is_marked_and_all_count_in_holm(tree: Path) -> None:
    write(tree, {"steering_results/weak.json": run_of(14, "Weak.", **{**STEERING, "c_values": 2.0})})
    found = audit(tree)
    assert found.effects[["file", "best_of"]].to_numpy().tolist() == [[STEERED, 2]]
    assert found.comparisons.set_index(["file", "against"]).loc[(STEERED, "baseline"), "p_holm"] == pytest.approx(
        6 / 2**8
    )


def test_the_same_generations_twice_count_once(tree: Path) -> None:
    write(tree, {"steering_results/twin.json": whole()[STEERED]})
    table = audit(tree).comparisons
    twin = table[table.same_as.notna()]
    assert set(twin.file) == {"steering_results/twin.json"} and set(twin.same_as) == {STEERED}
    assert table.set_index(["file", "against"]).loc[(STEERED, "baseline"), "p_holm"] == pytest.approx(4 / 2**8)


def test_a_run_without_a_reference_is_named_and_not_compared(tmp_path: Path) -> None:
    alone = run_of(18, system_prompt="Be brief.", **STEERING)
    found = audit(write(tmp_path / "r", {BASELINE: run_of(10), STEERED: alone}))
    assert found.complete and found.comparisons.gain.isna().all()
    text = " ".join(report(found).split())
    assert f"Not compared with the baseline: {STEERED} (there is no baseline with the same model" in text


def test_many_runs_without_a_reference_are_one_line(tmp_path: Path) -> None:
    files = {f"steering_results/{i}.json": run_of(10, f"Reply {i}.", **STEERING) for i in range(12)}
    text = report(audit(write(tmp_path / "r", files)))
    assert "Not compared with the baseline: 12 runs (there is no baseline" in " ".join(text.split())
    assert text.count("Not compared") == 2, "one line a reference"


def test_runs_with_another_limit_of_tokens_are_compared_and_marked(tmp_path: Path) -> None:
    """The release's own head-to-head: with the limit as a part of the cell it was never compared."""
    files = {BASELINE: run_of(10), STEERED: run_of(18, "One two three four.", max_new_tokens=256, **STEERING)}
    found = audit(write(tmp_path / "r", files))
    row = found.comparisons.set_index("against").loc["baseline"]
    assert (row.gain, row.n, row.p) == (pytest.approx(0.4), N, pytest.approx(2 / 2**8))
    assert (row.max_new_tokens, row.reference_max_new_tokens) == (256, 64)
    assert row.note == "replies could have 256 new tokens here and 64 in the reference"
    text = " ".join(report(found).split())
    assert "+40.0°" in text and "1 comparison (marked °) is between different limits of new tokens" in text


def test_unknown_limits_are_not_different_ones(tmp_path: Path) -> None:
    files = {BASELINE: run_of(10, max_new_tokens=None), STEERED: run_of(18, "One.", max_new_tokens=None, **STEERING)}
    found = audit(write(tmp_path / "r", files))
    assert found.comparisons.gain.notna().sum() == 1 and "°)" not in report(found)


def test_of_several_references_the_one_with_the_same_limit_is_taken(tmp_path: Path) -> None:
    files = {
        "baseline_results/a_long.json": run_of(5, max_new_tokens=512),
        "baseline_results/b_same.json": run_of(10),
        STEERED: run_of(18, "One two three four.", **STEERING),
    }
    row = audit(write(tmp_path / "r", files)).comparisons.set_index("against").loc["baseline"]
    assert row.reference_file == "baseline_results/b_same.json" and pd.isna(row.note)


def test_cache_steering_is_compared_with_the_best_activation_steering(tmp_path: Path) -> None:
    files = whole() | {
        f"activation_results/m{m}.json": run_of(11 + m, f"Act {m}.", multiplier=m, layers=3, max_new_tokens=128)
        for m in (1, 3)
    }
    found = audit(write(tmp_path / "r", files))
    table = found.comparisons[found.comparisons.family == "steering against activation"].set_index("file")
    row = table.loc[STEERED]
    assert row.reference_file == "activation_results/m3.json" and row.gain == pytest.approx((18 - 14) / N)
    assert row.p == pytest.approx(2 / 2**4) and "the most accurate of 2 activation steerings" in row.note
    assert BOTH not in table.index, "no activation steering was released with its prompt"
    text = report(found)
    assert "Cache steering over activation steering in points" in text
    assert "Cache steering against activation steering: 1 run in 1 cell" in " ".join(text.split())


def test_small_runs_are_marked(tree: Path) -> None:
    text = report(audit(tree))
    assert "4 runs (marked †) have 20 questions." in " ".join(text.split()) and " 20† " in text


def test_seeds_of_a_sampled_run_are_pooled_and_errors_respect_the_question(tmp_path: Path) -> None:
    sampled = {"do_sample": True, "temperature": 0.6}
    files = {
        f"baseline_results/{seed}.json": run_of(8 + 2 * seed, f"Seed {seed}.", **sampled, seed=seed) for seed in (1, 2)
    }
    files |= {
        f"steering_results/{seed}.json": run_of(16 + seed, f"Steered {seed}.", **sampled, seed=seed, **STEERING)
        for seed in (1, 2)
    }
    table = audit(write(tmp_path / "r", files)).comparisons
    row = table[table.against == "baseline"].iloc[0]
    assert len(table[table.gain.notna()]) == 1 and row.n == N
    assert row.reference == pytest.approx(11 / N) and row.accuracy == pytest.approx(17.5 / N)
    # questions 12 to 16 gain both replies, 10, 11 and 17 one of them; none loses
    assert (row.test, row.seeds, row.gained, row.lost) == ("permutation", 2, 8, 0) and row.p == 2 / 2**8
    found = audit(tmp_path / "r")
    full = report(found, full=True)
    assert "seed 1" in full and "seed 2" in full and "2 seeds" in full and "permutation" in full
    assert "1 row (marked ~) is of sampled replies, over 2 seeds each" in " ".join(full.split())


def test_several_replies_to_a_sample(tmp_path: Path) -> None:
    one = run_of(10)
    for sample in one["samples"]:
        sample["response"] = [sample["response"], f"Hm.{CLOSING} A."]
    one["metrics"] = {"augmented_extract": 0.75}
    found = audit(write(tmp_path / "r", {BASELINE: one}))
    assert str(found) == "1 of 1 files match their own metrics" and found.runs.n.tolist() == [2 * N]


def test_numbers_are_read_by_the_rules_for_numbers(tmp_path: Path) -> None:
    one = run_of(0, metrics={"last_digit": 0.5, "strict_match": 0.5}, task="gsm8k")
    for i, sample in enumerate(one["samples"]):
        sample |= {"target": "18", "response": f"So 9 + 9. The answer is {18 if i < 10 else 17}.<|eot_id|>"}
    found = audit(write(tmp_path / "r", {BASELINE: one}))
    assert found.complete and found.runs.accuracy_last_number.tolist() == [0.5]


# --- the command ------------------------------------------------------------------------------------------------


def test_prints_tables_that_fit_writes_files_and_ends_with_the_count(tree: Path, tmp_path: Path, capsys: Any) -> None:
    code, out, _ = run_command(capsys, tree, "--out", tmp_path / "out")
    assert code == 0 and out.splitlines()[-1] == "4 of 4 files match their own metrics"
    assert max(map(len, out.splitlines())) <= 80
    assert "+40.0" in out and out.index("Summary") < out.index("Gain of cache steering")
    full = (tmp_path / "out/report.txt").read_text(encoding="utf-8")
    assert "0.0078" in full and "0.02" in full and max(map(len, full.splitlines())) <= 80
    assert pd.read_csv(tmp_path / "out/checks.csv").matches.all()
    assert {"comparisons.csv", "effects.csv", "problems.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert {"gains.png", "texts.pdf", "texts.csv"} <= {path.name for path in (tmp_path / "out" / "figures").iterdir()}


@pytest.mark.parametrize("metric", ["augmented_extract", "last_letter"])
def test_a_wrong_metric_is_named_and_the_exit_code_is_2(tree: Path, tmp_path: Path, capsys: Any, metric: str) -> None:
    wrong = run_of(12, append_prefix_to_prompt=True)
    wrong["metrics"][metric] += 2e-9
    write(tree, {COT: wrong})
    code, out, _ = run_command(capsys, tree, "--out", tmp_path / "out")
    assert code == 2 and out.splitlines()[-1] == "3 of 4 files match their own metrics"
    assert f"{COT}: {metric}" in out


def test_llm_extract_is_counted_from_the_stored_verdicts(tmp_path: Path) -> None:
    one = run_of(10, metrics={"augmented_extract": 0.5, "llm_extract": 0.25})
    for i, sample in enumerate(one["samples"]):
        sample["filtered_response"] = {"llm_extract": "A" if i < 5 else "[invalid]"}
    checks = audit(write(tmp_path / "r", {BASELINE: one})).checks.set_index("metric")
    assert checks.loc["llm_extract", "by"] == "stored" and checks.matches.all()
    one["metrics"]["llm_extract"] = 0.3
    assert not audit(write(tmp_path / "r", {BASELINE: one})).complete


def test_a_metric_of_an_unknown_rule_is_named(tree: Path) -> None:
    found = audit(write(tree, {BASELINE: run_of(10, metrics={"augmented_extract": 0.5, "vibes": 0.9})}))
    assert not found.complete and f"{BASELINE} claims a metric of an unknown rule (vibes)" in " ".join(
        report(found).split()
    )


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in run_of(3).items() if name != key}


DAMAGED = [
    (json.dumps(run_of(3)).encode()[:500], "is cut off"),
    (b"", "is empty"),
    (b"hello", "is not JSON"),
    (b'{"a": "\xff"}', "is not text in UTF-8"),
    (b"[" * 100_000, "is not JSON that can be read"),
    (b"[1]", "holds a JSON list"),
    (without("metrics"), "has no key 'metrics'"),
    (without("samples"), "has no key 'samples'"),
    (without("arguments"), "has no key 'arguments'"),
    (run_of(3) | {"samples": []}, "holds no samples"),
    (run_of(3) | {"samples": [{"id": "q"}]}, "has a sample without 'target' (number 1)"),
    (run_of(3) | {"metrics": {}}, "claims no metrics"),
    (run_of(3) | {"arguments": {"task": "arc"}}, "does not say in its arguments which model"),
]


@pytest.mark.parametrize(("content", "reason"), DAMAGED, ids=[reason for _, reason in DAMAGED])
def test_a_damaged_file_is_named_and_the_audit_goes_on(tree: Path, content: Any, reason: str) -> None:
    found = audit(write(tree, {"steering_results/bad.json": content}))
    told = report(found)
    assert not found.complete and told.splitlines()[-1] == "4 of 5 files match their own metrics"
    assert f"steering_results/bad.json {reason}" in " ".join(told.split())
    assert "+40.0" in told


def test_oversized_numbers_and_text_that_can_t_be_encoded(tree: Path, tmp_path: Path, capsys: Any) -> None:
    odd = json.dumps(
        run_of(
            10,
            model="lab/\ud800\x1b[31m\n",
            max_new_tokens=1,
            n_contrastive_samples="\udfff",
            num_fewshot_examples=1,
            c_values=7,
        )
    )
    write(
        tree,
        {
            "odd.json": odd.replace('"c_values": 7', f'"c_values": {"9" * 400}').encode(),
            BASELINE: run_of(10, metrics={"augmented_extract": 10**400}),
        },
    )
    code, out, _ = run_command(capsys, tree, "--out", tmp_path / "out")
    assert code == 2 and "\x1b" not in out and "\ud800" not in out
    assert out.splitlines()[-1] == "4 of 5 files match their own metrics"


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and such names are made on POSIX")
def test_a_hostile_tree_is_read_without_leaving_it(tree: Path, tmp_path: Path, capsys: Any) -> None:
    secret = write(tmp_path / "elsewhere", {"secret.json": run_of(20, "Secret.")})
    (tree / "link.json").symlink_to(secret / "secret.json")
    (tree / "folder").symlink_to(secret)
    (tree / "loop").symlink_to(tree)
    (tree / "evil\x1b[2J\n.json").write_text("{}")
    os.mkfifo(tree / "pipe.json")
    write(tree, {"/".join("d" * 30) + "/deep.json": run_of(3), "README.md": b"hi"})
    code, out, _ = run_command(capsys, tree, "--out", tmp_path / "out")
    said = " ".join(out.split())
    assert code == 2 and out.splitlines()[-1] == "4 of 4 files match their own metrics"
    assert all(f"{name} is a link" in said for name in ("link.json", "folder", "loop"))
    assert (
        "pipe.json is not a regular file" in said and "folders deep" in said and "README.md is not a .json file" in said
    )
    assert "\x1b" not in out and "evil\\x1b[2J\\n.json has control characters in its name" in said


def test_an_archive_with_hostile_members(tmp_path: Path, capsys: Any) -> None:
    archive = tmp_path / "release.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name in (f"paper/{BASELINE}", "../outside.json", "/etc/absolute.json"):
            data = json.dumps(run_of(10)).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("paper/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    code, out, _ = run_command(capsys, archive, "--out", tmp_path / "out")
    said = " ".join(out.split())
    assert code == 2 and out.splitlines()[-1] == "1 of 1 files match their own metrics"
    assert (
        "../outside.json has a path that leads out" in said and "/etc/absolute.json has a path that leads out" in said
    )
    assert "paper/link.json is a link" in said and not (tmp_path.parent / "outside.json").exists()


def test_a_damaged_archive_gives_what_lies_before_the_damage(tree: Path, tmp_path: Path, capsys: Any) -> None:
    archive = tmp_path / "release.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, "paper")
    archive.write_bytes(archive.read_bytes()[:-12_000])
    code, out, _ = run_command(capsys, archive, "--out", tmp_path / "out")
    assert code == 2 and "release.tar is damaged" in " ".join(out.split())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "There is nothing at"),
        (lambda path: path.write_text("hi"), "neither a folder nor a tar archive"),
        (lambda path: path.mkdir(), "no run and no file of times"),
        (lambda path: write(path, {"x.json": b"{"}), "for one, x.json is cut off"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(
    tmp_path: Path, capsys: Any, make: Any, message: str
) -> None:
    make(tmp_path / "given")
    code, out, error = run_command(capsys, tmp_path / "given", "--out", tmp_path / "out")
    assert code == 1 and message in error and out == "" and not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused_before_the_work(tree: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").write_text("mine")
    code, _, error = run_command(capsys, tree, "--out", tmp_path / "out")
    assert code == 1 and "is a file; name a folder" in error and (tmp_path / "out").read_text() == "mine"


def test_tables_fit_a_terminal_whatever_the_names(tmp_path: Path) -> None:
    named = {"model": f"lab/{'Long-' * 40}7B", "task": "commonsense-reasoning-oai"}
    odd = {
        "do_sample": True,
        "temperature": 0.6,
        "c_values": 1234.5678,
        "c_keys": 0.000123,
        "n_contrastive_samples": 10**9,
        "num_fewshot_examples": 10**9,
    }
    greedy = {
        name: run_of(10 + i, f"{'word ' * 60}", **named, **odd | {"do_sample": False})
        for i, name in enumerate((STEERED, BOTH))
    }
    files = {
        BASELINE: run_of(10, **named),
        COT: run_of(11, append_prefix_to_prompt=True, **named),
        **greedy,
        "sampled.json": run_of(9, **named, **odd),
    }
    found = audit(write(tmp_path / "r", files))
    for lines in (report(found).splitlines(), report(found, full=True).splitlines()):
        assert max(map(len, lines)) <= 80 and len(lines) > 30


def test_help_tells_the_exit_codes(capsys: Any) -> None:
    code, out, _ = run_command(capsys, "--help")
    assert code == 0 and "Exit code 0" in out


# --- the real release -------------------------------------------------------------------------------------------


@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs the paper's released files")
def test_every_released_file_matches_its_own_metrics() -> None:
    release = read_release(Path(os.environ["KVSTEER_DATA_DIR"]) / "paper_results.tar.xz")
    checks = [check for run in release.runs for check in check_metrics(run)]
    assert (len(release.runs), len(release.timings), len(release.problems), len(checks)) == (48, 1, 0, 98)
    assert max(abs(check.claimed - check.rescored) for check in checks) <= 1e-9
    assert not any(check.changed for check in checks)
    assert sorted(check.metric for check in checks if check.by != "rule") == ["llm_extract"] * 2


@pytest.mark.slow
@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs the paper's released files")
def test_the_audit_of_the_real_release() -> None:
    found = audit(Path(os.environ["KVSTEER_DATA_DIR"]) / "paper_results.tar.xz")
    assert str(found) == "48 of 48 files match their own metrics" and found.complete
    steering = found.comparisons[(found.comparisons.group == "steering") & found.comparisons.gain.notna()]
    assert steering.groupby("against").size().to_dict() == {"CoT": 16, "baseline": 16} and (steering.n >= 1172).all()
    assert (steering.p_holm > 0.05).all() and len(found.effects) == 5
    assert (steering.test == "McNemar").all() and steering.note.isna().all()
    assert len(report(found).splitlines()) < 90
