"""Where results come from: versions, commit, date and device. Recorded beside them, never compared."""

from __future__ import annotations

import datetime
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "nnsight", "numpy", "pandas", "pyarrow")


def provenance(device: str | None = None) -> dict[str, Any]:
    """The date, the git commit if the package runs from a checkout, and the versions that it runs with.

    Nothing of it names the machine, its user or its folders.

    Args:
        device: what computed, say `"cuda: NVIDIA H100"`.

    >>> provenance("cpu")["device"]
    'cpu'
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "date": now,
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.system(),
        "device": device,
        **_versions(),
    }


@cache
def commit() -> str | None:
    """The last commit that changed the package, `+changes` after it where files differ; `None` outside a checkout.

    >>> commit() is None or len(commit()) >= 40
    True
    """
    found = _git("log", "-1", "--format=%H", "--", ".")
    if not found:
        return None
    return f"{found}+changes" if _git("status", "--porcelain", "--", ".") else found


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[1]  # the package
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
