"""Dollars in texts are no formulas in JupyterLab, whose MathJax reads whatever is displayed as HTML."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from browsing import chromium, jupyter_lab, left_out, open_page, run_all

REASON = left_out()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"left out: {REASON}")

TEXT = r"$2 each, so she makes $18, \(x\) and \$5 \[y\] \begin{align}z\end{align}"
CELLS = (
    "from IPython.display import HTML, display\nimport pandas as pd\nimport kvsteer_lab as kv\n"
    "pd.set_option('display.max_colwidth', None)\n"
    "from kvsteer_lab._util.pair_html import pair_html\nfrom kvsteer_lab._util.html import Html\n"
    "from kvsteer_lab.explorer.views.mixing import Mixing\n"
    "from kvsteer_lab.generation.outputs import Generation, Generations\n"
    f"text = {TEXT!r}",
    "display(HTML('<p class=\"is-formula\">$x^2$ or $y^2$</p>'))",
    "rows = (Generation(0, text, 0, text, (1,)),)\n"
    "display(HTML('<div class=\"ours\">' + Generations(rows, (text,))._repr_html_() + '</div>'))",
    "display(HTML('<div class=\"ours\">' + kv.readable(pd.DataFrame({'text': [text]}))._repr_html_() + '</div>'))",
    "display(HTML('<div class=\"ours\">' + pair_html(text, text + '!', None) + '</div>'))",
    "mixing = Mixing(print)\nmixing.show(kv.ExplorerState(mix={text: 0.5}), [text])\n"
    "mixing.box.add_class('ours')\ndisplay(mixing.box)",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "root").mkdir()
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}  # else it asks
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "root" / "texts.ipynb")
    with chromium() as browser, jupyter_lab(folder / "root", folder / "own") as (server, token):
        found, _ = open_page(browser)
        run_all(found, server, token, "texts.ipynb")
        found.locator(".ours").nth(3).wait_for(state="attached")
        found.locator(".is-formula mjx-container").first.wait_for(state="attached")
        time.sleep(2)  # whatever MathJax has still to do
        yield found
        found.close()


def test_mathjax_is_there_and_reads_formulas(page: Any) -> None:
    assert page.locator(".is-formula mjx-container").count() == 2


def test_dollars_of_texts_are_dollars(page: Any) -> None:
    ours = page.locator(".ours")
    assert ours.count() == 4 and page.locator(".ours mjx-container").count() == 0
    for i in range(4):
        assert TEXT in " ".join(ours.nth(i).text_content().split()), i
