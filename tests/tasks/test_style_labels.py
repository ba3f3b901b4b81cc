"""The detectors against labels given by hand: the page's tables are recomputed, and fall if the detectors do."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from labelled_replies import HALVES, PAGE, block, labels, of_sources, written
from opening_rules import style_by_opening

import kvsteer_lab as kv
from kvsteer_lab.evaluation.readings import read_reply
from kvsteer_lab.tasks.styles import STYLES, detect_style


def shown(name: str) -> str:
    """The page's table of that name, with its marks."""
    found = re.search(rf"<!-- {name} -->.*?<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert found, name
    return found[0]


@pytest.mark.parametrize("half", HALVES)
def test_the_page_shows_what_the_detectors_do(half: str) -> None:
    assert shown(f"written, {half}") == block(f"written, {half}", written(half))


@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs the texts of released replies and traces")
@pytest.mark.parametrize("half", HALVES)
def test_the_page_shows_what_the_detectors_do_on_texts_kept_elsewhere(half: str) -> None:
    if (Path(os.environ["KVSTEER_DATA_DIR"]) / "style_replies.jsonl").exists():
        assert len(of_sources(half)) > 60
    else:
        assert shown(f"sources, {half}") == block(f"sources, {half}", of_sources(half))


def test_replies_are_labelled_once_and_by_known_styles() -> None:
    rows = labels("written")
    hashes = [hashlib.sha256(row["text"].encode()).hexdigest()[:16] for row in rows]
    hashes += [row["sha256"] for row in labels("sources")]
    assert len(hashes) == len(set(hashes)) == 204
    assert len({row["prompt"] for row in rows}) >= 60
    for row in [*rows, *labels("sources")]:
        assert row["label"] in (*STYLES, "other") and row["half"] in HALVES


def test_replies_that_were_not_read_before_are_told_better_than_by_their_opening() -> None:
    pairs = written("report")
    now = kv.tasks.validate_detectors(pairs).set_index("label").kappa["all"]
    before = kv.stats.agreement([label for _, label in pairs], [style_by_opening(text) for text, _ in pairs])
    assert now > before.set_index("label").kappa["all"] + 0.1


def test_reasoned_and_direct_follow_the_style() -> None:
    task = kv.tasks.get("tiny-arithmetic")
    question = task.questions("dev", 1)[0]
    for text, _ in [*written("development"), *written("report")]:
        row = read_reply(task, question, text, "", None)
        assert row["style"] == detect_style(text)
        assert row["reasoned"] == (row["style"] in kv.tasks.REASONING_STYLES)


@pytest.mark.parametrize(
    ("labelled", "message"),
    [([("B", "brief")], "'brief' is no style"), ([], "one at least")],
)
def test_bad_labels_are_refused(labelled: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.tasks.validate_detectors(labelled)


@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs GSM8K and a teacher's traces")
def test_demonstrations_of_benchmarks_are_recognised() -> None:
    folder = Path(os.environ["KVSTEER_DATA_DIR"])
    human = [question.replies["stepwise"] for question in kv.tasks.get("gsm8k").questions("dev")]
    assert sum(detect_style(text) == "stepwise" for text in human) / len(human) > 0.98
    for name, least in (("arc_challenge", 0.55), ("commonsense_qa", 0.8), ("piqa", 0.7)):
        traces = kv.traces.Traces.load(folder / "traces" / f"{name}.jsonl")
        assert sum(detect_style(trace.text) == "stepwise" for trace in traces) / len(traces) > least
