"""The explorer on a page: from letting go of a slider to the first steered token and to the whole text, and from Cancel
to the line that says so.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import tyro

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))

GRID = dict(
    sweep="ck x cv", sweep_questions=64, sweep_ck=[0.0, 0.25, 0.5, 0.75, 1.0], sweep_cv=[x / 4 for x in range(33)]
)
PLACES = (0.55, 0.65)  # of the slider of c_v, from -4 to 8: both reason


def main(repeats: int = 10, out: Path | None = None) -> Path:
    """Measure it, in chapter 11, opened in JupyterLab.

    Args:
        repeats: how often each is done, after once for warmth.
        out: folder for the JSON file.
    """
    from browsing import chromium, left_out
    from explorer_page import chapter_in_lab

    if reason := left_out():
        sys.exit(f"Nothing can be measured: {reason}.")
    drags: list[dict[str, float]] = []
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with chapter_in_lab(browser, HERE.parent / "notebooks" / "11_explorer.ipynb", Path(folder)) as (explorer, _):
            explorer.restore({**explorer.save_state(), **GRID, "arms": ["baseline", "cache steering"]})
            explorer.tab("Side by side")
            for turn in range(-1, repeats):
                found = explorer.time_drag("cv", PLACES[turn % 2], "cache steering")
                explorer.page.wait_for_timeout(300)  # what is measured after the texts comes to its end
                drags += [found] if turn >= 0 else []
            text = explorer.arm("cache steering").locator(".kv-token").count()
            explorer.tab("Ablation")
            for turn in range(-1, repeats):
                explorer.sweep("to go")
                waited = explorer.time_cancel()
                waits += [waited] if turn >= 0 else []
        version = browser.version
    results: dict[str, Any] = {
        f"{name}_ms": measure.spread([drag[name] for drag in drags]) for name in ("first", "full", "coloured")
    }
    results |= {"cancel_ms": measure.spread(waits), "tokens": text, "arms": 2}
    print(
        ", ".join(
            f"{name}: {results[f'{name}_ms']['median']:.0f} ms" for name in ("first", "full", "coloured", "cancel")
        )
    )
    clock = measure.Clock("cpu", threads=1)
    load = round(os.getloadavg()[0], 1)
    environment = measure.environment(clock) | {"clock": "wall, in the page", "chromium": version, "load": load}
    return measure.write("browser-tiny", environment, dict(repeats=repeats), results, out)


if __name__ == "__main__":
    tyro.cli(main)
