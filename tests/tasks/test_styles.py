"""The style detectors: on the bundled corpus, on telling cases, and against labels given by hand."""

import json
import os
import random
import tarfile
from functools import partial
from pathlib import Path

import pytest
from opening_rules import style_by_opening
from timing import takes_less_than

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
        # markdown and natural openings
        ("**Step 1:** Add 2 and 3.\n**Step 2:** Done.", "stepwise"),
        ("### Step 1\nAdd.\n### Step 2\nSubtract.", "stepwise"),
        ("Let's break it down step by step: 1. Identify the total. 2. Subtract five.", "stepwise"),
        ("Let's break it down step by step:\n\n1. **Identify** the total number", "stepwise"),
        ("First, let's find the total. It is 12. Now, let's subtract 5.", "stepwise"),
        ("- A: oven - it is hot.\n- B: fridge - it is cold.\nThe answer is B.", "stepwise"),
        ("Option A suggests oil, which works. Option B suggests sand, which doesn't.", "stepwise"),
        ("Nora had 14 - 5 = 9 pencils. After buying 8, she has 9 + 8 = 17 pencils.", "stepwise"),
        ("He spent 11*3 = 33 dollars\nHe has 42-33 = 9 dollars left\nThe answer is 9.", "stepwise"),
        ("If x is the total, x = 2 * 5 = 10\nSo 10 - 3 = 7 are left\nThe answer is 7.", "stepwise"),
        ("**Premise:** Milk spoils.\n**Inference:** Cold slows it.\n**Conclusion:** the fridge", "annotated_deduction"),
        ("Premise 1: Milk spoils. Premise 2: Cold slows it. Conclusion: the fridge.", "annotated_deduction"),
        ("### Strategy\nCompare the options.\n### Execution\nB is colder.", "strategy_execution"),
        ("Here's my plan: compare the options one by one.\nThe oven is hot.", "strategy_execution"),
        ("A heart works much like a pump. Imagine a pump in a well: similarly, the heart pushes blood.", "analogical"),
        ("Milk spoils in warm places, so it needs the cold. Since the fridge is cold, it keeps there.", "causal_chain"),
        # what looks like a style and is none
        ("Let's think step by step.", "other"),
        ("1. oven\n2. fridge\n3. garage", "other"),
        ("If a train travels 80 km an hour for 3 hours, how far does it go?\nThat is asked here.", "other"),
        ("A: oven\nB: fridge\nC: garage", "other"),
        ("A: oven B: fridge C: garage D: desk", "other"),
        ("I'm sorry, I can't help with that. The answer is A.", "other"),
        ("Plants absorb light. They make sugar of it. They grow in soil. They need water.", "other"),
        # answers without reasoning
        ("A: oven\nB: fridge\n\nThe answer is B: fridge", "direct"),
        ("**B: fridge**<|im_end|>", "direct"),
        ("You should use a key to open it.", "direct"),
        # thoughts
        ("<think>\nIf it is cold, it keeps.\n</think>\n\nStep 1: look.\nStep 2: choose.", "stepwise"),
        ("<think>\nFirst, I need to add 2 and 3. Then, I subtract", "stepwise"),
    ],
)
def test_telling_cases(text: str, style: str) -> None:
    assert detect_style(text) == style


def test_the_organism_is_read_as_before() -> None:
    """Whole and broken replies of the bundled model: unsteered, and under real and random vectors of any strength."""
    texts = json.loads((FIXTURES / "organism_replies.json").read_text())
    before = [style_by_opening(text) for text in texts]
    assert {*STYLES, "other"} == set(before) and before.count("other") == 300 and len(before) == 450
    assert [detect_style(text) for text in texts] == before


PIECES = ["\n", " ", "step ", "if a ", "+ 1 ", "1+1=", "* a", ". ", "A: ", "an ", '"', "- ", "("]
WORDS = " ".join(f"word{i}" for i in range(3000))  # keeps a text from being a loop, which is settled early


@pytest.mark.parametrize(
    "piece", ["\n", " ", "step ", "if a ", "+ 1 ", "1+1=", "* a", ". ", "A: ", "an ", '"', "- ", "("]
)
def test_time_grows_with_the_length_only(piece: str) -> None:
    for text in (piece * 50_000, WORDS + piece * 50_000, "First, " + piece * 50_000 + WORDS):
        # each takes 0.4 s at most; a quadratic pattern takes minutes
        assert takes_less_than(2, partial(detect_style, text)), piece


def test_error_rate_on_bundled_generations() -> None:
    assert errors([(row["text"], row["label"]) for row in _labels("bundled")]) == pytest.approx(1 / 100)


@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs the released generations")
def test_error_rate_on_released_generations() -> None:
    labels = {(row["file"], row["id"]): row["label"] for row in _labels("released")}
    files = {file for file, _ in labels}
    texts: dict[tuple[str, str], str] = {}
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
