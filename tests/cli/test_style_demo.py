"""The demo on a pretrained model, here on the bundled one: which style a reply opens in, beside random vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.cli import style_demo
from kvsteer_lab.cli.style_demo import format_adoption, run_style_demo, verdict
from kvsteer_lab.figures import read_stamp


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(style_demo, "DOSES", (0.01, 2.0))
    out = tmp_path_factory.mktemp("demo")
    yield run_style_demo(out, model="tiny", n=6, controls=3, n_dev=3, pairs=4, shots=1)
    patch.undo()


def test_it_finds_what_is_there_and_chooses_the_dose_that_works(demo):
    assert demo.doses["causal_chain"] == 2.0
    own = demo.table.set_index(["style", "vector"]).adopted
    assert own["causal_chain", "steering"] == 1 and own["causal_chain", "baseline"] == 0
    assert own["causal_chain"].filter(like="random").size == 3
    assert (demo.table.low <= demo.table.adopted).all() and (demo.table.adopted <= demo.table.high).all()


def test_everything_is_written_and_the_figure_says_what_it_plots(demo):
    assert all(file.is_file() for file in demo.files)
    picture = next(file for file in demo.files if file.name == "styles.png")
    assert [name for name, _ in read_stamp(picture).models] == ["tiny"]
    plotted = pd.read_csv(picture.with_suffix(".csv"))
    assert len(plotted) == len(demo.table)
    assert kv.Results.load(next(file for file in demo.files if file.suffix == ".parquet")).rows.equals(
        demo.results.rows
    )


def row(**changes: float) -> dict[str, object]:
    plain = dict(
        adopted=0.9, low=0.7, high=1.0, baseline=0.0, forced=0.2, random=0.0, highest=0.1, p=0.001, p_random=0.25
    )
    return {"opening": "Step", **plain, "p_holm": 0.001, **changes}


def test_words_follow_from_the_numbers():
    made = pd.DataFrame(
        {
            "works": row(),
            "no better than random": row(p_random=0.5),
            "not significant": row(p_holm=0.2),
            "as the first word": row(forced=0.95),
        }
    ).T.infer_objects()
    said = verdict(made, controls=3, n=16)
    first, rest, forced, cut = said.splitlines()
    assert first.startswith("In works, as the first word the vectors bring the style more often")
    assert rest.startswith("In no better than random, not significant that is not shown on 16 questions")
    assert forced.startswith(
        "A response prefill with the style's first token does at least as much in as the first word"
    )
    assert "nothing here is about right answers" in cut
    assert "0.90 [0.70, 1.00]" in format_adoption(made, dict.fromkeys(made.index, 1.2))


def test_where_no_dose_brings_any_style_it_says_so_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(style_demo, "DOSES", (0.01,))
    with pytest.raises(
        ValueError, match="No strength of any vectors brings its style to 'tiny' on 2 development questions"
    ):
        run_style_demo(tmp_path / "out", model="tiny", n=2, controls=1, n_dev=2, pairs=2, shots=1)
    assert not (tmp_path / "out").exists()


def test_a_bundled_model_gets_the_organism_s_story_and_any_other_this_one(monkeypatch, tmp_path):
    from kvsteer_lab.cli.main import main

    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr("kvsteer_lab.cli.demo.run_demo", lambda out, **asked: told.append(("organism", asked)))
    monkeypatch.setattr(
        "kvsteer_lab.cli.style_demo.run_style_demo", lambda out, **asked: told.append(("styles", asked))
    )
    main(["demo"])
    main(["demo", "--model", "tiny-control", "--n", "3"])
    main(["demo", "--model", "smollm2-135m", "--controls", "5"])
    assert told == [
        ("organism", {"model": "tiny", "n": 100, "controls": 40}),
        ("organism", {"model": "tiny-control", "n": 3, "controls": 40}),
        ("styles", {"model": "smollm2-135m", "n": 16, "controls": 5}),
    ]


def test_the_committed_picture_is_of_the_numbers_beside_it():
    docs = Path(__file__).resolve().parents[2] / "docs"
    stamp = read_stamp(docs / "demo_real.png")
    assert stamp.models[0][0] == "smollm2-135m"
    assert stamp.csv_sha256 == hashlib.sha256((docs / "demo_real.csv").read_bytes()).hexdigest()
    table = pd.read_csv(docs / "demo_real.csv")
    assert set(table.n) == {16} and (table.vector.str.startswith("random")).sum() == 80
    steered = table[table.vector == "steering"].set_index("style").adopted
    random = table[table.vector.str.startswith("random")].groupby("style").adopted.max()
    assert (steered > random[steered.index]).all() and table[table.vector == "baseline"].adopted.max() < 0.2
