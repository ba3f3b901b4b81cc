"""A shard's exit code is 3 while rows of others are missing, and 0 on request once its own part is done."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main

EVALUATE = ("evaluate", "--n", "4", "--max-new-tokens", "4", "--out")


def code(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code
    return 0


def test_a_shard_of_an_evaluation_may_end_with_zero(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert code(*EVALUATE, out, "--shard", "1/2") == 3
    assert code(*EVALUATE, out, "--shard", "1/2", "--zero-if-shard-done") == 0
    with kv.Run.load(out).claim(1) as mine, pytest.warns(UserWarning, match="Another process is generating"):
        assert mine and code(*EVALUATE, out, "--shard", "2/2", "--zero-if-shard-done") == 3  # its own part isn't there
    assert code(*EVALUATE, out, "--shard", "2/2") == 0  # nothing is missing any more


@pytest.mark.parametrize("command", [EVALUATE[:1], ("replicate", "--out", "nowhere")])
def test_without_a_shard_it_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="--zero-if-shard-done says how a shard ends; pass --shard as well"):
        main([*command, "--zero-if-shard-done"])


@pytest.mark.parametrize(("flags", "expected"), [((), 3), (("--zero-if-shard-done",), 0)])
def test_a_shard_of_a_replication_may_end_with_zero(
    flags: tuple[str, ...], expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Unfinished:
        complete = False

    monkeypatch.setattr(kv, "replicate", lambda *arguments, **options: Unfinished(), raising=False)
    assert code("replicate", "--model", "tiny", "--out", str(tmp_path), "--shard", "1/2", *flags) == expected
