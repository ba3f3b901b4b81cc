"""Each benchmark runs at a tiny size and writes what it measured; the committed results have the same form."""

from __future__ import annotations

import importlib
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import pytest
import random_models
import torch
from gguf_files import write_gguf

import kvsteer_lab as kv
from kvsteer_lab.models.gguf_header import read_header

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
SPREAD = {"median", "q1", "q3", "low", "high", "n"}
Benchmark = Callable[[str], ModuleType]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """A benchmark's module by its name; the scripts import each other as scripts do, from their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ours = {path.stem for path in BENCHMARKS.glob("*.py")}
    for name in ours & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module


def read(path: Path) -> dict[str, Any]:
    """A result file, checked for what every one must tell and for what none may."""
    text = path.read_text(encoding="utf-8")
    assert socket.gethostname() not in text
    assert '"/' not in text, "a path of this machine"
    found = json.loads(text)
    assert found.keys() == {"benchmark", "environment", "settings", "results"}
    assert {"cpu", "device", "clock", "threads", "python", "torch", "transformers", "nnsight", "kvsteer_lab"} <= found[
        "environment"
    ].keys()
    assert all(str(value).strip() for value in found["environment"].values())
    return found


def test_decode(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(
        benchmark("decode").main(
            model="smoke", batch=(1, 2), shots=(0, 1), tokens=6, repeats=2, uncached_repeats=2, out=tmp_path
        )
    )
    assert found["environment"]["kvsteer_lab"] == kv.__version__
    by_kind: dict[str, list[Any]] = {}
    for result in found["results"]:
        by_kind.setdefault(result["what"], []).append(result)
    ways = {"one-shot", "every token"}
    for result in by_kind["first token"] + by_kind["time a token"]:
        assert (
            result["ms"].keys()
            == {"plain", "nothing", "steered"} | ways
            == result["activation_over_plain"].keys() | {"plain", "nothing", "steered"}
        )
        assert result["steered_over_plain"].keys() == SPREAD
        assert result["steered_over_plain"]["median"] > 0
    for result in by_kind["time a token without a cache"]:
        slow = {"plain, no cache"} | {f"{way}, no cache" for way in ways}
        assert result["ms"].keys() == {"plain", "steered"} | slow
        assert result["over_plain"].keys() == result["over_steered"].keys() == slow
        assert result["same_as_cached"] == dict.fromkeys(ways, result["batch"])
    assert [len(by_kind[what]) for what in ("time a token", "time a token without a cache")] == [2, 2]
    assert all(
        r["changed_texts"]["every token"] == r["batch"] and r["changed_texts"]["nothing"] == 0
        for r in by_kind["time a token"]
    )
    assert [(r["batch"], r["shots"]) for r in by_kind["first token"]] == [(1, 0), (1, 1), (2, 0)]
    assert all(
        r["trace_ms"].keys() == r["edit_ms"].keys() == r["overhead_ms"].keys() == SPREAD for r in by_kind["first token"]
    )
    assert [r["same_tokens"] for r in by_kind["time a token"]] == [True, True]
    assert "time a token batch  2" in capsys.readouterr().out


def test_questions(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, exact = read(benchmark("questions").main(model="smoke", questions=4, tokens=6, repeats=2, out=tmp_path))[
        "results"
    ]
    assert [ended["what"], exact["what"]] == ["texts as they end", "6 tokens each"]
    for result in (ended, exact):
        assert result["questions_a_second"].keys() == {"loop", "batch", "steered batch"} == result["new_tokens"].keys()
        assert result["same_tokens"] == 4 and result["changed_texts"] > 0
    assert set(exact["new_tokens"].values()) == {24}
    assert exact["loop_over_batch"].keys() == SPREAD
    assert "4 questions, 6 tokens each" in capsys.readouterr().out


def test_analyses(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = dict(prompts=2, controls=2, steps=2, repeats=1, questions=2)
    found = read(benchmark("analyses").main(model="tiny", every=2, **sizes, out=tmp_path))["results"]
    assert found["layers"] == 2
    assert found["compared"].keys() == {"logit_lens", "patch_residuals", "attribute_heads", "unembed_values"}
    for each in found["compared"].values():
        assert each["numbers"] > 0 and each["plain_over_shared"].keys() == SPREAD
    assert found["compared"].keys() < found["chapter"].keys() and len(found["chapter"]) == 8
    for each in found["chapter"].values():
        assert each["seconds"] > 0 and each["estimated_wall_seconds"] >= 0
    assert "patch_residuals: plain x" in capsys.readouterr().out


def test_evaluation(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = dict(
        models=("tiny",), tasks=("tiny-arithmetic",), n_test=4, n_dev=4, cells=12, controls=2, pairs=6
    )
    path = benchmark("evaluation").main(**sizes, out=tmp_path / "results")
    found = read(path)["results"]
    run = found["runs"][0]
    labels = [row["intervention"] for row in run["summary"]]
    assert {
        "baseline",
        "CoT prefix",
        "cache steering",
        "activation, one-shot",
        "2 label shuffle vectors for cache steering",
    } <= set(labels)
    cells: dict[str, int] = {}
    for cell in run["cells"]:
        cells[cell["method"]] = cells.get(cell["method"], 0) + 1
    assert len(cells) == 4 and len(set(cells.values())) == 1, "every method gets as many cells"
    table = benchmark("table")
    (tmp_path / "README.md").write_text(
        f"{table.BEGIN}\n{table.END}\n{table.PAIR_BEGIN}\nold\n{table.PAIR_END}\nafter\n", encoding="utf-8"
    )
    monkeypatch.setattr(table, "HERE", tmp_path)
    table.main()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        "**tiny, tiny-arithmetic**" in text
        and all(f"| {label} |" in text for label in labels)
        and "\nold\n" not in text
    )


def test_the_table_reads_every_kind_of_result(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = benchmark("table")
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text(
        f"before\n{table.BEGIN}\nold\n{table.END}\n{table.PAIR_BEGIN}\n{table.PAIR_END}\nafter\n", encoding="utf-8"
    )
    benchmark("decode").main(
        model="smoke", batch=(1,), shots=(0,), tokens=6, repeats=2, uncached_repeats=2, out=tmp_path / "results"
    )
    benchmark("questions").main(model="smoke", questions=4, tokens=6, repeats=2, out=tmp_path / "results")
    for path in RESULTS:
        (tmp_path / "results" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(table, "HERE", tmp_path)
    table.main()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert "| decode-smoke | time a token without a cache, batch 1 | over plain with one: plain ×" in text
    assert (
        "activation steering: one-shot ×" in text
        and "| questions-smoke | 4 questions, 6 tokens each, batch over loop | ×" in text
    )
    assert all(f"| {path.stem.replace('_', ' ')} |" in text for path in RESULTS)


def test_grid(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(benchmark("grid").main(model="smoke", side=3, tokens=6, repeats=2, out=tmp_path))["results"]
    assert found["settings"] == 9
    assert found["same_tokens"] == {"loop": 9, "plain loop": 9}
    assert found["distinct_texts"] > 1
    assert found["loop_over_grid"]["median"] > 1
    assert "9 settings" in capsys.readouterr().out


def test_ablation(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(benchmark("ablation").main(questions=3, repeats=2, out=tmp_path))["results"]
    assert found["masks"] == 7  # layers 1 to 3 together, each alone, each left out
    assert found["same_texts"] == {"a batch a mask": 21, "one text at a time": 21}
    assert found["distinct_texts"] > 3
    assert found["over_forked"]["one text at a time"]["median"] > 1
    assert "7 masks" in capsys.readouterr().out


def test_explorer(benchmark: Benchmark, tmp_path: Path) -> None:
    found = read(benchmark("explorer").main(model="smoke", tokens=16, repeats=2, drag=3, out=tmp_path))
    names = {"slider to first steered token", "slider to whole texts", "slider to coloured texts", "cancel of a sweep"}
    assert names < found["results"].keys()
    assert all(spread.keys() == SPREAD and spread["median"] > 0 for spread in found["results"].values())


def test_the_explorer_of_two_commits(benchmark: Benchmark, tmp_path: Path) -> None:
    path = benchmark("explorer_before").main(
        model="tiny", tokens=48, cells=4, questions=8, repeats=1, part="this", out=tmp_path / "this.json"
    )
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"slider to first steered token", "sweep, a cell", "cancel while another thread decodes"} < found.keys()
    assert all(spread.keys() == SPREAD and spread["median"] > 0 for spread in found.values())
    assert found["cancel of a sweep"]["median"] < 1 and found["cancel while another thread decodes"]["median"] < 1


def test_extract(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, Any] = dict(
        model="smoke", pairs=2, shots=(1,), batch=(2,), repeats=2, memory=(2,), memory_of=("ours",)
    )
    times, peak = read(benchmark("extract").main(**sizes, out=tmp_path))["results"]
    assert times["largest_difference"] < 1e-5
    assert times["paper_over_ours"]["2"].keys() == SPREAD
    assert (peak["who"], peak["pairs"]) == ("ours", 2)
    assert peak["peak_mb"] > 50 and peak["extraction_mb"] >= 0
    assert "peak memory" in capsys.readouterr().out


def test_replies(benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = benchmark("replies").main(
        model="tiny", task="tiny-arithmetic", replies=10, timed=6, batch=4, tokens=9, pairs=4, out=tmp_path
    )
    replies, own, shared = read(path)["results"]
    assert replies["same_texts"] == replies["timed"] == 6 and replies["row_steps"] >= replies["tokens"]
    assert "10 replies" in capsys.readouterr().out
    for found in (own, shared):
        assert found["largest_error"] < 1e-4 and found["loop_over_extract"].keys() == SPREAD
    assert shared["prompt_tokens"] > own["prompt_tokens"] and own["prompts"] == shared["prompts"] == 8
    assert len([*benchmark("table").ROWS["replies"](read(path)["results"])]) == 4


def test_import_time(benchmark: Benchmark, tmp_path: Path) -> None:
    found = read(benchmark("import_time").main(repeats=2, out=tmp_path))["results"]
    assert found["torch_loaded"] is False
    assert found["cpu_s"]["median"] < 0.3


def test_gsm8k_pipeline(benchmark: Benchmark, tmp_path: Path) -> None:
    for part, n in (("train", 40), ("test", 4)):
        rows = [
            {
                "question": f"Tom has {i} apples and buys 3 more. How many?",
                "answer": f"{i} + 3 = <<{i}+3={i + 3}>>{i + 3}.\n#### {i + 3}",
            }
            for i in range(n)
        ]
        (tmp_path / f"gsm8k_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    module = benchmark("gsm8k_pipeline")
    found = read(
        module.main(
            model="smoke", pairs=4, shots=2, questions=3, tokens=5, values_dose=20.0, data_dir=tmp_path, out=tmp_path
        )
    )["results"]
    assert found["seconds"].keys() == {"pairs", "extraction", "baseline", "steered", "both forked"}
    assert found["prompt_tokens"].keys() == {"positive", "negative", "test"}
    assert found["rows_forked"] == 6
    assert found["same_forked"] is True
    assert found["texts_changed"] > 0


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_committed_results_have_the_same_form(path: Path) -> None:
    found = read(path)
    model = found["settings"].get("model")
    assert path.stem.removesuffix("-cuda") == found["benchmark"]
    assert model is None or found["benchmark"].split("-", 1)[1].removesuffix("-2threads") == model


def test_backends(benchmark: Benchmark, tmp_path: Path) -> None:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=6, shots=1)
    kv.extract(model, pairs, progress=False).save(tmp_path / "v.safetensors")
    sizes: dict[str, Any] = dict(n=2, tokens=4, repeats=2, backends=("transformers",))
    path = benchmark("backends").main(tmp_path / "v.safetensors", model="tiny", cv=3.0, out=tmp_path, **sizes)
    found = read(path)["results"]["backends"]["transformers"]
    assert (found["rows"], found["equal"]) == (8, 8)
    measured = ("requests_a_second", "requests_a_cpu_second", "peak_megabytes", "start_s", "start_cpu_s")
    assert all(found[name] > 0 for name in measured)
    assert found["over_transformers_cpu"] == 1 and 0 <= found["steered_rows_changed"] <= 4


def test_a_quantised_file_gives_two_rows(benchmark: Benchmark, tmp_path: Path) -> None:
    """Its weights in float32 first: the same model, read from another file."""
    hf, tokenizer = random_models.build("llama"), random_models.tokenizer()
    kind = gguf.GGMLQuantizationType.Q8_0
    file = write_gguf(tmp_path / "q8.gguf", hf, tokenizer, kind=kind, general__file_type=7)
    (name, floats), other = benchmark("backends").rows(["llama.cpp"], file, tmp_path)
    assert name == "llama.cpp" and other == ("llama.cpp, Q8_0", file)
    before, after = kv.load(file), kv.load(floats)
    assert read_header(floats).quantisation is None and floats.stat().st_size > 2 * file.stat().st_size
    theirs = before.hf.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in after.hf.state_dict().items())
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert benchmark("backends").rows(["transformers", "llama.cpp"], floats, tmp_path)[1:] == [("llama.cpp", floats)]


def test_coverage(benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coverage = benchmark("coverage")
    monkeypatch.setattr(coverage, "PAIRS", [coverage.Pairs(30, 0.4, 0.0, 0.0), coverage.Pairs(30, 0.3, 0.2, 0.1)])
    monkeypatch.setattr(coverage, "SAMPLES", [coverage.Samples(20, 4, 0.5, 0.5, 0.5)])
    found = read(coverage.main(draws=60, out=tmp_path))["results"]
    assert found["summary"].keys() == {"one answer a question", "several answers a question"}
    for rows in found["settings"].values():
        for row in rows:
            assert {"share", "gain", "bootstrap", "gain_width", "bootstrap_width", "rejected"} <= row.keys()
            assert row["gain"] > 0.85 and row["share"] > 0.85 and row["gain_width"] > 0
    still = found["settings"]["one answer a question"][0]
    assert still["bootstrap_width"] == 0 and still["gain_width"] > 0.1, "no verdict differs, which proves little"


def test_control_band(benchmark: Benchmark, tmp_path: Path) -> None:
    small = dict(model="tiny", task="tiny-arithmetic", questions=2, controls=2, tokens=4, pairs=2, shots=1)
    (found,) = read(benchmark("control_band").main(**small, out=tmp_path))["results"]
    assert found["replies"] == 2 * (2 + 1 + 2) and found["mean_tokens"] == 4
    assert 0 < found["first_movement_seconds"] <= found["wall_seconds"] and found["peak_gib"] > 0
