"""What the explorer writes and reads: figures, vectors and states, as they were at the click, with their provenance."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
from explorer_bench import PATIENCE, Made, busy, find, said, text_of, until

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.state import FIGURES, ExplorerState
from kvsteer_lab.figures.stamp import read_stamp


def test_figures_are_saved_once_and_not_overwritten(explorer: Explorer, tmp_path: Path) -> None:
    explorer.set(sweep_questions=2)
    explorer.sweep()
    explorer.look()
    assert explorer.wait(PATIENCE)
    for which in FIGURES:
        find(explorer, "kv-figure").value = which
        find(explorer, "kv-figure-path").value = str(tmp_path / which.split()[1])
        find(explorer, "kv-save-figure").click()
        assert said(explorer, "kv-keep-status").startswith("Written: "), which
    assert sorted(path.name for path in tmp_path.glob("pairs.*")) == [
        "pairs.csv",
        "pairs.pdf",
        "pairs.png",
        "pairs.svg",
    ]
    assert len(list(tmp_path.iterdir())) == 12
    (tmp_path / "pairs.csv").write_text("old")
    find(explorer, "kv-save-figure").click()
    assert (
        "exists; choose another name" in said(explorer, "kv-keep-status")
        and (tmp_path / "pairs.csv").read_text() == "old"
    )
    find(explorer, "kv-overwrite").value = True
    find(explorer, "kv-save-figure").click()
    assert said(explorer, "kv-keep-status").startswith("Written") and (tmp_path / "pairs.csv").read_text() != "old"


def test_a_figure_tells_the_seed_of_what_it_shows(explorer: Explorer, tmp_path: Path) -> None:
    explorer.set(sweep_questions=1, seed=3, geometry_layer=2, geometry_part="keys")
    explorer.sweep()
    assert explorer.wait(PATIENCE)
    gate = busy(explorer)
    explorer.set(seed=7, geometry_layer=1, geometry_part="values")  # nothing is made with this yet
    for which, seed in zip(FIGURES, (3, 3, None), strict=True):
        explorer.save_figure(which, str(tmp_path / which.split()[1]))
        assert read_stamp(tmp_path / f"{which.split()[1]}.png").seed == seed, which
    assert "layer 2, keys" in (tmp_path / "pairs.svg").read_text()
    gate.set()


def test_what_is_saved_is_what_was_there_at_the_click_whatever_runs_and_stops(
    explorer: Explorer, made: Made, tmp_path: Path
) -> None:
    explorer.set(sweep="ck x cv", sweep_ck=tuple(range(4)), sweep_cv=tuple(range(9)), sweep_questions=1)
    explorer.sweep()
    until(lambda: explorer.swept is not None and len(explorer.swept.done) >= 3)
    gate, before = busy(explorer), explorer.state
    explorer.save_state(str(tmp_path / "state.json"))
    explorer.save_vectors(str(tmp_path / "vectors.safetensors"))
    explorer.save_figure(FIGURES[1], str(tmp_path / "sweep"))
    done = len(explorer.swept.done)  # type: ignore[union-attr]
    explorer.cancel()
    explorer.set(cv=0.5, mix={"analogical": 1.0})
    gate.set()
    assert explorer.wait(PATIENCE)
    assert ExplorerState.load(tmp_path / "state.json") == before
    torch.testing.assert_close(
        kv.KVVectors.load(tmp_path / "vectors.safetensors").values, made.vectors["stepwise"].values
    )
    assert len(pd.read_csv(tmp_path / "sweep.csv")) == done + 1


def test_figures_of_what_is_not_there_are_refused(made: Made, tmp_path: Path) -> None:
    explorer = kv.explore(
        made.model, made.vectors["stepwise"], state=made.state(task=None, prompt=" ", arms=("baseline",))
    )
    for which in FIGURES:
        explorer.save_figure(which, str(tmp_path / "fig"))
        assert "There " in said(explorer, "kv-keep-status") and not list(tmp_path.iterdir())
    explorer.save_figure(FIGURES[0], " ")
    assert "name of the figure is empty" in said(explorer, "kv-keep-status")
    explorer.close()


def test_vectors_are_saved_as_they_are_mixed(explorer: Explorer, made: Made, tmp_path: Path) -> None:
    explorer.set(mix={"stepwise": 0.5, "analogical": 1.0})
    find(explorer, "kv-vectors-path").value = str(tmp_path / "mixed.safetensors")
    find(explorer, "kv-save-vectors").click()
    assert said(explorer, "kv-keep-status").startswith("Written")
    saved = kv.KVVectors.load(tmp_path / "mixed.safetensors")
    torch.testing.assert_close(saved.values, 0.5 * made.vectors["stepwise"].values + made.vectors["analogical"].values)
    assert "* 0.5" in saved.card.history
    find(explorer, "kv-save-vectors").click()
    assert "exists" in said(explorer, "kv-keep-status")


def test_the_state_goes_through_a_file_and_back(explorer: Explorer, made: Made, tmp_path: Path) -> None:
    kept = made.state(
        arms=("baseline", "cache steering"),
        cv=3.3,
        layers=(1, 3),
        heads=(0,),
        question=4,
        mix={"analogical": 0.5},
        sweep="heads",
        seed=4,
    )
    explorer.set(**{f.name: getattr(kept, f.name) for f in fields(kept)})
    assert explorer.wait(PATIENCE)
    text = text_of(explorer, "cache steering")
    find(explorer, "kv-state-path").value = str(tmp_path / "state.json")
    find(explorer, "kv-save-state").click()
    assert said(explorer, "kv-keep-status").startswith("Written")
    explorer.set(cv=0.0, layers=None, heads=None, question=0, mix={"stepwise": 1.0}, sweep="layers", seed=0)
    find(explorer, "kv-load-state").click()
    assert said(explorer, "kv-keep-status").startswith("Restored") and explorer.state == kept
    assert (
        text_of(explorer, "cache steering") == text
        and find(explorer, "kv-cv").value == 3.3
        and not find(explorer, "kv-layers-2").value
    )
    (tmp_path / "state.json").write_text(kept.changed({"mix": {"lost": 1.0}}).to_json())
    find(explorer, "kv-load-state").click()
    assert "There are no vectors called" in said(explorer, "kv-keep-status") and explorer.state == kept
    (tmp_path / "state.json").write_text(kept.changed({"layers": (17,)}).to_json())
    find(explorer, "kv-load-state").click()
    assert "There is no layer 17" in said(explorer, "kv-keep-status") and explorer.state == kept


def test_a_state_brings_the_vectors_that_were_loaded_by_hand(explorer: Explorer, made: Made, tmp_path: Path) -> None:
    path = str(made.vectors["analogical"].save(tmp_path / "mine.safetensors"))
    explorer.load_vectors(path)
    assert "Done" in said(explorer) and explorer.state.mix == {path: 1.0}
    text = text_of(explorer, "cache steering")
    explorer.save_state(str(tmp_path / "state.json"))
    for state in (str(tmp_path / "state.json"), None):
        other = kv.explore(made.model, made.vectors["stepwise"], task=made.task, state=state)
        if state is None:
            other.load_state(str(tmp_path / "state.json"))
            assert said(other, "kv-keep-status").startswith("Restored")
        assert "Done" in said(other) and other.state == explorer.state and text_of(other, "cache steering") == text
        assert f"kv.KVVectors.load({path!r})" in other.code
        other.close()
    Path(path).unlink()
    other = kv.explore(made.model, made.vectors["stepwise"], task=made.task)
    other.load_state(str(tmp_path / "state.json"))
    assert "There are no vectors called" in said(other, "kv-keep-status")
    other.close()


def test_another_models_state_is_taken_over_in_part_and_says_so(explorer: Explorer, made: Made, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    explorer.set(cv=3.5, layers=(2,), mix={"analogical": 1.0}, question=4, cot="Think.", max_new_tokens=7)
    explorer.save_state(str(path))
    told = path.read_text()
    assert made.model.fingerprint in told and '"model": "tiny"' in told
    other_weights = f"{made.model.fingerprint.split('-')[0]}-{'f' * 16}-01234567"
    path.write_text(told.replace(made.model.fingerprint, other_weights))
    explorer.set(cv=1.0, layers=None, mix={"stepwise": 1.0}, question=0, cot="Go.", max_new_tokens=9)
    explorer.load_state(str(path))
    line = said(explorer, "kv-keep-status")
    assert f"The state belongs to another model (tiny, {other_weights})" in line and line.count(".") <= 4
    state = explorer.state
    assert (state.question, state.cot, state.max_new_tokens) == (4, "Think.", 7)
    assert (state.cv, state.layers, state.mix) == (1.0, None, {"stepwise": 1.0})
    with pytest.warns(UserWarning, match="belongs to another model"):
        other = kv.explore(made.model, made.vectors["stepwise"], task=made.task, state=path)
    assert other.state.cot == "Think." and other.state.mix == {"stepwise": 1.0} and "Done" in said(other)
    other.close()


@pytest.mark.parametrize(("name", "cv"), [("tiny", 3.5), ("another", 1.0)])
def test_a_state_of_an_earlier_version_is_taken_over_if_the_models_name_is_the_same(
    explorer: Explorer, made: Made, tmp_path: Path, name: str, cv: float
) -> None:
    path = tmp_path / "state.json"
    explorer.set(cv=3.5)
    explorer.save_state(str(path))
    told = path.read_text().replace(made.model.fingerprint, "0123456789abcdef")  # as version 0.1 wrote it
    path.write_text(told.replace('"model": "tiny"', f'"model": "{name}"'))
    explorer.set(cv=1.0)
    explorer.load_state(str(path))
    assert explorer.state.cv == cv and "Restored" in said(explorer, "kv-keep-status")
