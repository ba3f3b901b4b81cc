"""Ctrl-C in any command, at any moment: one sentence, exit code 130, and the same end when it is begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
from interrupting import COMMANDS, KEPT

from kvsteer_lab.cli.commands import COMMANDS as FUNCTIONS
from kvsteer_lab.cli.main import main

FEW = ("traces", "generate", "evaluate --out", "merge")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no forks")
@pytest.mark.parametrize(
    ("names", "times"), [(FEW, 2), *(pytest.param((name,), 24, marks=pytest.mark.slow) for name in COMMANDS)]
)
def test_ctrl_c_is_one_sentence_and_130(names: tuple[str, ...], times: int, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).parents[1] / "interrupting.py", tmp_path, str(times), "0", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["command"] for each in told] == list(names)
    hit = 0
    for each in told:
        ended = each["first"]["code"]
        assert each["again"]["code"] == ended and each["same"], each
        before = each["first"]["said"]  # warnings that the command prints in any case
        for press in each["pressed"]:
            if press["code"] == ended and press["said"] in before:
                continue  # it came too late
            hit += 1
            *warned, last = press["said"].splitlines(keepends=True)
            assert press["code"] == 130, press
            assert last.startswith("kvsteer: ") and last.endswith("\n") and "".join(warned) in before, press
            assert press["took"] < press["after"] + 20, press
    assert hit >= len(names) * times / 4, told
    assert set(KEPT) <= set(COMMANDS)


def test_a_ctrl_c_that_python_drops_is_pressed_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As garbage is collected, Python runs callbacks that drop whatever is raised in them."""

    def press(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    def work() -> None:
        """Collect garbage, then work on."""
        thing = type("Thing", (), {})()
        watched = weakref.ref(thing, press)
        del thing
        time.sleep(2)
        raise AssertionError(f"{watched} was collected, and Ctrl-C was lost")

    monkeypatch.setitem(FUNCTIONS, "info", work)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = sys.unraisablehook
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["info"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130 and capsys.readouterr().err == "kvsteer: Interrupted.\n"
    assert sys.unraisablehook is hook
