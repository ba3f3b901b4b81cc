"""A colour means one thing, in every figure and in the explorer: an intervention, what is edited, a style, a side of a
pair, or a change of probability.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from kvsteer_lab.figures.explorer import plot_sweep, span_of
from kvsteer_lab.figures.geometry import LOOKS
from kvsteer_lab.figures.style import AMOUNT, CHANGES, COLORS, PARTS, SIDES, STYLES, ink, tint

PACKAGE = Path(__file__).parents[2] / "kvsteer_lab"
MEANINGS = {
    f"{of} {name}": color
    for of, colors in (
        ("intervention", COLORS),
        ("part", PARTS),
        ("style", STYLES),
        ("side", SIDES),
        ("change", CHANGES),
    )
    for name, color in colors.items()
}


XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SEEN = {
    "all cones": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""How linear colours are seen (Machado, Oliveira and Fernandes 2009, full severity)."""


def linear(color: str) -> np.ndarray:
    """Red, green and blue as amounts of light."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(color: str, seen: str = "all cones") -> np.ndarray:
    """Lightness, and the two axes of hue, in steps about as large as they are seen (CIELAB, D65)."""
    xyz = XYZ @ np.clip(SEEN[seen] @ linear(color), 0, 1)
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1, 1.089]), 1e-3))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_colour_means_two_things() -> None:
    near = {
        (one, other): distance
        for one, other in combinations(MEANINGS, 2)
        if (distance := float(np.linalg.norm(lab(MEANINGS[one]) - lab(MEANINGS[other])))) < 20
    }
    assert not near
    assert len(MEANINGS) == 18


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


def behind(color: str, share: float, paper: str) -> str:
    """A colour laid thinly over paper, as the explorer's page lays it behind a token."""
    return to_hex(share * np.array(to_rgb(color)) + (1 - share) * np.array(to_rgb(paper)))


@pytest.mark.parametrize("paper, letters", [("#ffffff", "#1f1f1f"), ("#111111", "#ffffff")])
def test_changes_of_probability_are_told_apart_and_can_be_read(paper: str, letters: str) -> None:
    for seen in SEEN:
        for share, least in ((0.7, 40), (0.35, 20)):
            one, other = (lab(behind(color, share, paper), seen) for color in CHANGES.values())
            assert np.linalg.norm(one - other) > least, (seen, share)
    for color in CHANGES.values():
        light = sorted(float(XYZ[1] @ linear(each)) for each in (behind(color, 0.7, paper), letters))
        assert (light[1] + 0.05) / (light[0] + 0.05) > 4.5


def test_the_explorers_page_repeats_the_changes_colours() -> None:
    style = (PACKAGE / "explorer" / "static" / "explorer.css").read_text()
    assert re.findall(r"--kv-(more|less): (#\w+);", style) == [
        ("more", CHANGES["likelier"]),
        ("less", CHANGES["less likely"]),
    ]
    uses = [line for line in style.splitlines() if re.search(r"var\(--kv-(more|less)\)", line)]
    assert len(uses) == 2 and all(".kv-token." in line for line in uses), "texts token by token, and nothing else"
    for meaning, color in MEANINGS.items():
        assert meaning.startswith(("change", "style other")) or color not in style, meaning


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
