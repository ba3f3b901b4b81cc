"""A file is written whole or not at all, whoever else writes, wherever the path leads; nobody's file is destroyed."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvsteer_lab._util.files import _HOST, is_temporary, write_atomically, write_together


def write(path: Path, text: str = "new") -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- where the path leads -------------------------------------------------------------------------------------


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        null = Path("/dev/null")
    write(null)
    assert stat.S_ISCHR(null.stat().st_mode) and null.read_bytes() == b""
    assert not hidden(tmp_path)


def test_a_pipe_gets_the_whole_content(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write(pipe, "all of it")
        assert reader.communicate()[0] == b"all of it"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link, dangling = tmp_path / "data" / "real.txt", tmp_path / "link.txt", tmp_path / "dangling.txt"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "later.txt")
    write(link)
    write(dangling)
    assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()
    assert dangling.is_symlink() and (tmp_path / "later.txt").read_text() == "new"
    write_together({link: b"together", tmp_path / "other.txt": b"o"})
    assert link.is_symlink() and target.read_text() == "together" and not hidden(tmp_path) and not hidden(target.parent)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match=r"Cannot write .*there: Is a directory"):
        write(tmp_path / "there")


# --- permissions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_permissions_stay_as_they_are(tmp_path: Path, mode: int) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(mode)
    write(tmp_path / "a.txt")
    write_together({tmp_path / "b.txt": b"new"})
    for name in ("a.txt", "b.txt"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode and (tmp_path / name).read_text() == "new"


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.txt")
        write_together({tmp_path / "b.txt": b"new"})
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")} == {0o640}


# --- what others leave ----------------------------------------------------------------------------------------


def temporary(folder: Path, pid: int, host: str = _HOST) -> Path:
    path = folder / f".vectors.{host}-{pid}-0123abcd.safetensors"
    path.write_text("half")
    assert is_temporary(path)
    return path


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path, dead: int) -> None:
    left = [temporary(tmp_path, pid, host) for pid, host in ((dead, _HOST), (os.getpid(), _HOST), (dead, "01234567"))]
    other = tmp_path / ".vectors-mine.safetensors"
    other.write_text("a hidden file of the user's own")
    write(tmp_path / "another.txt")
    assert [path.exists() for path in (*left, other)] == [False, True, True, True]
    temporary(tmp_path, dead)
    write_together({tmp_path / "figure.csv": b""})
    assert [path.exists() for path in (*left, other)] == [False, True, True, True]


@pytest.mark.parametrize("writers", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_writers_at_the_same_time_leave_one_whole_file_and_nothing_else(tmp_path: Path, writers: int) -> None:
    script = (
        "import sys, pathlib\nfrom kvsteer_lab._util.files import write_atomically, write_together\n"
        "folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "for _ in range(60):\n"
        "    write_atomically(folder / 'a.txt', lambda file: file.write_text(name * 5000))\n"
        "    write_together({folder / 'b.txt': name.encode() * 5000, folder / 'c.txt': name.encode()})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), f"{i:x}"]) for i in range(writers)]
    assert [process.wait() for process in running] == [0] * writers
    for name in ("a.txt", "b.txt"):
        found = (tmp_path / name).read_text()
        assert len(found) == 5000 and len(set(found)) == 1
    assert not hidden(tmp_path)


def test_a_killed_writer_leaves_what_the_next_one_removes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, pathlib\nfrom kvsteer_lab._util.files import write_atomically\n"
        "def die(file):\n    file.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), die)"
    )
    (tmp_path / "a.txt").write_text("old")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], check=False)
    assert (tmp_path / "a.txt").read_text() == "old" and len(hidden(tmp_path)) == 1
    write(tmp_path / "other.txt")
    assert not hidden(tmp_path)


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_save_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path, kills: int) -> None:
    script = (
        "import itertools, sys, pathlib\nfrom kvsteer_lab._util.files import write_atomically, write_together\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "for i in itertools.count():\n"
        "    text = f'{i % 10}' * 100_000\n"
        "    write_atomically(folder / 'a.txt', lambda file: file.write_text(text))\n"
        "    write_together({folder / 'b.txt': text.encode()})\n"
    )
    rng, most = random.Random(0), 0
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("9" * 100_000)
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
        time.sleep(0.1 + 0.2 * rng.random())
        process.kill()
        process.wait()
        for name in ("a.txt", "b.txt"):
            found = (tmp_path / name).read_text()
            assert len(found) == 100_000 and len(set(found)) == 1
        most = max(most, len(hidden(tmp_path)))
    write(tmp_path / "last.txt")
    assert most <= 2 and not hidden(tmp_path)


def test_a_long_name_and_one_that_is_no_utf8_are_written(tmp_path: Path) -> None:
    for name in ("ä" * 120, os.fsdecode(b"\xff.txt")):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"
