"""Text shown as it was written.

Whatever shows a text interprets some characters of it: a browser reads tags, MathJax turns `$2 each, so $18` into a
formula, Matplotlib does the same in labels, a terminal obeys escape sequences. The functions here prepare a text, one
for each kind of reader, so that what is seen is what was written. All views use them; nothing else in the package
escapes text.

Characters that cannot be seen but act (control characters, overrides of the writing direction) and those that no file
may hold (lone surrogates) are written out as in a Python string: `\\x1b`, `\\u202e`, `\\ud83d`.
"""

from __future__ import annotations

import html
import re

_LINES = {"\t": "\\t", "\n": "\\n", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ACTING = [
    *(i for i in (*range(0x20), *range(0x7F, 0xA0)) if chr(i) not in _LINES),  # control characters
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # overrides and isolates of the writing direction
    *(*range(0xD800, 0xE000), 0xFFFE, 0xFFFF),  # what neither UTF-8 nor XML can hold
]
_WRITTEN_OUT = {i: f"\\x{i:02x}" if i < 0x100 else f"\\u{i:04x}" for i in _ACTING} | {0x0D: "\\r"}
_ON_ONE_LINE = _WRITTEN_OUT | {ord(character): written for character, written in _LINES.items()}
_DELIMITER = re.compile(r"\$|\\(?=[()\[\]\\$]|begin|end|(?:eq)?ref|\Z)")  # of MathJax, as notebooks set it up
_NO_JOIN = "\u2060"  # has no width


def visible(text: object, *, one_line: bool = False) -> str:
    r"""A text without characters that act on what shows it: for terminals, logs and comments in code.

    Args:
        text: what was written; other objects as `str` gives them.
        one_line: whether tabs and line breaks are written out, too, as where a name must not begin a line of its own.

    >>> visible("red\x1b[31m\nline")
    'red\\x1b[31m\nline'
    >>> visible("a\nname", one_line=True)
    'a\\nname'
    """
    return str(text).translate(_ON_ONE_LINE if one_line else _WRITTEN_OUT)


def for_html(text: object) -> str:
    """A text as HTML that MathJax leaves alone, too: a dollar in an element of its own delimits no formula.

    >>> for_html("<b> costs $2")
    '&lt;b&gt; costs <span>&#36;</span>2'
    """
    return guard_from_mathjax(html.escape(visible(text)))


def for_attribute(text: object) -> str:
    """A text as the value of an HTML attribute in quotation marks, where neither tags nor formulas are read.

    >>> for_attribute('say "$2"')
    'say &quot;$2&quot;'
    """
    return html.escape(visible(text))


def guard_from_mathjax(source: str) -> str:
    """HTML in which MathJax finds no formula.

    Args:
        source: HTML whose tags hold neither dollars nor backslashes.

    >>> guard_from_mathjax("<td>$2, $18</td>")
    '<td><span>&#36;</span>2, <span>&#36;</span>18</td>'
    """
    return _DELIMITER.sub(lambda found: f"<span>&#{ord(found[0])};</span>", source)


def for_figure(text: object) -> str:
    r"""A text as a label in a Matplotlib figure, on one line: dollars delimit no formula, and a legend shows it.

    A legend leaves out labels that begin with an underscore; a joiner without width before it prevents that.

    >>> for_figure("$2 or $3")
    '\\$2 or \\$3'
    """
    label = visible(text, one_line=True).replace("$", r"\$")
    return _NO_JOIN + label if label.startswith("_") else label
