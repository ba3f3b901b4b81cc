"""A colour means one thing, in every figure: an intervention, what is edited, a style, or a side of a pair."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from kvsteer_lab.figures.explorer import plot_sweep, span_of
from kvsteer_lab.figures.geometry import LOOKS
from kvsteer_lab.figures.style import AMOUNT, COLORS, PARTS, SIDES, STYLES, ink, tint

PACKAGE = Path(__file__).parents[2] / "kvsteer_lab"
MEANINGS = {
    f"{of} {name}": color
    for of, colors in (("intervention", COLORS), ("part", PARTS), ("style", STYLES), ("side", SIDES))
    for name, color in colors.items()
}


def lab(color: str) -> np.ndarray:
    """Lightness, and the two axes of hue, in steps about as large as they are seen (CIELAB, D65)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1, 1.089]), 1e-3))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_colour_means_two_things() -> None:
    near = {
        (one, other): distance
        for one, other in combinations(MEANINGS, 2)
        if (distance := float(np.linalg.norm(lab(MEANINGS[one]) - lab(MEANINGS[other])))) < 20
    }
    assert not near
    assert len(MEANINGS) == 16


def test_orange_is_cache_steering_and_nothing_else() -> None:
    """Written out in one place; the browser's page repeats what is there."""
    places = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if re.search(COLORS["steered"], path.read_text(), re.IGNORECASE)
    ]
    assert places == ["figures/style.py"]
    uses = [
        line.strip()
        for path in sorted((PACKAGE / "figures").glob("*.py"))
        for line in path.read_text().splitlines()
        if 'COLORS["steered"]' in line and re.search(r"values|positive|keys", line)
    ]
    assert not uses


def test_amounts_have_one_colour_map_in_every_heat_map() -> None:
    used = {
        (path.name, name)
        for path in sorted((PACKAGE / "figures").glob("*.py"))
        for name in re.findall(r"cmap=([^,)]+)", path.read_text())
    }
    assert {name for _, name in used} == {"AMOUNT", '"RdBu_r"'}, "the other is of cosines, which have a sign"
    assert {file for file, name in used if name != "AMOUNT"} == {"geometry.py"}
    lightness = [lab(to_hex(colormaps[AMOUNT](x)))[0] for x in np.linspace(0, 1, 50)]
    assert (np.diff(lightness) > 0).all(), "it is read in grey"


def test_what_is_written_on_an_amount_can_be_read() -> None:
    for value in np.linspace(0, 1, 50):
        ground = lab(to_hex(colormaps[AMOUNT](value)))[0]
        assert abs(ground - lab(ink(value, 0, 1))[0]) > 40


def test_styles_are_told_by_their_markers_in_grey() -> None:
    assert {style: color for style, (color, _) in LOOKS.items()} == STYLES
    assert len({marker for _, marker in LOOKS.values()}) == len(LOOKS)


def test_a_shade_keeps_its_hue() -> None:
    shades = [lab(tint(COLORS["steered"], share)) for share in (0.25, 0.5, 0.75, 1.0)]
    assert (np.diff([shade[0] for shade in shades]) < 0).all()
    assert tint(COLORS["steered"], 1.0) == COLORS["steered"]


def test_a_sweep_looks_the_same_on_screen_and_saved() -> None:
    script = (PACKAGE / "explorer" / "static" / "heatmap.js").read_text()
    amounts = re.findall(r'"(#[0-9a-f]{6})"', script.partition("const AMOUNT = [")[2].partition("];")[0])
    assert amounts == [to_hex(colormaps[AMOUNT](x)) for x in np.linspace(0, 1, 11)]
    turn = float(re.findall(r'strength < ([\d.]+) \? "#fff" : "#000"', script)[0])
    assert ink(turn - 1e-6, 0, 1) == "white" and ink(turn, 0, 1) == "black"
    style = (PACKAGE / "explorer" / "static" / "explorer.css").read_text()
    assert "background: var(--kv-amount); color: var(--kv-on-amount)" in style


def test_a_saved_sweep_spans_what_the_screen_does() -> None:
    table = pd.DataFrame({"row": ["baseline", "0", "0"], "column": ["", "1", "2"], "reasoned": [0.1, 0.2, 0.4]})
    axis = plot_sweep(table.assign(n=8, tokens=[20.0, 24.0, 30.0])).axes[0]
    assert axis.images[0].get_clim() == span_of([0.1, 0.2, 0.4], "reasoned") == (0.0, 0.4)
    lengths = plot_sweep(table.assign(n=8, tokens=[20.0, 24.0, 30.0]), "tokens").axes[0]
    assert lengths.images[0].get_clim() == span_of([20.0, 24.0, 30.0], "tokens") == (20.0, 30.0)
