"""The strength ladder: each rung is its separate run, and the page shows it."""

from __future__ import annotations

import pytest
from explorer_bench import Made, find, said

import kvsteer_lab as kv
from kvsteer_lab.explorer import pace
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.results.ladder import Ladder
from kvsteer_lab.explorer.threads import Cancelled, CancelledError
from kvsteer_lab.explorer.work.climbing import climb


def climbed(made: Made, **changes: object) -> Ladder:
    found: list[Ladder] = []
    for _ in climb(made.workspace(), made.state(**changes), Cancelled(), found.append):
        pass
    return found[0]


@pytest.mark.parametrize("changes", [{}, {"ck": 0.5, "layers": (1, 2)}, {"part": "keys", "ck": 1.0}])
def test_each_rung_is_its_separate_run(made: Made, changes: dict[str, object]) -> None:
    ladder = climbed(made, ladder=(0.0, 1.5, 4.0), **changes)
    assert [rung.cv for rung in ladder.rungs] == [0.0, 1.5, 4.0]
    workspace, state = made.workspace(), made.state(**changes)
    asked = workspace.asked(state)
    for rung in ladder.rungs:
        method = kv.CacheSteering(made.vectors["stepwise"], state.ck, rung.cv, layers=state.layers)
        (row,) = kv.generate(made.model, [asked.prompt], method, generation={"max_new_tokens": 24})
        assert rung.generation.token_ids == row.token_ids
        table = kv.divergence(made.model, [asked.prompt], [row.token_ids], method)
        assert rung.nats == pytest.approx(float(table.totals[0]), abs=1e-3), "the KL along its own text"


@pytest.mark.parametrize(
    ("button", "line"), [("kv-ladder-run", "kv-ladder-status"), ("kv-sweep-run", "kv-sweep-status")]
)
def test_slow_ladders_and_sweeps_tell_of_their_tokens(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, button: str, line: str
) -> None:
    monkeypatch.setattr(pace, "PATIENCE", 0.0)
    explorer.set(sweep="heads", max_new_tokens=6)
    said_so_far: list[str] = []
    find(explorer, line).observe(lambda moved: said_so_far.append(moved["new"]), "value")
    find(explorer, button).click()
    assert said(explorer, line).startswith("Done")
    assert any("Token 2 of at most 6" in one for one in said_so_far)


def test_no_strength_is_no_change(made: Made) -> None:
    ladder = climbed(made, ladder=(0.0, 8.0))
    assert ladder.rungs[0].nats == pytest.approx(0, abs=1e-5)
    assert ladder.rungs[1].nats > 0.1
    assert list(ladder.to_frame().cv) == [0.0, 8.0]


def test_a_cancelled_ladder_ends(made: Made) -> None:
    cancelled = Cancelled()
    cancelled.set()
    with pytest.raises(CancelledError):
        list(climb(made.workspace(), made.state(), cancelled, lambda ladder: pytest.fail("it was shown")))


def test_the_page_shows_a_ladder_and_says_when_it_is_old(explorer: Explorer) -> None:
    explorer.set(ladder=(0.0, 3.0))
    find(explorer, "kv-ladder-run").click()
    assert said(explorer, "kv-ladder-status") == "Done."
    shown = find(explorer, "kv-ladder-table").value
    assert shown.count("<tr>") == 3 and shown.count("<polyline") == 2 and explorer.ladder is not None
    explorer.set(slot=-2)
    assert "earlier setting" in said(explorer, "kv-ladder-status")
