"""Replies that were labelled by hand; run, this file writes the tables of `docs/style_labels.md`."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import kvsteer_lab as kv

FIXTURES = Path(__file__).parent / "fixtures"
PAGE = Path(__file__).parents[1] / "docs" / "style_labels.md"
HALVES = ("development", "report")


def labels(name: str) -> list[dict[str, Any]]:
    """The rows of a file of labels."""
    rows: list[dict[str, Any]] = json.loads((FIXTURES / f"style_labels_{name}.json").read_text())
    return rows


def written(half: str) -> list[tuple[str, str]]:
    """Replies of SmolLM2 and Gemma to our own questions, with their labels."""
    return [(row["text"], row["label"]) for row in labels("written") if row["half"] == half]


def of_sources(half: str) -> list[tuple[str, str]]:
    """Demonstrations and replies whose texts lie in `KVSTEER_DATA_DIR`, with their labels.

    Raises:
        ValueError: a text isn't the one that was labelled.
    """
    rows = [row for row in labels("sources") if row["half"] == half]
    texts = dict(_texts(Path(os.environ["KVSTEER_DATA_DIR"])))
    found = []
    for row in rows:
        text = texts.get(_key(row))
        if text is None and row["source"] == "generated":
            continue  # the texts of these were not kept everywhere
        if text is None or hashlib.sha256(text.encode()).hexdigest()[:16] != row["sha256"]:
            raise ValueError(f"The text of {_key(row)} isn't the one that was labelled.")
        found.append((text, row["label"]))
    return found


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    names = {"released": ("file",), "gsm8k": ("style",), "generated": ("model", "condition")}.get(row["source"], ())
    return (row["source"], *(row[name] for name in names), row["id"])


def _texts(folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    files = {row["file"] for row in labels("sources") if row["source"] == "released"}
    with tarfile.open(folder / "paper_results.tar.xz") as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            stream = archive.extractfile(member) if name in files else None
            for sample in json.load(stream)["samples"] if stream else ():
                yield ("released", name, sample["id"]), sample["response"]
    task = kv.tasks.get("gsm8k", data_dir=folder)
    for question in [q for split in ("extraction", "dev") for q in task.questions(split)]:
        for style, reply in question.replies.items():
            yield ("gsm8k", style, question.id), reply
    for name in ("arc_challenge", "commonsense_qa", "piqa"):
        for line in (folder / "traces" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            yield (f"traces/{name}", row["id"]), row["text"]
    kept = folder / "style_replies.jsonl"
    for line in kept.read_text().splitlines() if kept.exists() else ():
        row = json.loads(line)
        yield ("generated", row["model"], row["condition"], row["id"]), row["text"]


def table(pairs: list[tuple[str, str]]) -> str:
    """The table of the page for some labelled replies."""
    found = kv.tasks.validate_detectors(pairs)
    lines = ["| style | labelled | detected | precision | recall | kappa |", "|---|--:|--:|---|---|---|"]
    for row in found.to_dict("records"):
        shown = [_interval(row, name) for name in ("precision", "recall", "kappa")]
        lines.append(f"| {row['label']} | {row['given']} | {row['found']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _interval(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if pd.isna(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def block(name: str, pairs: list[tuple[str, str]]) -> str:
    """A table between the marks by which the page and the tests find it."""
    return f"<!-- {name} -->\n\n{table(pairs)}\n\n<!-- end -->"


def main() -> None:
    """Write the tables into the page."""
    text = PAGE.read_text()
    for half in HALVES:
        known = {f"written, {half}": written(half)}
        if "KVSTEER_DATA_DIR" in os.environ:
            known[f"sources, {half}"] = of_sources(half)
        for name, pairs in known.items():
            start = text.index(f"<!-- {name} -->")
            text = text[:start] + block(name, pairs) + text[text.index("<!-- end -->", start) + len("<!-- end -->") :]
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
