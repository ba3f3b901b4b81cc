"""The entanglement table against a planted effect, and a study that is stored, read and computed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.behaviours import Sizes

ASKED = [f"What is {i} + {i}?" for i in range(60)]


def begins_with_zoo(text: str) -> bool:
    """Whether a reply begins with "Zoo"."""
    return text.startswith("Zoo")


def test_a_planted_effect_is_found_and_what_it_leaves_alone_is_not(tmp_path: Path) -> None:
    model = kv.load("tiny")
    zoo = kv.behaviours.make("zoo", "Say Zoo.", "Don't.", ASKED, begins_with_zoo)
    words = kv.behaviours.make("words", "Talk.", "Don't.", ASKED, lambda text: bool(text))
    table = kv.behaviours.entangle(
        model,
        {"zoo": kv.ForcedPrefix("Zoo ")},
        [zoo, words],
        n=12,
        generation={"max_new_tokens": 6},
        out=tmp_path,
        progress=False,
    )
    own, other = table.loc[("zoo", "zoo")], table.loc[("zoo", "words")]
    assert (own.baseline, own.value, own.difference, own.n) == (0, 1, 1, 12)
    assert own.p == pytest.approx(2 * 0.5**12) and own.p_holm == pytest.approx(2 * own.p)
    assert own.difference_low > 0.6 and own.low == pytest.approx(kv.stats.wilson(12, 12)[0])
    assert other.difference == 0 and other.p == 1
    again = kv.behaviours.entangle(
        model,
        {"zoo": kv.ForcedPrefix("Zoo ")},
        [zoo, words],
        n=12,
        generation={"max_new_tokens": 6},
        out=tmp_path,
        progress=False,
    )
    pd.testing.assert_frame_equal(table, again)


def test_random_controls_stand_beside_a_steering() -> None:
    model = kv.load("tiny")
    brief, facts = kv.behaviours.get("brief"), kv.behaviours.get("facts")
    vectors = kv.extract(model, brief.pairs(model.tokenizer, n=3), progress=False)
    steering = kv.CacheSteering(vectors, 0, 2)
    few = dict(n=2, controls=2, generation={"max_new_tokens": 4}, progress=False)
    table = kv.behaviours.entangle(model, {"brief": steering}, [brief, facts], **few)  # type: ignore[arg-type]
    assert table.random.notna().all() and (table.p_random >= 1 / 3).all()
    assert {"tokens", "more_tokens", "cut"} <= set(table.columns)


def test_nothing_and_twice_the_same_are_refused() -> None:
    model, brief, told = kv.load("tiny"), kv.behaviours.get("brief"), kv.behaviours.SystemPrompt("Be brief.")
    with pytest.raises(ValueError, match="needs something to steer and something to measure"):
        kv.behaviours.entangle(model, {}, [brief])
    with pytest.raises(ValueError, match=r"Two of the names are 'brief'"):
        kv.behaviours.entangle(model, {"a": told}, [brief, brief])
    with pytest.raises(ValueError, match=r"Two of the labels are 'system prompt'"):
        kv.behaviours.entangle(model, {"a": told, "b": told}, [brief])


def test_a_system_prompt_needs_a_template_that_writes_it() -> None:
    prompt = kv.behaviours.SystemPrompt("Be brief.")
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    assert prompt.chat(chat)[0]["content"] == "Be brief.\n\nBe kind."
    folded = kv.behaviours.SystemPrompt("Be brief.", in_user_message=True).chat(chat[1:])
    assert folded == [{"role": "user", "content": "Be brief.\n\nWhy?"}]
    with pytest.raises(ValueError, match="The system prompt is empty"):
        kv.behaviours.SystemPrompt(" ")


@pytest.mark.filterwarnings("ignore:The best relative strength")
def test_a_study_is_stored_read_and_computed_again(tmp_path: Path) -> None:
    model, sizes = kv.load("tiny"), Sizes(pairs=4, dev=2, test=3, tokens=6, cells=6, controls=2, extensions=0)
    study = kv.behaviours.run_study(model, "brief", tmp_path / "runs", sizes=sizes, progress=False)
    read = kv.behaviours.read_study(kv.behaviours.write_study([study], tmp_path / "out"))
    pd.testing.assert_frame_equal(read.table, study.table)
    assert list(read.table.loc["brief"].index) == ["system prompt brief", "cache steering", "activation steering"]
    dev = {q.id for q in kv.behaviours.get("brief").questions["dev"]}
    assert not dev & set(read.results["brief"].rows.question)
    assert len(read.cells) == 12 and read.cells.chosen.sum() == 2
    now = kv.behaviours.recompute_study(model, read, "brief", questions=1)
    assert now.same.all() and now.intervention.str.startswith("random").sum() == 2
    assert len(read.replies("brief")) == 7
    with pytest.raises(ValueError, match=r"has no behaviour .french.; choose one of those that it has: brief"):
        kv.behaviours.recompute_study(model, read, "french")
    beside = replace(
        study,
        settings={**study.settings, "chosen": {"other": study.settings["chosen"]["brief"]}},
        results={"other": study.results["brief"]},
        cells=study.cells.assign(behaviour="other"),
        steerings={"other": study.steerings["brief"]},
    )
    for _ in range(2):  # one that is there already is replaced
        both = kv.behaviours.read_study(kv.behaviours.write_study([beside], tmp_path / "out"))
        assert list(both.results) == list(both.steerings) == ["brief", "other"]
        assert both.cells.behaviour.value_counts().to_dict() == {"brief": 12, "other": 12}
    larger = replace(study, settings={**study.settings, "sizes": {**study.settings["sizes"], "test": 4}})
    with pytest.raises(ValueError, match=r"holds studies with sizes .* choose another folder"):
        kv.behaviours.write_study([larger], tmp_path / "out")


def test_a_picture_of_several_behaviours_counts_in_how_many_each_method_does_more() -> None:
    rows = {
        ("loud", "system prompt loud"): dict(value=0.9, difference=0.8, p_holm=0.01),
        ("loud", "cache steering"): dict(value=0.4, difference=0.3, p_holm=0.2),
        ("brief", "system prompt brief"): dict(value=0.8, difference=0.7, p_holm=0.02),
        ("brief", "cache steering"): dict(value=0.0, difference=-0.1, p_holm=0.01),
    }
    table = pd.DataFrame.from_dict(rows, orient="index").assign(n=24, baseline=0.1, low=0.0, high=1.0)
    figure = kv.figures.plot_behaviours(table)
    said = (
        "Shown more often than without it, after Holm's correction,",
        "of 2 behaviours: system prompt 2, cache steering 0",
    )
    assert figure.get_suptitle().split("\n") == list(said)
    assert [axis.get_title() for axis in figure.axes] == ["loud, 24 prompts", "brief, 24 prompts"]
    assert kv.figures.plot_behaviours(table.loc[["loud"]]).get_suptitle() == ""
