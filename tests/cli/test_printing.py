"""Terminal escapes in names and texts are printed as text, by every command."""

from __future__ import annotations

import ast
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from nasty import NASTY, made_up

import kvsteer_lab as kv
from kvsteer_lab._util.text import visible
from kvsteer_lab.cli.main import main
from kvsteer_lab.cli.printing import say_line, say_text, visible_warnings

CLI = Path(kv.__file__).parent / "cli"
RED = "\x1b[31mred\x1b]0;owned\x07"


def acting(text: str) -> list[str]:
    """Characters that would do something to a terminal."""
    return [c for c in text if (ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066"]


@pytest.mark.parametrize("text", [*NASTY, *made_up(40)])
def test_what_is_printed_is_what_was_written(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_text(text)
    say_line(text)
    out = capsys.readouterr().out
    assert out == f"{visible(text)}\n{visible(text, one_line=True)}\n" and not acting(out.replace("\t", ""))
    out.encode()


def test_only_one_file_of_the_command_line_prints() -> None:
    found = {
        path.name
        for path in CLI.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert found == {"printing.py"}


def test_info_on_a_file_with_escapes_in_its_card(
    tmp_path: Path, vectors: kv.KVVectors, capsys: pytest.CaptureFixture[str]
) -> None:
    card = replace(vectors.card, model=RED + "\nn_pairs: 1000", recipe={"task": RED}, history=(f"a{RED}",))
    replace(vectors, card=card).save(tmp_path / "v.safetensors")
    main(["info", str(tmp_path / "v.safetensors")])
    out = capsys.readouterr().out
    assert not acting(out) and "model: \\x1b[31mred" in out and "\nn_pairs: 1000" not in out


def test_info_on_results_with_escapes_in_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    method = kv.ForcedPrefix("Step", name=RED)
    results = kv.evaluate(model, task, [kv.Nothing(), method], n=1, generation={"max_new_tokens": 2}, progress=False)
    results.save(tmp_path / "r.parquet")
    main(["info", str(tmp_path / "r.parquet")])
    out = capsys.readouterr().out
    assert not acting(out) and "\\x1b[31mred" in out


def test_figure_info_on_a_stamp_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.5, 4]})
    kv.save_figure(kv.figures.plot_relative_norms(table), tmp_path / "a")
    svg = tmp_path / "a.svg"
    stamped = svg.read_text(encoding="utf-8").replace('"figure": "a"', '"figure": "\\u001b[31ma\\nseed: 7"')
    svg.write_text(stamped, encoding="utf-8")
    main(["figure-info", str(svg)])
    out = capsys.readouterr().out
    assert not acting(out) and out.splitlines()[0] == "figure: \\x1b[31ma\\nseed: 7"


def test_errors_and_warnings_are_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["info", f"{RED}.safetensors"])
    assert not acting(str(stopped.value.code)) and "\\x1b[31mred" in str(stopped.value.code)
    with visible_warnings():
        assert not acting(warnings.formatwarning(f"of {RED}", UserWarning, "f.py", 1, ""))
    assert acting(warnings.formatwarning(f"of {RED}", UserWarning, "f.py", 1, ""))
