"""The committed figures are those of their manifest, nothing in them is cut off, and a figure that was drawn otherwise
is told.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import kvsteer_lab as kv

ROOT = Path(__file__).resolve().parents[2]
FIGURES, NOTEBOOKS = ROOT / "figures", ROOT / "notebooks"


@pytest.fixture(scope="module")
def manifest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manifest", NOTEBOOKS / "manifest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manifest_is_that_of_the_committed_figures(manifest):
    sums = manifest.read(FIGURES)
    there = {path.name for path in FIGURES.iterdir() if path.suffix in (".png", ".csv")}
    assert there == {name for name in sums if name.endswith((".png", ".csv"))}
    changed = [name for name in sums if (FIGURES / name).is_file() and manifest.digest(FIGURES / name) != sums[name]]
    assert not changed, "run `make figures`, or restore them"


def test_every_figure_comes_in_four_kinds_and_its_notebook_saves_it(manifest):
    sums = manifest.read(FIGURES)
    stems = {name.rpartition(".")[0] for name in sums}
    assert set(sums) == {stem + suffix for stem in stems for suffix in manifest.SUMS_OF}
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        code = "".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code")
        own = [stem for stem in stems if stem[:3] == notebook.name[:3]]
        assert len(own) >= code.count("kv.save_figure("), (
            f"{notebook.name} saves figures that are not in figures/: run `make figures`"
        )


def test_stamps_name_the_bundled_models_and_the_csv_that_lies_beside(manifest):
    bundled = {(name, kv.load(name).fingerprint) for name in ("tiny", "tiny-control")}
    for picture in FIGURES.glob("*.png"):
        stamp = kv.figures.read_stamp(picture)
        assert stamp.figure == picture.stem and stamp.version == kv.__version__ and set(stamp.models) <= bundled
        assert stamp.csv_sha256 == manifest.read(FIGURES)[f"{picture.stem}.csv"]
        assert stamp.csv_rows == len(pd.read_csv(picture.with_suffix(".csv"))) > 0


def test_nothing_is_cut_off_at_the_edges():
    for picture in FIGURES.glob("*.png"):
        grey = np.asarray(Image.open(picture).convert("L"))
        for name, edge in (("top", grey[0]), ("bottom", grey[-1]), ("left", grey[:, 0]), ("right", grey[:, -1])):
            assert (edge == 255).all(), f"something in {picture.name} is cut off at the {name}"


def test_figures_are_as_wide_as_one_column_or_two():
    wide = {}
    for picture in FIGURES.glob("*.png"):
        with Image.open(picture) as image:
            wide[picture.name] = image.width / image.info["dpi"][0]
    odd = {name: round(inches, 2) for name, inches in wide.items() if min(abs(inches - 3.4), abs(inches - 7.0)) > 0.02}
    assert not odd, f"neither 3.4 nor 7 inches wide: {odd}"


# --- how figures that are drawn now are compared with the committed ones ------------------------------------------


@pytest.fixture
def folders(manifest, tmp_path: Path) -> tuple[Path, Path]:
    """Figures drawn now, and the same ones as they would be committed: without PDF and SVG."""
    fresh, committed = tmp_path / "fresh", tmp_path / "committed"
    for name in ("00_a", "00_b", "01_c"):
        table = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.5, len(name)]})
        kv.save_figure(kv.figures.plot_relative_norms(table), fresh / name, seed=0)
    shutil.copytree(fresh, committed)
    manifest.write(committed)
    for path in committed.glob("*.[ps][dv][fg]"):
        path.unlink()
    return fresh, committed


def test_the_same_figures_pass(manifest, folders):
    assert manifest.compare(*folders, {"00_", "01_"}) == ([], [])


def test_names_are_compared_of_the_notebooks_that_ran(manifest, folders):
    fresh, committed = folders
    for path in [*fresh.glob("01_*")]:
        path.unlink()
    assert manifest.compare(fresh, committed, {"00_"}) == ([], [])
    (fresh / "00_b.csv").unlink()
    (fresh / "00_d.csv").touch()
    failures, _ = manifest.compare(fresh, committed, {"00_"})
    assert failures == ["00_b.csv is not drawn any more", "00_d.csv is new"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_other_bytes_of_the_same_data_fail_unless_drawn_with_other_versions(manifest, folders, suffix, monkeypatch):
    fresh, committed = folders
    with open(fresh / f"00_a{suffix}", "ab") as file:
        file.write(b"\n")
    failures, _ = manifest.compare(fresh, committed, {"00_", "01_"})
    assert failures == [f"00_a{suffix} has other bytes, though its data and what it was drawn with are the same"]
    monkeypatch.setattr(manifest, "drawn_with", lambda: "# drawn with other versions")
    failures, remarks = manifest.compare(fresh, committed, {"00_", "01_"})
    assert not failures and f"00_a{suffix}" in remarks[0]


def test_data_may_differ_in_the_last_digits_only(manifest, folders):
    fresh, committed = folders
    for factor, fails in ((1 + 1e-6, False), (1.01, True)):
        table = pd.DataFrame({"layer": [0, 1], "keys": [0.1 * factor, 0.2], "values": [0.5, 4]})
        kv.save_figure(kv.figures.plot_relative_norms(table), fresh / "00_a", seed=0)
        failures, remarks = manifest.compare(fresh, committed, {"00_", "01_"})
        assert bool(failures) == fails and "last digits: 00_a" in remarks[0]
    assert failures[0].startswith("00_a.csv holds other data") and "keys" in failures[0]


def test_another_seed_fails(manifest, folders):
    fresh, committed = folders
    table = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.5, 4]})
    kv.save_figure(kv.figures.plot_relative_norms(table), fresh / "00_a", seed=1)
    failures, _ = manifest.compare(fresh, committed, {"00_", "01_"})
    assert "00_a.png has another stamp" in failures


def test_sha256sum_reads_the_manifest(manifest, folders, tmp_path):
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("sha256sum is not installed")
    fresh, committed = folders
    shutil.copy(committed / manifest.NAME, fresh)
    assert (
        subprocess.run([program, "--check", "--strict", "--quiet", manifest.NAME], cwd=fresh, check=False).returncode
        == 0
    )
    (fresh / "00_a.csv").write_text(json.dumps({}))
    assert (
        subprocess.run(
            [program, "--check", "--quiet", manifest.NAME], cwd=fresh, capture_output=True, check=False
        ).returncode
        == 1
    )
