"""Strings that something along the way might interpret, and what a reader sees of them."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser

from matplotlib import cbook

NASTY = (
    "$2 each, so she makes $18",
    "costs $$ and $x^2$",
    r"\(x\) \[y\] \begin{align}a\end{align} \ref{b}",
    r"\$5 \\ \n",
    "<b>bold</b><script>alert(1)</script>",
    "a & b &amp; &#36;1 &lt;",
    "\"double\" and 'single' `code` **strong** | cell",
    "{{ 7 * 7 }} {% raw %} %s {0}",
    "]]> --> <!-- ?>",
    "_hidden_ x_1^{2} ~",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "back\x08space \x00 \x7f \x9b31m \r over",
    "left\u202eright\u202c \u2066isolated\u2069",
    "lone \ud83d surrogate \udc00 and \ufffe",
    "two\nlines\tand a tab\u2028end",
    "[red]markup[/red] ${x}",
)
_PARTS = [*"$\\<>&\"'_^{}\n\u202e\x01", "$$", "\\$", "\x1b[1m", "a", " 2", "é"]


def made_up(n: int, seed: int = 0) -> list[str]:
    """More of them, put together by chance."""
    chance = random.Random(seed)
    return ["".join(chance.choices(_PARTS, k=chance.randint(1, 12))) for _ in range(n)]


# --- what is seen --------------------------------------------------------------------------------------------------


_FORMULA = re.compile(r"\$|\\[()\[\]\\$]|\\(begin|end|ref|eqref)\b")
"""What MathJax begins to read at: its delimiters, and the escapes that it takes away."""


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = [""]  # between two tags: where MathJax looks for a formula
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [f"{name}={value}" for name, value in attrs]
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def unknown_decl(self, data: str) -> None:
        self.tags.append("declaration")


def seen_in_html(source: str) -> str:
    """The text that a browser shows, after checking that MathJax finds no formula in it."""
    page = _read(source)
    for text in page.texts:
        assert text in ("$", "\\") or not _FORMULA.search(text), f"MathJax might read {text!r}"
    return "".join(page.texts)


def tags_in_html(source: str) -> list[str]:
    """The tags, less those that keep MathJax away."""
    bare = source.replace("<span>&#36;</span>", "").replace("<span>&#92;</span>", "")
    return _read(bare).tags


def _read(source: str) -> _Page:
    source.encode()  # no lone surrogate
    page = _Page()
    page.feed(source)
    page.close()
    return page


def seen_in_figure(label: str) -> str:
    """The text that Matplotlib draws for a label, the labels' own formulas as they are written."""
    label.encode()
    if not cbook.is_math_text(label):
        shown = label.replace(r"\$", "$")
    else:
        shown = label.replace(r"\$", "\0").replace("$", "").replace("\0", "$")
    return shown.removeprefix("\u2060")
