"""`kvsteer figure-info` reads back what `kv.save_figure` wrote, and says in one sentence why it can't."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.figures.stamp import SUFFIXES, Stamp


class Loaded:
    name, fingerprint = "org/llama", "0123456789abcdef"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    table = pd.DataFrame({"layer": [0, 1, 2], "keys": [0.1, 0.2, 0.3], "values": [0.0, 2.0, 1.5]})
    kv.save_figure(kv.figures.plot_relative_norms(table), folder / "norms", model=Loaded(), seed=3)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "figures"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_picture_tells_what_was_written(folder, capsys, suffix):
    stamp = kv.figures.read_stamp(folder / f"norms{suffix}")
    assert (stamp.figure, stamp.models, stamp.seed, stamp.version, stamp.csv_rows) == (
        "norms",
        (("org/llama", "0123456789abcdef"),),
        3,
        kv.__version__,
        3,
    )
    main(["figure-info", str(folder / f"norms{suffix}")])
    told = capsys.readouterr().out
    assert "figure: norms\nmodel: org/llama, fingerprint 0123456789abcdef\nseed: 3\n" in told
    assert "3 rows in norms.csv, those that it was drawn from" in told


def test_a_csv_that_is_gone_or_was_changed_is_told(folder, capsys):
    table = folder / "norms.csv"
    table.write_text(table.read_text().replace("0.2", "0.9"))
    with pytest.raises(SystemExit) as stopped:
        main(["figure-info", str(folder / "norms.png")])
    assert stopped.value.code == 2 and "norms.csv is not what it was drawn from (3 rows" in capsys.readouterr().out
    table.unlink()
    main(["figure-info", str(folder / "norms.png")])
    assert "3 rows; norms.csv is not beside it" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_foreign_picture_has_no_stamp(tmp_path, suffix):
    figure = plt.figure()
    figure.savefig(tmp_path / f"theirs{suffix}", metadata={"Title": "theirs"})
    plt.close(figure)
    assert "theirs" in refusal(tmp_path / f"theirs{suffix}", "carries no stamp of kvsteer_lab")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.98])
def test_a_truncated_picture_is_refused(folder, caplog, suffix, share):
    path = folder / f"norms{suffix}"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refusal(path, f"is no complete {suffix[1:].upper()} file")
    assert not caplog.records


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_something_else_under_its_name_is_refused(tmp_path, suffix):
    (tmp_path / f"text{suffix}").write_text("layer,keys\n0,1\n" * 20)
    refusal(tmp_path / f"text{suffix}", f"is no complete {suffix[1:].upper()} file")


def test_no_file_a_folder_and_another_suffix_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    refusal(tmp_path / "absent.pdf", "There is no file")
    refusal(tmp_path / "folder.png", "There is no file")
    refusal(tmp_path / "table.csv", r"give a .pdf, .svg or .png that kv.save_figure wrote")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"figure": "a"}', '{"figure": "a", "models": [1]}'])
def test_other_texts_are_no_stamps(text):
    with pytest.raises(ValueError, match="no stamp"):
        Stamp.read(text)


def refusal(path: Path, expected: str) -> str:
    """What the command says when it ends with exit code 1, which is one line."""
    with pytest.raises(SystemExit) as stopped:
        main(["figure-info", str(path)])
    told = str(stopped.value)
    assert told.startswith("kvsteer: ") and expected in told and "\n" not in told
    return told
