"""`kvsteer figure-info` reads back what `kv.save_figure` wrote, and says in one sentence why it can't."""

from __future__ import annotations

import json
import random
import shutil
import struct
import tracemalloc
import zlib
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
    refusal(path, f"is not a complete {suffix[1:].upper()} file")
    assert not caplog.records


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_something_else_under_its_name_is_refused(tmp_path, suffix):
    (tmp_path / f"text{suffix}").write_text("layer,keys\n0,1\n" * 20)
    refusal(tmp_path / f"text{suffix}", f"is not a complete {suffix[1:].upper()} file")


def test_no_file_a_folder_and_another_suffix_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    refusal(tmp_path / "absent.pdf", "There is no file")
    refusal(tmp_path / "folder.png", "There is no file")
    refusal(tmp_path / "table.csv", r"give a .pdf, .svg or .png that kv.save_figure wrote")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"figure": "a"}', '{"figure": "a", "models": [1]}'])
def test_other_texts_are_no_stamps(text):
    with pytest.raises(ValueError, match="not a stamp"):
        Stamp.read(text)


DEEP = "[" * 100_000
NAN = '{"figure": "a", "models": [], "seed": NaN, "version": "1", "csv_sha256": "", "csv_rows": 1}'


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 6, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(5)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


BOMBS = {
    "a picture of 400 gigabytes": png(10**5 * 3),
    "a picture of 10 gigabytes": png(50_000),
    "a text of 200 megabytes": png(1, png_chunk(b"zTXt", b"Description\0\0" + zlib.compress(bytes(200 << 20)))),
    "many texts": png(1, *[png_chunk(b"zTXt", b"Description\0\0" + zlib.compress(bytes(900_000)))] * 100),
    "levels inside one another": png(1, png_chunk(b"tEXt", b"Description\0" + DEEP.encode())),
    "NaN": png(1, png_chunk(b"tEXt", b"Description\0" + NAN.encode())),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_without_being_unpacked(tmp_path, content):
    (tmp_path / "bomb.png").write_bytes(content)
    tracemalloc.start()
    refusal(tmp_path / "bomb.png", "")
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_an_svg_that_expands_or_goes_deep_is_refused(tmp_path):
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    (tmp_path / "laughs.svg").write_text(f"<!DOCTYPE svg [{entities}]><svg>&a11;</svg>")
    refusal(tmp_path / "laughs.svg", "is not a complete SVG file")
    (tmp_path / "deep.svg").write_text("<svg>" * 50_000 + "</svg>" * 50_000)
    refusal(tmp_path / "deep.svg", "")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1.5},
        {"seed": "1"},
        {"models": [["a", 1]]},
        {"models": "ab"},
        {"csv_rows": -1},
        {"csv_rows": "3"},
        {"csv_sha256": "0"},
        {"version": None},
        {"figure": ["a"]},
    ],
)
def test_a_stamp_of_other_types_is_none(change):
    good = Stamp("a", (("org/llama", "2-0123456789abcdef-01234567"),), 3, "1", "0" * 64, 3)
    text = good.metadata(".svg")["Description"]
    assert Stamp.read(text) == good
    with pytest.raises(ValueError, match="not a stamp"):
        Stamp.read(json.dumps({**json.loads(text), **change}))


@pytest.mark.parametrize("n", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_mutated_pictures_are_read_or_refused(folder, n):
    rng = random.Random(0)
    for suffix in SUFFIXES:
        path = folder / f"norms{suffix}"
        content = path.read_bytes()
        for _ in range(n // 3):
            mutated = bytearray(content)
            for _ in range(rng.randint(1, 8)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            path.write_bytes(mutated)
            try:
                kv.figures.read_stamp(path)
            except ValueError as error:
                assert "\n" not in str(error)


def refusal(path: Path, expected: str) -> str:
    """What the command says when it ends with exit code 1, which is one line."""
    with pytest.raises(SystemExit) as stopped:
        main(["figure-info", str(path)])
    told = str(stopped.value)
    assert told.startswith("kvsteer: ") and expected in told and "\n" not in told
    return told
