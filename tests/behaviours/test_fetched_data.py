"""CAA's and repeng's data, from a local stand-in for their repositories."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvsteer_lab as kv

ROW = {
    "question": "Do you like tea {}?\n\nChoices:\n(A) Yes.\n(B) No.",
    "answer_matching_behavior": " (B)",
    "answer_not_matching_behavior": " (A)",
}


def rows(n: int, word: str) -> list[dict[str, str]]:
    return [{**ROW, "question": ROW["question"].format(f"{word} {i}")} for i in range(n)]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the stand-in serves by the end of the path; `asked` counts requests."""
    files: dict[str, Any] = {
        "asked": 0,
        "generate/refusal/generate_dataset.json": rows(50, "now"),
        "test/refusal/test_dataset_ab.json": rows(6, "later"),
        "test/refusal/test_dataset_open_ended.json": [{"question": f"Is it {i}?"} for i in range(20)],
        "notebooks/data/all_truncated_outputs.json": ["", "I think", "I think", "We went to"],
        "notebooks/data/true_facts.json": ["Fire needs oxygen."],
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files["asked"] += 1
            found = next((value for end, value in files.items() if end != "asked" and self.path.endswith(end)), None)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *args: Any) -> None:
            """Be silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KVSTEER_RAW_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KVSTEER_CACHE_DIR", str(tmp_path / "cache"))
    yield files
    server.shutdown()
    server.server_close()


def test_caa_is_fetched_once_and_its_own_test_set_stays_test(served: dict[str, Any]) -> None:
    found = kv.behaviours.get("caa-refusal")
    assert served["asked"] == 3 and kv.behaviours.get("caa-refusal").choices == found.choices
    assert served["asked"] == 3
    assert [len(found.choices[split]) for split in ("extraction", "dev", "test")][2] == 6
    assert len(found.choices["extraction"]) + len(found.choices["dev"]) == 50 and found.choices["dev"]
    assert found.card.licence == "MIT" and len(found.card.sha256) == 3 and "e1fce128" in found.card.source
    assert "first fetch" in found.card.note


def test_caa_s_pairs_end_at_the_letter_and_are_scored_by_it(served: dict[str, Any]) -> None:
    model, found = kv.load("tiny"), kv.behaviours.get("caa-refusal")
    pairs = found.pairs(model.tokenizer, n=4)
    assert all(p.endswith("assistant\n(B") and n.endswith("assistant\n(A") for p, n in pairs)
    table = kv.behaviours.choice_odds(model, found.choices["test"], kv.ForcedPrefix("Well, "))
    assert len(table) == 12 and set(table.intervention) == {"baseline", "forced 'Well, '"}
    first = table[(table.question == 0) & (table.intervention == "baseline")].iloc[0]
    asked = found.choices["test"][0].question
    matching, other = kv.score(model, [asked, asked], ["(B)", "(A)"]).totals
    assert first.log_odds == pytest.approx(matching - other, abs=1e-4) and first.matches == (matching > other)


def test_repeng_s_openings_make_pairs(served: dict[str, Any]) -> None:
    found = kv.behaviours.get("repeng-happy")
    assert found.kinds == ("shared openings",) and found.shared_openings == ("I think", "We went to")
    pairs = found.pairs(kv.load("tiny").tokenizer)
    assert "extremely happy" in pairs.positive[0] and pairs.positive[0].endswith("I think") and len(pairs) == 2
    assert kv.behaviours.fetch_repeng("honest") == ["Fire needs oxygen."]


def test_a_file_that_changed_in_the_cache_is_refused(served: dict[str, Any], tmp_path: Path) -> None:
    kv.behaviours.get("repeng-honest")
    (path,) = (tmp_path / "cache").rglob("true_facts.json")
    path.write_text('["Fire needs no oxygen."]')
    with pytest.raises(ValueError, match=r"true_facts.json has changed since it was fetched; delete it"):
        kv.behaviours.get("repeng-honest")


def test_a_copy_that_was_put_there_is_used_without_a_network(served: dict[str, Any], tmp_path: Path) -> None:
    del served["notebooks/data/true_facts.json"]
    with pytest.raises(OSError, match=r"could not be fetched from http.+; put a copy at (.+)\.$") as refused:
        kv.behaviours.get("repeng-honest")
    place = Path(str(refused.value).rpartition("put a copy at ")[2].removesuffix("."))
    place.parent.mkdir(parents=True)
    place.write_text('["Snow is cold."]')
    assert kv.behaviours.get("repeng-honest").shared_openings == ("Snow is cold.",)


def test_another_schema_is_one_sentence(served: dict[str, Any]) -> None:
    served["notebooks/data/true_facts.json"] = {"facts": []}
    with pytest.raises(ValueError, match=r"true_facts.json has another schema than expected: .+; delete the copy\.$"):
        kv.behaviours.get("repeng-honest")
