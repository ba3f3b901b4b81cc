"""The hashes of the committed figures, and whether figures that are drawn now are the same.

`figures/SHA256SUMS` is what `sha256sum` writes and checks, under a comment that names what the figures were drawn with.
PNG and CSV are committed; PDF and SVG, which are large and which `make figures` draws, are held to their hashes alone.

What must hold on every machine: the names, the stamps in the pictures, and the plotted data up to a tolerance. Bytes of
a picture must be the same where its data are byte for byte the same and it was drawn with the same versions on the same
kind of processor; elsewhere the last digits of a sum, which a table rounds off, or another zlib may change them.
"""

from __future__ import annotations

import hashlib
import platform
import zlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from PIL import features
from threadpoolctl import threadpool_info

from kvsteer_lab.figures.stamp import SUFFIXES, read_stamp

NAME = "SHA256SUMS"
SUMS_OF = (*SUFFIXES, ".csv")
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def drawn_with() -> str:
    """What the bytes of a picture depend on beside its data."""
    packages = [f"{name} {version(name)}" for name in ("matplotlib", "numpy", "pillow")]
    compression = f"zlib {zlib.ZLIB_RUNTIME_VERSION} and {features.version('zlib')}"
    blas = sorted({found["architecture"] for found in threadpool_info() if "architecture" in found})
    processor = f"{platform.machine()} ({', '.join(blas)}; {torch.backends.cpu.get_cpu_capability()})"
    return f"# drawn with {', '.join(packages)}, {compression}, Python {platform.python_version()} on {processor}"


def figures_in(folder: Path) -> list[str]:
    """The files of figures in a folder, whatever else a notebook has left there."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in SUMS_OF)


def write(folder: Path) -> None:
    """Write the hashes of the figures in a folder."""
    lines = [drawn_with(), *(f"{digest(folder / name)}  {name}" for name in figures_in(folder))]
    (folder / NAME).write_text("\n".join(lines) + "\n")


def read(folder: Path) -> dict[str, str]:
    """The hashes in a folder's manifest, by the names of the files."""
    lines = [line for line in (folder / NAME).read_text().splitlines() if not line.startswith("#")]
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def compare(fresh: Path, committed: Path, prefixes: set[str]) -> tuple[list[str], list[str]]:
    """What is wrong with figures drawn now, and what differs for a reason.

    Args:
        fresh: the folder of those drawn now.
        committed: the folder of the committed ones with their manifest.
        prefixes: what the names of the figures begin with that were drawn now.

    Returns:
        Failures and remarks, a line each.
    """
    sums = {name: digest for name, digest in read(committed).items() if name[:3] in prefixes}
    found = set(figures_in(fresh))
    failures = [f"{name} is not drawn any more" for name in sorted(sums.keys() - found)]
    failures += [f"{name} is new" for name in sorted(found - sums.keys())]
    same_versions = drawn_with() == (committed / NAME).read_text().splitlines()[0]
    other_data, other_bytes = [], []
    for table in sorted(name for name in sums.keys() & found if name.endswith(".csv")):
        stem = table.removesuffix(".csv")
        pictures = [name for name in (stem + suffix for suffix in SUFFIXES) if name in sums.keys() & found]
        if f"{stem}.png" in pictures and _told(fresh / f"{stem}.png") != _told(committed / f"{stem}.png"):
            failures.append(f"{stem}.png has another stamp")
        if digest(fresh / table) != sums[table]:
            other_data.append(stem)
            failures += _differences(fresh / table, committed / table)
            continue
        changed = [name for name in pictures if digest(fresh / name) != sums[name]]
        if same_versions:
            failures += [
                f"{name} has other bytes, though its data and what it was drawn with are the same" for name in changed
            ]
        else:
            other_bytes += changed
    remarks = [f"data that differ in the last digits: {', '.join(other_data)}"] * bool(other_data)
    return failures, remarks + [
        f"pictures drawn with other versions, with other bytes: {', '.join(other_bytes)}"
    ] * bool(other_bytes)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _told(picture: Path) -> object:
    return replace(read_stamp(picture), csv_sha256="")


def _differences(fresh: Path, committed: Path) -> list[str]:
    try:
        pd.testing.assert_frame_equal(
            pd.read_csv(fresh), pd.read_csv(committed), check_dtype=False, obj=fresh.name, **TOLERANCE
        )
    except AssertionError as error:
        return [f"{fresh.name} holds other data: {' '.join(str(error).split())[:200]}"]
    return []
