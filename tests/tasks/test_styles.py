"""The style detectors: on the bundled corpus, on telling cases, and against labels given by hand."""

import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from kvsteer_lab.tasks.bundled.questions import draw
from kvsteer_lab.tasks.bundled.replies import WORDINGS, reply
from kvsteer_lab.tasks.styles import REASONING_STYLES, STYLES, detect_style, is_reasoned

FIXTURES = Path(__file__).parents[1] / "fixtures"


def errors(labelled: list[tuple[str, str]]) -> float:
    """The share of (text, label) that the detector gets wrong."""
    return sum(detect_style(text) != label for text, label in labelled) / len(labelled)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wording", range(WORDINGS))
def test_every_reply_of_the_corpus_is_detected(style: str, wording: int) -> None:
    rng = random.Random(0)
    for _ in range(50):
        text = reply(draw(rng, "dev"), style, wording)
        assert detect_style(text) == style
        assert detect_style("\n" + text) == style
        assert is_reasoned(text) == (style in REASONING_STYLES)


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("", "other"),
        ("The answer is 7.", "direct"),
        ("B", "direct"),
        ("(C) the atom", "direct"),
        ("Step 1: read the question.\nStep 2: choose.", "stepwise"),
        ("First, loosen the shoes. Next, put on socks.", "stepwise"),
        ("Strategy: compare the options. Solution: A is larger.", "strategy_execution"),
        ("Strategy:\n\n" * 60, "other"),
        ("If it rains then the ground is wet. The answer is A.", "causal_chain"),
        ("[Premise] It rains. [Inference] The ground is wet.", "annotated_deduction"),
        ("[A] the ground is wet\n[B] the ground is dry\n\nExplanation: it depends on whether it rains.", "other"),
        ("Just like a pot on a stove, the lake warms.", "analogical"),
        ("A right 2 = C. C flip = B. The answer is B.", "other"),
    ],
)
def test_telling_cases(text: str, style: str) -> None:
    assert detect_style(text) == style


def test_error_rate_on_bundled_generations() -> None:
    assert errors([(row["text"], row["label"]) for row in _labels("bundled")]) == pytest.approx(1 / 100)


@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs the released generations")
def test_error_rate_on_released_generations() -> None:
    labels = {(row["file"], row["id"]): row["label"] for row in _labels("released")}
    files = {file for file, _ in labels}
    texts = {}
    with tarfile.open(Path(os.environ["KVSTEER_DATA_DIR"]) / "paper_results.tar.xz") as archive:
        for member in archive:
            name = next((file for file in files if member.name.endswith(file)), None)
            stream = archive.extractfile(member) if name else None
            if name and stream:
                texts |= {(name, sample["id"]): sample["response"] for sample in json.load(stream)["samples"]}
    assert errors([(texts[key], label) for key, label in labels.items()]) == pytest.approx(8 / 150)


def _labels(name: str) -> list[dict[str, str]]:
    labels: list[dict[str, str]] = json.loads((FIXTURES / f"style_labels_{name}.json").read_text())
    return labels
