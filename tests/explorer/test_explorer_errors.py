"""What goes wrong in the explorer: one line each, that stays while it is news; and changes from several threads."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from explorer_bench import PATIENCE, Made, busy, find, said, text_of

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.state import ExplorerState
from kvsteer_lab.explorer.views.fields import slider
from kvsteer_lab.explorer.work import running


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None, "prompt": "  "}, "The prompt is empty"),
        ({"task": None, "prompt": "word " * 3000}, "but the context of tiny is 2048; shorten it"),
        ({"cv": float("nan")}, "The state's cv is nan"),
        ({"layers": ()}, "No layers are chosen"),
        ({"arms": ()}, "The state's arms is ()"),
        ({"task": "gsm9k"}, "There is no task 'gsm9k'"),
        ({"question": 10**6}, "gives at most 5000 questions"),
        ({"offset": "ab cd"}, "not one"),
        ({"mix": {"lost": 1.0}}, "There are no vectors called 'lost' here"),
    ],
)
def test_bad_input_is_one_line_and_the_explorer_lives_on(
    explorer: Explorer, changes: dict[str, Any], message: str
) -> None:
    good = explorer.state
    explorer.move(changes)
    line = said(explorer).replace("&#x27;", "'")
    assert message in line and "\n" not in line and "kv-error" in find(explorer, "kv-status").value
    explorer.set(**{name: getattr(good, name) for name in changes}, seed=1)
    assert "Done" in said(explorer) and text_of(explorer, "cache steering")


def test_an_error_that_is_newer_than_the_work_stays(explorer: Explorer) -> None:
    gate = busy(explorer)
    explorer.set(cv=1.0)
    explorer.move({"question": -1})
    gate.set()
    assert "The state&#x27;s question is -1" in said(explorer) and explorer.comparison.state.cv == 1.0  # type: ignore[union-attr]
    explorer.compare()
    assert said(explorer) == "Done."


def test_no_change_of_a_field_is_lost_between_threads(explorer: Explorer) -> None:
    explorer.cancel()
    turns = {name: [float(i) / 10 for i in range(1, 60)] for name in ("ck", "activation_coefficient", "temperature")}

    def turn(name: str) -> None:
        for value in turns[name]:
            explorer.move({name: value})

    threads = [threading.Thread(target=turn, args=(name,)) for name in turns]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    explorer.cancel()
    assert [getattr(explorer.state, name) for name in turns] == [5.9, 5.9, 5.9]


def test_a_control_that_is_moved_while_another_thread_shows_a_state_counts() -> None:
    moved: list[Any] = []
    field = slider("cv", "c_v", -4.0, 8.0, 0.1, "")
    field.bind(lambda name, value: moved.append(value))
    began, gate = threading.Event(), threading.Event()

    def slow(change: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            began.set()
            gate.wait(PATIENCE)

    field.widget.observe(slow, "value")
    thread = threading.Thread(target=field.show, args=(ExplorerState(cv=1.0),))
    thread.start()
    assert began.wait(PATIENCE)
    field.widget.value = 3.0
    gate.set()
    thread.join()
    assert moved == [3.0]


def test_set_by_code_raises_and_changes_nothing(explorer: Explorer) -> None:
    before = explorer.state
    with pytest.raises(ValueError, match="The state's cv is nan"):
        explorer.set(cv=float("nan"), ck=1.0)
    with pytest.raises(ValueError, match="mood"):
        explorer.set(mood=1)
    assert explorer.state == before


def test_out_of_memory_is_one_line(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty = running.decode

    def scarce(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(running, "decode", scarce)
    explorer.set(sweep_questions=1)
    with pytest.warns(UserWarning, match="Out of memory"):
        explorer.compare()
        line = said(explorer)
    assert line.startswith("Out of memory; ask for fewer new tokens") and text_of(explorer, "cache steering") == ""
    explorer.sweep()
    assert said(explorer, "kv-sweep-status").startswith("Out of memory") and not find(explorer, "kv-sweep-run").disabled
    monkeypatch.setattr(running, "decode", plenty)
    find(explorer, "kv-run").click()
    assert "Done" in said(explorer) and text_of(explorer, "cache steering")


def test_vectors_of_another_model_are_refused_in_one_line(
    explorer: Explorer, vectors: kv.KVVectors, tmp_path: Path
) -> None:
    other = vectors.save(tmp_path / "other.safetensors")
    find(explorer, "kv-load-path").value = str(other)
    find(explorer, "kv-load").click()
    assert "These vectors are of a llama" in said(explorer) and str(other) not in explorer.vectors
    find(explorer, "kv-load-path").value = str(tmp_path / "nothing.safetensors")
    find(explorer, "kv-load").click()
    assert "There are no vectors at" in said(explorer)


def test_loaded_vectors_are_chosen(explorer: Explorer, made: Made, tmp_path: Path) -> None:
    path = str(made.vectors["analogical"].save(tmp_path / "mine.safetensors"))
    explorer.load_vectors(path)
    assert "Done" in said(explorer) and explorer.state.mix == {path: 1.0} and find(explorer, "kv-vectors").value == path
    assert path in explorer.code
    explorer.set(mix={"analogical": 1.0})
    same = text_of(explorer, "cache steering")
    explorer.set(mix={path: 1.0})
    assert explorer.wait(PATIENCE) and text_of(explorer, "cache steering") == same
