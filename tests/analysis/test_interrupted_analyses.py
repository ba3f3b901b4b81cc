"""Ctrl-C at any moment of a call from Python, as in a notebook: one line is raised, or the call had ended, or
(`generate` and `evaluate`) what is finished is given with a warning. The same call then gives what it gives alone."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from every_analysis import Call, Materials, every_analysis, make_materials

import kvsteer_lab as kv
from kvsteer_lab.models.lock import LOCK

OTHERS = (
    "generate",
    "stream",
    "score",
    "divergence",
    "extract",
    "extract_activations",
    "evaluate",
    "evaluate in a folder",
)
NAMES = (*every_analysis(Materials(*[None] * 5)), *OTHERS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def given(tiny: kv.Model) -> Materials:
    return make_materials(tiny)


def every_call(given: Materials, model: kv.Model, folder: Path) -> dict[str, Call]:
    """The analyses, and what they are made of."""
    texts, steering = ["12 + 7 is 19"] * len(given.prompts), given.steering
    pairs = kv.ContrastiveSet.few_shot(given.task, model.tokenizer, style="stepwise", n=6, shots=1)
    settings: dict[str, Any] = dict(generation={"max_new_tokens": 24}, progress=False)
    asked: dict[str, Any] = dict(n=4, **settings)
    return every_analysis(given) | {
        "generate": lambda m: kv.generate(m, given.prompts, steering, generation=settings["generation"]),
        "stream": lambda m: list(kv.stream(m, given.prompts[0], steering, generation=settings["generation"])),
        "score": lambda m: kv.score(m, given.prompts, texts, steering).totals,
        "divergence": lambda m: kv.divergence(m, given.prompts, texts, steering).totals,
        "extract": lambda m: kv.extract(m, pairs, progress=False).values,
        "extract_activations": lambda m: kv.extract_activations(m, pairs, progress=False).residuals,
        "evaluate": lambda m: kv.evaluate(m, given.task, [steering], **asked),
        "evaluate in a folder": lambda m: _go_on(m, given, folder, asked),
    }


def _go_on(model: kv.Model, given: Materials, folder: Path, asked: dict[str, Any]) -> kv.Results:
    """An evaluation whose folder is removed once it is complete."""
    results = kv.evaluate(model, given.task, [given.steering], out=folder / "run", chunk_size=1, **asked)
    if results.complete:
        (folder / "run").rename(folder / f"done {time.monotonic_ns()}")
    return results


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    if hasattr(a, "token_ids"):
        return str(a.token_ids) == str(b.token_ids)
    if isinstance(a, kv.Results):
        return a.rows.astype(str).equals(b.rows.astype(str))
    if hasattr(a, "__dataclass_fields__"):
        return all(same(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    return str(a) == str(b)


def press_during(call: Callable[[], Any], after: float) -> tuple[Any, str | None]:
    """What the call gives, or what is raised when Ctrl-C is pressed so many seconds into it."""
    done = threading.Lock()

    def press() -> None:
        with done:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.001)  # the main thread gets it now

    timer = threading.Timer(after, press)
    found, said, dropped = None, None, []
    before, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    sys.unraisablehook = lambda args: dropped.append(args.exc_type)
    try:
        try:
            timer.start()
            found = call()
            timer.cancel()
            with done:
                pass
            time.sleep(0.002)
        except KeyboardInterrupt as stopped:
            said = str(stopped)
        timer.cancel()
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
    assert set(dropped) <= {KeyboardInterrupt}
    return found, said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to the whole console")
@pytest.mark.parametrize(
    ("name", "times"),
    [
        *((name, 2) for name in ("generate", "extract", "logit_lens", "evaluate in a folder")),
        *(pytest.param(name, 10, marks=pytest.mark.slow) for name in NAMES),
    ],
)
def test_ctrl_c_at_any_moment_changes_nothing(
    name: str, times: int, tiny: kv.Model, given: Materials, tmp_path: Path
) -> None:
    call = every_call(given, tiny, tmp_path)[name]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        alone = call(tiny)
        begun = time.monotonic()
        call(tiny)
        took = time.monotonic() - begun
        rng, hit = random.Random(len(name)), 0
        for _ in range(times):
            warned.clear()
            found, said = press_during(lambda: call(tiny), rng.uniform(0, took))
            partial = said is None and not getattr(found, "complete", True)
            hit += said is not None or partial
            assert said is None or "\n" not in said
            assert partial == any("Interrupted" in str(w.message) for w in warned) or said is not None
            assert said is not None or partial or same(found, alone), "no part is given for the whole"
            assert not LOCK.held, "the lock is free again"
            if said is not None or partial:
                assert same(call(tiny), alone), "nothing is left in the model"
    print(f"{name}: {hit} of {times} hit, {took:.2f} s")
    assert times < 10 or hit  # some calls are over in no time
