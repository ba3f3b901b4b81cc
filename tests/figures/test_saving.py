"""A saved figure is four files: the same bytes in every process, with a stamp inside the pictures and the plotted data
beside them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

import kvsteer_lab as kv
from kvsteer_lab._util.files import write_together
from kvsteer_lab._util.locks import one_writer
from kvsteer_lab.figures.stamp import SUFFIXES, Stamp
from kvsteer_lab.figures.style import data_of

ALL = (*SUFFIXES, ".csv")
SCRIPT = """
import sys
import pandas as pd
import kvsteer_lab as kv

table = pd.DataFrame({"layer": [0, 1, 2], "keys": [0.1, 0.2, 1 / 3], "values": [0.0, 2.0, 1.5]})
kv.save_figure(kv.figures.plot_relative_norms(table), sys.argv[1], seed=int(sys.argv[2]))
"""


@pytest.fixture
def table():
    return pd.DataFrame({"layer": [0, 1, 2], "keys": [0.1, 0.2, 1 / 3], "values": [0.0, 2.0, 1.5]})


def saved_by_a_fresh_process(folder: Path, seed: int, hash_seed: int) -> dict[str, bytes]:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "SOURCE_DATE_EPOCH": str(hash_seed)}
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder / "norms"), str(seed)], check=True, env=environment)
    return {suffix: (folder / f"norms{suffix}").read_bytes() for suffix in ALL}


def test_two_processes_write_the_same_bytes_and_another_seed_others(tmp_path):
    first, second, other = (
        saved_by_a_fresh_process(tmp_path / name, seed, i)
        for i, (name, seed) in enumerate((("a", 0), ("b", 0), ("c", 1)))
    )
    assert first == second
    assert all(len(content) > 50 for content in first.values())
    assert all(first[suffix] != other[suffix] for suffix in SUFFIXES) and first[".csv"] == other[".csv"]


def test_a_figure_that_was_shown_or_saved_before_gives_the_same_bytes(table, tmp_path):
    figure = kv.figures.plot_relative_norms(table)
    kv.save_figure(figure, tmp_path / "a" / "norms")
    figure.savefig(tmp_path / "shown.png", dpi=72)
    kv.save_figure(figure, tmp_path / "b" / "norms")
    assert all((tmp_path / "a" / f"norms{s}").read_bytes() == (tmp_path / "b" / f"norms{s}").read_bytes() for s in ALL)


def test_other_data_change_every_file(table, tmp_path):
    for name, factor in (("a", 1), ("b", 1.01)):
        kv.save_figure(
            kv.figures.plot_relative_norms(table.assign(keys=table["keys"] * factor)), tmp_path / name / "norms"
        )
    assert all((tmp_path / "a" / f"norms{s}").read_bytes() != (tmp_path / "b" / f"norms{s}").read_bytes() for s in ALL)


def test_the_readers_own_settings_and_the_style_in_force_change_nothing(table, tmp_path):
    figures = [kv.figures.plot_relative_norms(table) for _ in range(2)]
    kv.save_figure(figures[0], tmp_path / "a" / "norms")
    with plt.rc_context({"savefig.dpi": 37, "svg.hashsalt": "mine", "savefig.bbox": "tight", "pdf.compression": 0}):
        kv.save_figure(figures[1], tmp_path / "b" / "norms")
    assert all((tmp_path / "a" / f"norms{s}").read_bytes() == (tmp_path / "b" / f"norms{s}").read_bytes() for s in ALL)


def test_the_figure_comes_back_and_can_be_shown(table, tmp_path):
    figure = kv.figures.plot_relative_norms(table)
    engine = figure.get_layout_engine()
    assert kv.save_figure(figure, tmp_path / "norms") is figure
    assert figure.get_layout_engine() is engine and figure.axes[0].get_in_layout()


def test_the_stamp_names_model_seed_version_and_data_and_nothing_of_the_machine(table, tmp_path):
    model = kv.load("tiny")
    kv.save_figure(kv.figures.plot_relative_norms(table), tmp_path / "norms", model=model, seed=7)
    told = json.loads(Image.open(tmp_path / "norms.png").text["Description"])
    assert (
        told["figure"] == "norms" and told["seed"] == 7 and told["version"] == kv.__version__ and told["csv_rows"] == 3
    )
    assert told["models"] == [["tiny", model.fingerprint]]
    description = (
        ElementTree.parse(tmp_path / "norms.svg").getroot().find(".//{http://purl.org/dc/elements/1.1/}description")
    )
    assert description is not None and json.loads(description.text) == told
    for suffix in ALL:
        assert str(tmp_path).encode() not in (tmp_path / f"norms{suffix}").read_bytes()


def test_of_a_folder_only_its_own_name_is_told(table, tmp_path):
    class Loaded:
        name, fingerprint = str(tmp_path / "somewhere" / "llama-3.2"), "f" * 16

    kv.save_figure(kv.figures.plot_relative_norms(table), tmp_path / "norms-3.2", model=[Loaded(), Loaded()])
    told = json.loads(Image.open(tmp_path / "norms-3.2.png").text["Description"])
    assert told["models"] == [["llama-3.2", "f" * 16]] * 2


def test_the_csv_holds_what_is_plotted(table, tmp_path):
    kv.save_figure(kv.figures.plot_relative_norms(table), tmp_path / "norms")
    found = pd.read_csv(tmp_path / "norms.csv")
    assert list(found.columns) == list(table.columns)
    assert np.allclose(found, table, rtol=1e-8)


def test_float32_survives_the_csv(tmp_path):
    values = np.random.default_rng(0).normal(size=500).astype("float32")
    kv.save_figure(kv.figures.attach(plt.figure(), pd.DataFrame({"x": values})), tmp_path / "x")
    plt.close("all")
    assert (pd.read_csv(tmp_path / "x.csv").x.to_numpy().astype("float32") == values).all()


def test_a_named_index_and_the_keys_of_a_mapping_become_columns():
    labelled = pd.DataFrame({"accuracy": [0.5]}, index=pd.Index(["steered"], name="intervention"))
    assert data_of(kv.figures.attach(plt.figure(), labelled)).columns.tolist() == ["intervention", "accuracy"]
    joined = data_of(kv.figures.attach(plt.figure(), {("a", 1): labelled, ("b", 2): labelled}, ("method", "run")))
    plt.close("all")
    assert joined.to_dict("list") == {
        "method": ["a", "b"],
        "run": [1, 2],
        "intervention": ["steered"] * 2,
        "accuracy": [0.5] * 2,
    }


def test_a_figure_of_ones_own_saves_its_table_by_being_styled(table, tmp_path):
    @kv.figures.styled
    def plot_mine(table):
        figure, axis = plt.subplots()
        axis.plot(table.layer, table["keys"])
        return figure

    kv.save_figure(plot_mine(table=table), tmp_path / "mine")
    assert len(pd.read_csv(tmp_path / "mine.csv")) == 3


def test_a_figure_without_data_something_else_and_a_suffix_are_refused(table, tmp_path):
    figure, axis = plt.subplots()
    plt.close(figure)
    with pytest.raises(ValueError, match=r"carries no data .* kv\.figures\.attach"):
        kv.save_figure(figure, tmp_path / "a")
    with pytest.raises(ValueError, match="takes a Matplotlib figure, not a Axes"):
        kv.save_figure(axis, tmp_path / "a")
    with pytest.raises(ValueError, match=r"Leave out the suffix \.png"):
        kv.save_figure(kv.figures.plot_relative_norms(table), tmp_path / "a.png")
    for wrong in ("tiny", ["tiny"], 3):
        with pytest.raises(
            ValueError, match=r"stamp names loaded models, and ('tiny'|3) is not one; pass what kv.load returned"
        ):
            kv.save_figure(kv.figures.plot_relative_norms(table), tmp_path / "a", model=wrong)
    assert not list(tmp_path.iterdir())


def test_control_characters_are_written_out_so_that_every_picture_can_be_opened(tmp_path):
    table = pd.DataFrame({"x": [1, 2]})
    figure, axis = plt.subplots()
    axis.plot([1, 2], label="reply \x1b[31m \x0b \x00")
    axis.set_title("a \ud83d half\x07")
    axis.legend()
    plt.close(figure)
    name = "red\x1b[31m\nnorms\x01"

    class Loaded:
        name, fingerprint = "org/llama\x1b]0;title\x07", "f" * 16

    kv.save_figure(kv.figures.attach(figure, table), tmp_path / name, model=Loaded())
    for suffix in SUFFIXES:
        stamp = kv.figures.read_stamp(tmp_path / f"{name}{suffix}")
        assert stamp.figure == r"red\x1b[31m\nnorms\x01" and stamp.models[0][0] == r"org/llama\x1b]0;title\x07"
    root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
    assert root.tag.endswith("svg") and "\x1b" not in (tmp_path / f"{name}.svg").read_text()


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_two_writers_of_one_figure_leave_files_that_belong_together(table, tmp_path, rounds):
    def save(factor: float) -> None:
        for _ in range(rounds):
            pictures = {tmp_path / f"norms{suffix}": f"{factor}".encode() * 1000 for suffix in ALL}
            with one_writer(tmp_path):
                write_together(pictures)

    threads = [threading.Thread(target=save, args=(factor,)) for factor in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        len({(tmp_path / f"norms{suffix}").read_bytes() for suffix in ALL}) == 1 and len(list(tmp_path.iterdir())) == 4
    )


def test_an_error_while_drawing_or_writing_leaves_all_four_as_they_were(table, tmp_path, monkeypatch):
    figure = kv.figures.plot_relative_norms(table)
    kv.save_figure(figure, tmp_path / "norms")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def fail_at_the_last(path: Path, content: bytes) -> int:
        if path.suffix == ".csv":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail_at_the_last)
    with pytest.raises(OSError, match=r"Cannot write .*norms\.pdf: No space left"):
        kv.save_figure(kv.figures.plot_relative_norms(table * 2), tmp_path / "norms")
    monkeypatch.undo()
    monkeypatch.setattr(Stamp, "metadata", lambda self, suffix: 1 / 0 if suffix == ".png" else {})
    with pytest.raises(ZeroDivisionError):
        kv.save_figure(kv.figures.plot_relative_norms(table * 2), tmp_path / "norms")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert figure.get_layout_engine() is not None
