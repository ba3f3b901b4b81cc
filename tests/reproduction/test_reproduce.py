"""`kvsteer reproduce` runs notebooks on another model, goes on where it was stopped, and tells what failed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from random_models import build, tokenizer

import kvsteer_lab as kv
from kvsteer_lab._util.locks import one_writer
from kvsteer_lab.cli.main import main
from kvsteer_lab.reproduction import chapters
from kvsteer_lab.reproduction.chapters import find_chapters
from kvsteer_lab.reproduction.reproduction import reproduce
from kvsteer_lab.reproduction.running import Record, read_record

PARAMETERS = """import os

MODEL = os.environ.get("KVSTEER_MODEL", "tiny")  # a folder or a hub id works, too
TASK, OTHER = "tiny-arithmetic", 1
FIGURES = os.environ.get("KVSTEER_FIGURES", "../runs/figures")"""
DRAWN = """import pandas as pd
import kvsteer_lab as kv

table = pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2], "values": [0.0, 2.0]})
kv.save_figure(kv.figures.plot_relative_norms(table), f"{FIGURES}/00_norms", seed=0)"""


def write_notebook(folder: Path, name: str, title: str, *cells: str) -> None:
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_markdown_cell(f"# {title}"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
    ]
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, folder / f"{name}.ipynb")


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notebooks that takes the place of the real one."""
    folder = tmp_path / "books"
    folder.mkdir()
    monkeypatch.setattr(chapters, "folder", lambda: folder)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(out: Path, *arguments: str, model: str = "tiny-control") -> int:
    """The exit code of the command."""
    try:
        main(["reproduce", "--model", model, "--out", str(out), *arguments])
    except SystemExit as stopped:
        assert isinstance(stopped.code, int), stopped.code
        return stopped.code
    return 0


def texts(out: Path, name: str) -> str:
    cells = nbformat.read(out / "notebooks" / f"{name}.ipynb", 4).cells
    return "".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)


def test_notebooks_run_on_the_model_and_are_shown_on_a_page(books, out, capsys):
    write_notebook(books, "00_figure", "00 · A <figure>", DRAWN)
    write_notebook(books, "01_model", "What runs?", "print('runs on', MODEL, TASK)")
    write_notebook(books, "02_not_asked", "Not asked", "1 / 0")
    assert run(out, "--notebooks", "00", "01_model") == 0
    assert texts(out, "01_model") == "runs on tiny-control tiny-arithmetic\n"
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        f"00_norms.{kind}" for kind in ("csv", "pdf", "png", "svg")
    ]
    assert "runs on tiny-control" in (out / "html" / "01_model.html").read_text()
    page = (out / "index.html").read_text()
    assert "A &lt;figure&gt;" in page and kv.load("tiny-control").fingerprint in page and version("torch") in page
    assert len(re.findall('class="state">done', page)) == 2 and len(re.findall('class="state">not run', page)) == 1
    for link in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert (out / link).is_file(), link
    assert "2 of 2 notebooks ran to the end" in capsys.readouterr().out
    assert str(books.parent) not in page + (out / "reproduction.json").read_text()


def test_what_is_done_is_not_run_again_until_something_changes(books, out, capsys, monkeypatch):
    write_notebook(books, "01_count", "Count", "open('count', 'a').write('x')")
    count = books / "count"
    assert run(out) == 0 and run(out) == 0 and count.read_text() == "x"
    assert "01_count: done before" in capsys.readouterr().out
    (out / "html" / "01_count.html").unlink()
    assert run(out) == 0 and count.read_text() == "xx"
    write_notebook(books, "01_count", "Count", "open('count', 'a').write('y')")
    assert run(out) == 0 and count.read_text() == "xxy"
    monkeypatch.setattr("kvsteer_lab.reproduction.reproduction.__version__", "9.9")
    assert run(out) == 0 and count.read_text() == "xxyy"
    executed = out / "notebooks" / "01_count.ipynb"
    executed.write_bytes(executed.read_bytes()[:-40])
    assert run(out) == 0 and count.read_text() == "xxyyy"


MEETS = (
    "import pathlib, time\n"
    "pathlib.Path({own!r}).touch()\n"
    "end = time.monotonic() + 60\n"
    "while not pathlib.Path({other!r}).exists() and time.monotonic() < end: time.sleep(0.05)\n"
    "assert pathlib.Path({other!r}).exists()"
)


def test_two_workers_run_two_notebooks_at_a_time_and_end_as_one_does(books, out, capsys):
    write_notebook(books, "01_one", "One", MEETS.format(own="one", other="two"), "print(MODEL)")
    write_notebook(books, "02_two", "Two", MEETS.format(own="two", other="one"), "print(MODEL)")
    write_notebook(books, "03_dies", "Dies", "import os\nos.kill(os.getppid(), 9)")
    write_notebook(books, "04_fails", "Fails", "1 / 0")
    assert run(out, "--workers", "2") == 2
    told = capsys.readouterr().out
    assert texts(out, "01_one") == texts(out, "02_two") == "tiny-control\n"
    assert "03_dies: failed after 0 s (0 s of a core): its process ended with exit code -9" in told
    assert "04_fails: failed" in told and "division by zero" in told
    assert (read_record(out, find_chapters(["01"])[0]) or pytest.fail("no record")).cpu_seconds > 0.1
    for alone in ("03", "04"):
        (books / find_chapters([alone])[0].path.name).unlink()
    assert run(out) == 0 and capsys.readouterr().out.count("done before") == 2
    with pytest.raises(ValueError, match="at least one worker, not 0"):
        reproduce("tiny-control", out, workers=0)


def test_a_valid_name_is_set_without_a_warning(books, out, caplog, capfd):
    write_notebook(books, "01_sets", "Sets", "print(OTHER)")
    assert run(out, "--set", "OTHER=6") == 0 and texts(out, "01_sets") == "6\n"
    assert "nknown parameter" not in caplog.text + "".join(capfd.readouterr())


def test_a_profile_gives_the_task_and_says_so_and_an_unknown_one_is_refused(books, out, tmp_path, capsys):
    write_notebook(books, "01_says", "Says", "print(TASK)")
    folder = tmp_path / "a-random-llama"
    build("llama", max_position_embeddings=2048).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    assert run(out, "--task", "tiny-tracking", model=str(folder)) == 0
    assert texts(out, "01_says") == "tiny-tracking\n"
    assert "Profile quick of a-random-llama: tiny-tracking" in capsys.readouterr().out
    measured = (out / "measured.json").read_text()
    assert run(out, "--task", "tiny-tracking", model=str(folder)) == 0, "strengths stay those that were measured first"
    assert (out / "measured.json").read_text() == measured and "done before" in capsys.readouterr().out
    with pytest.raises(ValueError, match="There is no profile 'small'; there are quick, full and own"):
        reproduce(str(folder), tmp_path / "elsewhere", profile="small")  # type: ignore[arg-type]
    assert not (tmp_path / "elsewhere").exists()


def test_parameters_are_set_kept_and_noticed(books, out, capsys):
    write_notebook(books, "01_sets", "Sets", "CV, NAME = 2.0, 'own'", "print(OTHER, MODEL)")
    write_notebook(books, "02_reads", "Reads", "print('reads')")
    cell = nbformat.read(books / "02_reads.ipynb", 4)
    cell.cells[1].source = cell.cells[1].source.replace("OTHER = ", "DOSES = ")
    nbformat.write(cell, books / "02_reads.ipynb")
    assert run(out, "--set", "OTHER=6") == 0
    assert texts(out, "01_sets") == "6 tiny-control\n"
    executed = nbformat.read(out / "notebooks" / "01_sets.ipynb", 4).metadata["kvsteer_lab"]
    assert executed["parameters"]["OTHER"] == 6
    page = (out / "index.html").read_text()
    assert page.count("<p>with OTHER=6</p>") == 1
    capsys.readouterr()
    assert run(out, "--set", "OTHER=6") == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert run(out, "--set", "OTHER=(1, None, 'x')", "DOSES=[0.5, true]") == 0
    told = capsys.readouterr().out
    assert (
        "01_sets: running again, with other parameters" in told
        and "02_reads: running again, with other parameters" in told
    )
    assert texts(out, "01_sets") == "[1, None, 'x'] tiny-control\n"
    assert run(out, "--set", "OTHER=(1, None, 'x')", "DOSES=[0.5, true]") == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert run(out) == 0, "and without, the chapters' own values count again"
    assert texts(out, "01_sets") == "1 tiny-control\n" and "<p>with" not in (out / "index.html").read_text()


def test_a_figure_that_is_gone_is_drawn_again_and_old_ones_go(books, out):
    work = Record("s", {}, "f", "v", 1.0, ("00_norms",))
    assert work.same_work(Record("s", {}, "f", "v", 2.0)) and not work.same_work(Record("s", {}, "g", "v"))
    write_notebook(books, "00_figure", "Figure", "open(f'{FIGURES}/00_norms.png', 'w').close()")
    reproduce("tiny-control", out, say=lambda line: None)
    (out / "figures" / "00_norms.png").unlink()
    (out / "figures" / "00_of_before.png").write_text("old")
    told: list[str] = []
    reproduce("tiny-control", out, say=told.append)
    assert "done before" not in " ".join(told)
    assert (out / "figures" / "00_norms.png").is_file() and not (out / "figures" / "00_of_before.png").exists()


def test_a_failure_is_told_the_others_run_and_the_next_run_tries_again(books, out, capsys):
    write_notebook(
        books,
        "01_fails",
        "Fails",
        "import os",
        "assert os.path.exists('mended'), 'a <reason>\\nof two lines'",
        "print('behind')",
    )
    write_notebook(books, "02_dies", "Dies", "import os", "os.path.exists('mended') or os._exit(1)")
    write_notebook(books, "03_runs", "Runs", "print('ran')")
    assert run(out) == 2
    told = capsys.readouterr().out
    assert re.search(
        r"01_fails: failed after \d+ s \(\d+ s of a core\): AssertionError: a <reason> of two lines\n", told
    )
    assert re.search(r"02_dies: failed after \d+ s \(.*[Kk]ernel died", told)
    assert "1 of 3 notebooks ran to the end" in told and texts(out, "03_runs") == "ran\n"
    page = (out / "index.html").read_text()
    assert (
        "AssertionError: a &lt;reason&gt; of two lines" in page and len(re.findall('class="state">failed', page)) == 2
    )
    assert "AssertionError" in (out / "html" / "01_fails.html").read_text()
    (books / "mended").touch()
    assert run(out) == 0
    assert "03_runs: done before" in capsys.readouterr().out and texts(out, "01_fails") == "behind\n"


def test_a_second_writer_is_refused_at_once_and_changes_nothing(books, out, monkeypatch):
    write_notebook(books, "01_quick", "Quick", "print('quick')")
    monkeypatch.setattr("kvsteer_lab.reproduction.reproduction._WAIT", 0.1)
    refused = []

    def second() -> None:
        try:
            reproduce("tiny-control", out, say=lambda line: None)
        except OSError as error:
            refused.append(str(error))

    with one_writer(out):
        thread = threading.Thread(target=second)  # for which a lock of this thread is another's
        thread.start()
        thread.join()
    assert refused == [f"Another process is writing to {out}; wait for it, or choose another folder."]
    assert not out.exists()
    assert run(out) == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 100_000, '{"model": 1}', '{"model": "tiny-control", "task": "tiny-arithmetic"}', "\ud800"],
)
def test_what_a_folder_says_of_itself_is_checked(books, out, content):
    write_notebook(books, "01_quick", "Quick", "print('quick')")
    out.mkdir()
    (out / "reproduction.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="can't be read; name another folder"):
        reproduce("tiny-control", out, say=lambda line: None)


def test_a_reproduction_whose_weights_were_marked_by_an_older_version_is_refused(books, out):
    write_notebook(books, "01_quick", "Quick", "print('quick')")
    out.mkdir()
    about = {"model": "tiny-control", "task": "tiny-arithmetic", "fingerprint": "19188fc239919a78"}
    (out / "reproduction.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="holds a reproduction by another version of kvsteer_lab"):
        reproduce("tiny-control", out, say=lambda line: None)


@pytest.mark.parametrize("change", [{"seconds": "1"}, {"figures": [1]}, {"error": None}, {"parameters": []}, None, [1]])
def test_a_record_of_other_types_is_none(books, out, change, tmp_path):
    write_notebook(books, "01_quick", "Quick", "print('quick')")
    chapter = find_chapters()[0]
    good = {"source": "s", "parameters": {"CV": 1}, "fingerprint": "f", "version": "v", "seconds": 1.5, "figures": []}
    (out / "notebooks").mkdir(parents=True)
    (out / "html").mkdir()
    (out / "html" / "01_quick.html").touch()
    book = nbformat.read(chapter.path, 4)
    for told, expected in ((good, True), ({**good, **change} if isinstance(change, dict) else change, False)):
        book.metadata["kvsteer_lab"] = told
        nbformat.write(book, out / "notebooks" / "01_quick.ipynb")
        assert (read_record(out, chapter) is not None) == expected


def test_a_killed_run_goes_on(books, out):
    write_notebook(books, "01_quick", "Quick", "print('quick')")
    write_notebook(
        books,
        "02_long",
        "Long",
        "import pathlib, time",
        "pathlib.Path('began').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)",
    )
    patched = (
        "import pathlib; from kvsteer_lab.cli.main import main; from kvsteer_lab.reproduction import chapters;"
        f" chapters.folder = lambda: pathlib.Path({str(books)!r}); main(['reproduce', '--model', 'tiny-control',"
        f" '--out', {str(out)!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", patched], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    waited = time.monotonic() + 120
    while not (books / "began").exists() and time.monotonic() < waited and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (books / "go").touch()
    assert [path.name for path in (out / "notebooks").iterdir()] == ["01_quick.ipynb"], (
        "what was cut short left nothing"
    )
    assert "01_quick" in (out / "index.html").read_text()
    done = subprocess.run([sys.executable, "-c", patched], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "01_quick: done before" in done.stdout and "02_long: done" in done.stdout


def test_the_evaluations_of_a_chapter_that_failed_are_kept_until_it_is_done(books, out):
    asked = (
        "import kvsteer_lab as kv\n"
        "task = kv.tasks.get(TASK)\n"
        "found = kv.evaluate(kv.load(MODEL), task, [], n=2, split='dev', generation={'max_new_tokens': 2})"
    )
    write_notebook(books, "01_asks", "Asks", asked, "assert OTHER == 2")
    assert run(out) == 2
    (kept,) = (out / "runs" / "01_asks").iterdir()
    assert kv.Run.load(kept).complete
    assert run(out, "--set", "OTHER=2") == 0
    assert not (out / "runs" / "01_asks").exists()


def test_bad_input_is_one_line_and_nothing_is_written(books, out, tmp_path, monkeypatch):
    write_notebook(books, "01_runs", "Runs", "print('ran')")

    def refused(*arguments: str, model: str = "tiny-control", to: Path = out) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["reproduce", "--model", model, "--out", str(to), *arguments])
        assert "\n" not in str(stopped.value)
        return str(stopped.value)

    assert "no/such/model" in refused(model="no/such/model")
    assert "There is no task 'mmlu'" in refused("--task", "mmlu")
    assert "There is no notebook '07'; there are 01." in refused("--notebooks", "07")
    assert "No notebook that is to run has a parameter 'CW'; there are OTHER." in refused("--set", "CW=6")
    assert "'CV' sets nothing; write NAME=VALUE" in refused("--set", "CV")
    assert "The value of OTHER, 'six', can't be read; write a number, a list as [1, 2], or a text in quotes" in refused(
        "--set", "OTHER=six"
    )
    assert "The value of OTHER, 'NaN', can't be read" in refused("--set", "OTHER=NaN")
    assert "OTHER is set twice" in refused("--set", "OTHER=1", "OTHER=2")
    for name, flag in (("MODEL", "--model"), ("TASK", "--task"), ("FIGURES", "--out")):
        assert f"{name} is set by {flag}; use that" in refused("--set", f"{name}='x'")
    assert not out.exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "draft.tex").touch()
    assert "holds other files and no reproduction" in refused(to=other) and len(list(other.iterdir())) == 1
    assert "is a file; name a folder" in refused(to=other / "draft.tex")
    assert run(out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "holds the reproduction of tiny-control on tiny-arithmetic, not of tiny on tiny-arithmetic" in refused(
        model="tiny"
    )
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (out / "reproduction.json").write_text("{")
    assert "reproduction.json can't be read; name another folder" in refused()
    monkeypatch.setattr(chapters, "folder", lambda: tmp_path / "nowhere")
    assert "The notebooks were not installed with the package" in refused()


def test_a_model_from_a_folder_is_told_by_its_own_name(books, out, tmp_path):
    folder = tmp_path / "models" / "a-random-llama"
    build("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    write_notebook(books, "01_loads", "Loads", "import kvsteer_lab as kv", "print(kv.load(MODEL).fingerprint, OTHER)")
    assert run(out, model=str(folder)) == 0
    assert texts(out, "01_loads") == f"{kv.load(folder).fingerprint} 1\n"
    assert json.loads((out / "reproduction.json").read_text())["model"] == "a-random-llama"
    assert str(tmp_path) not in (out / "index.html").read_text()


@pytest.mark.slow
def test_a_real_chapter_runs_on_a_random_model(out, tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    folder = tmp_path / "random-llama"
    build("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    assert run(out, "--notebooks", "01", model=str(folder)) == 0
    stamp = kv.figures.read_stamp(out / "figures" / "01_lengths.svg")
    assert stamp.models == (("random-llama", kv.load(folder).fingerprint),)


def test_every_notebook_is_a_chapter_with_a_title_and_takes_the_folder_of_its_figures():
    found = find_chapters()
    assert [chapter.number for chapter in found][:3] == ["00", "01", "02"]
    assert all(chapter.title and "FIGURES" in chapter.parameters for chapter in found)
    assert {chapter.number for chapter in found if "MODEL" not in chapter.parameters} <= {"10"}
