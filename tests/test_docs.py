"""The documentation: it builds without a warning and without a network, leaves out no public name and no notebook, and
its guides run as they stand.
"""

import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from sphinx.errors import SphinxError

import kvsteer_lab as kv
from kvsteer_lab.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GUIDES = sorted(path.stem for path in (ROOT / "docs" / "guides").glob("*.md") if path.stem != "index")
CODE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "docs"))
    from extensions import commands, docstrings, gallery, reference


# --- guides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs_and_prints_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = CODE.findall((ROOT / "docs" / "guides" / f"{name}.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 3
    namespace = {"__name__": f"guide_{name}"}
    for number, (code, says) in enumerate(blocks):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{name}.md, block {number}", "exec"), namespace)
        assert printed.getvalue() == says, (
            f"block {number} of docs/guides/{name}.md prints something else than is written below it"
        )


def test_there_are_guides_for_a_method_a_task_and_a_figure():
    assert {"method", "task", "figure"} <= set(GUIDES)


# --- gallery --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_card(path):
    chapter = gallery.read_chapter(path)
    assert chapter.question and chapter.learn.endswith((".", "?")) and chapter.runtime.endswith(".")
    image = gallery.thumbnail(chapter.picture)
    assert image.size == gallery.SIZE and len(image.getcolors(2**20)) > 5  # something is on it


def notebook(tmp_path, first, png=()):
    cells = [nbformat.v4.new_markdown_cell(first)]
    for tag, picture in png:
        output = nbformat.v4.new_output("display_data", {"image/png": picture})
        cells.append(nbformat.v4.new_code_cell("", outputs=[output], metadata={"tags": [tag]} if tag else {}))
    path = tmp_path / "42_answers.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


WHOLE = (
    "# Why?\n\n**What you'll learn.** How. And more.\n\n**Runtime and hardware.** Seconds on a CPU. `KVSTEER_MODEL`"
    " needs a GPU."
)


def test_a_card_shows_first_sentences_and_the_tagged_picture(tmp_path):
    chapter = gallery.read_chapter(notebook(tmp_path, WHOLE, [("", "Zmlyc3Q="), ("thumbnail", "c2Vjb25k")]))
    assert chapter == gallery.Chapter("42_answers", "Why?", "How.", "Seconds on a CPU.", b"second")
    assert gallery.read_chapter(notebook(tmp_path, WHOLE)).picture is None


def test_a_card_stops_at_the_first_clause(tmp_path):
    long = WHOLE.replace("How. And more.", "How it is done (in three ways), and why; and much else. And more.")
    assert gallery.read_chapter(notebook(tmp_path, long)).learn == "How it is done, and why."
    assert gallery.read_chapter(notebook(tmp_path, WHOLE.replace("How.", "How? Why not:"))).learn == "How?"
    cards = {path.stem: gallery.read_chapter(path).learn for path in (gallery.ROOT / "notebooks").glob("*.ipynb")}
    assert len(cards) > 10 and not {name: text for name, text in cards.items() if len(text) > 260}


@pytest.mark.parametrize("missing", ["# Why?", "**What you'll learn.**", "**Runtime and hardware.**"])
def test_a_notebook_without_what_its_card_shows_is_refused(tmp_path, missing):
    with pytest.raises(
        SphinxError,
        match=r"The first cell of notebooks/42_answers.ipynb has no line that begins with .+; its card .+ needs one\.$",
    ):
        gallery.read_chapter(notebook(tmp_path, WHOLE.replace(missing, "")))


# --- reference ------------------------------------------------------------------------------------------------


def test_every_public_name_is_on_one_page(tmp_path):
    reference.check_pages()
    with pytest.raises(
        SphinxError,
        match=(
            r"No page of docs/reference/ describes brand_new; add each public name to the `.. public::` of one page\."
        ),
    ):
        reference.check_pages(public=(*kv.__all__, "brand_new"))
    with pytest.raises(SphinxError, match="describes tune, which kvsteer_lab doesn't export"):
        reference.check_pages(public=tuple(name for name in kv.__all__ if name != "tune"))
    (tmp_path / "page.rst").write_text(".. public:: load\n   Model load\n")
    with pytest.raises(SphinxError, match="describes load more than once"):
        reference.check_pages(tmp_path, ("load", "Model"))


def test_annotations_are_shown_as_they_are_written():
    written, gives = docstrings.signature(None, "function", "", kv.extract, None, "()", None)
    assert (
        written.startswith(
            "(model: ~kvsteer_lab.models.model.Model, pairs: ~kvsteer_lab.vectors.pairs.ContrastiveSet, *, "
        )
        and gives == "~kvsteer_lab.vectors.kv.KVVectors"
    )
    written, _ = docstrings.signature(None, "function", "", kv.published.check_metrics, None, "()", None)
    assert written == "(run: ~kvsteer_lab.published.runs.ReleasedRun)"
    written, _ = docstrings.signature(None, "class", "", kv.CacheDelta, None, "()", None)
    assert "layers kv_heads head_dim" in written


def test_bars_and_colons_of_docstrings_are_text():
    lines = ["|S| of `a|b`", "", "Returns:", "    A row a way: all of them."]
    docstrings.prepare(None, "function", "", None, None, lines)
    assert lines == [r"\|S\| of `a|b`", "", "Returns:", "    : A row a way: all of them."]


def test_what_is_set_in_stays_as_it_is():
    lines = [
        "It splits:",
        "",
        "    value  |S|   read",
        "    rest   other",
        "",
        "The end.",
        "",
        "Args:",
        "    n: how many.",
        "",
        "    m: more |S|.",
    ]
    docstrings.prepare(None, "function", "", None, None, lines)
    assert (
        lines[2:7] == [".. code-block:: text", "", "    value  |S|   read", "    rest   other", ""]
        and lines[-1] == r"    m: more \|S\|."
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_is_described_by_its_parser(name):
    text = commands.help_of(name)
    assert text.startswith(f"usage: kvsteer {name}") and "options:" in text and "---" not in text
    assert max(map(len, text.splitlines())) <= commands.WIDTH


# --- the pages ------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page points to, what can be pointed to in it, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "source", "iframe") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every page of the site by its path, built where nobody else builds."""
    folder = tmp_path_factory.mktemp("docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        "docs",
        "-d",
        str(folder / "doctrees"),
        ".",
        str(folder / "html"),
    ]
    offline = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return {path: Page(path) for path in sorted((folder / "html").rglob("*.html"))}


def test_pages_load_nothing_from_elsewhere(pages):
    assert len(pages) > 30
    assert {
        load for page in pages.values() for load in page.loads if urlsplit(load).scheme or load.startswith("//")
    } == set()


def test_formulas_are_drawn_by_the_browser_itself(pages):
    chapter = next(path for path in pages if path.name == "07_coefficient_robustness.html").read_text(encoding="utf-8")
    assert "<msub><mi>c</mi><mi>k</mi></msub>" in chapter and "$c_k$" not in chapter


def test_links_between_pages_lead_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_every_public_name_and_every_notebook_has_its_place(pages):
    ids = set().union(*(page.ids for page in pages.values()))
    modules = {name: getattr(kv, name) for name in kv.__all__ if inspect.ismodule(getattr(kv, name))}
    assert [
        name
        for name in kv.__all__
        if name not in modules and name != "__version__" and f"kvsteer_lab.{name}" not in ids
    ] == []
    for found in modules.values():  # what the package exports itself is described there
        assert [
            name
            for name in reference.public_names(found)
            if {f"{found.__name__}.{name}", f"kvsteer_lab.{name}"}.isdisjoint(ids)
        ] == []
    front = next(page for path, page in pages.items() if path.name == "gallery.html")
    assert {f"../notebooks/{path.stem}.html" for path in NOTEBOOKS} <= set(front.links)
