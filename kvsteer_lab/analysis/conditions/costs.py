"""The time that a token takes under each method: the files that `benchmarks/decode.py` writes, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..._util.json import read_json

NAMES = {
    "nothing": "nothing added",
    "steered": "cache steering",
    "one-shot": "activation, one-shot",
    "every token": "activation, every token",
    "plain, no cache": "plain, no cache",
    "one-shot, no cache": "activation, one-shot, no cache",
    "every token, no cache": "activation, every token, no cache",
}


def decode_costs(*paths: str | Path) -> pd.DataFrame:
    """Time a token over that of the model's own `generate` with its cache, as measured side by side in one run.

    Args:
        paths: JSON files of `benchmarks/decode.py`, or folders that hold them.

    Returns:
        One row per file, batch size and method: `model`, `device`, `batch`, `method`, `ratio` with its 95% interval
        `low`, `high`.

    Raises:
        ValueError: no such file, or one that `benchmarks/decode.py` didn't write.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> import kvsteer_lab as kv
        >>> ratio = {"median": 1.02, "low": 0.99, "high": 1.05}
        >>> result = {"what": "time a token", "batch": 1, "nothing_over_plain": ratio, "steered_over_plain": ratio,
        ...           "activation_over_plain": {"one-shot": ratio}}
        >>> file = Path(tempfile.mkdtemp(), "decode-tiny.json")
        >>> found = {"environment": {"device": "cpu", "cpu": "a CPU"}, "settings": {"model": "tiny"}}
        >>> size = file.write_text(json.dumps(found | {"results": [result]}))
        >>> kv.analysis.decode_costs(file).method.tolist()
        ['nothing added', 'cache steering', 'activation, one-shot']
    """
    files = [
        file for path in map(Path, paths) for file in (sorted(path.glob("decode-*.json")) if path.is_dir() else [path])
    ]
    if not files:
        raise ValueError(f"There is no decode-*.json in {', '.join(map(str, paths))}; run benchmarks/decode.py.")
    return pd.DataFrame([row for file in files for row in _rows(file)])


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        found = read_json(file, what=str(file))
        environment = found["environment"]
        device = environment["device"] if environment["device"] != "cpu" else environment["cpu"]
        for result in found["results"]:
            ratios: dict[str, Any] = {}
            if result["what"] == "time a token":
                ratios = {
                    "nothing": result["nothing_over_plain"],
                    "steered": result["steered_over_plain"],
                    **result["activation_over_plain"],
                }
            elif result["what"] == "time a token without a cache":
                ratios = result["over_plain"]
            for name, ratio in ratios.items():
                measured = dict(ratio=ratio["median"], low=ratio["low"], high=ratio["high"])
                yield dict(
                    model=found["settings"]["model"],
                    device=device,
                    batch=result["batch"],
                    method=NAMES[name],
                    **measured,
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not a file of benchmarks/decode.py with activation steering in it ({error!r}); run the"
            " benchmark again."
        ) from error
