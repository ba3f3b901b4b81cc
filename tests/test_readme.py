"""The README's examples run as they stand, those of the features page, too, and links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from kvsteer_lab.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEATURES = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def block(page: str, heading: str, language: str = "python") -> str:
    """The first block of code after a line of text."""
    return re.search(rf"```{language}\n(.*?)```", page[page.index(heading) :], re.DOTALL).group(1)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """What the first example leaves behind."""
    example = block(README, "## Fifteen lines")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    namespace: dict = {"folder": tmp_path_factory.mktemp("readme")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(namespace["folder"])
        exec(compile(example, "README.md", "exec"), namespace)
    return namespace


def test_the_first_example_runs(namespace):
    assert (namespace["folder"] / "stepwise.safetensors").is_file()
    printed = namespace["results"].summary().to_string()
    assert "baseline" in printed and "40 random vectors" in printed
    plain, steered = (
        namespace["results"].of(label).text.tolist() for label in ("baseline", namespace["steering"].label)
    )
    assert plain != steered


def test_the_second_example_runs_with_smaller_numbers(namespace, monkeypatch, capsys):
    monkeypatch.chdir(namespace["folder"])
    example = block(FEATURES, "## A claim that can be tested")
    for written, small in (("n=40", "n=4"), ("n=200", "n=8"), ("controls=40", "controls=2")):
        assert written in example
        example = example.replace(written, small)
    exec(compile(example, "features.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert (
        "p_holm" in printed
        and "truncated" in printed
        and (namespace["folder"] / "runs" / "test" / "config.json").is_file()
    )


def test_the_commands_run(namespace, monkeypatch, capsys):
    monkeypatch.chdir(namespace["folder"])
    commands = [line for line in block(FEATURES, "## On the command line", "bash").splitlines() if line.strip()]
    assert [shlex.split(line)[:2] for line in commands] == [
        ["kvsteer", name] for name in ("extract", "generate", "evaluate", "info")
    ]
    for line in commands:
        main(shlex.split(line)[1:])
    printed = capsys.readouterr().out
    assert "Step 1" in printed and "40 random vectors" in printed and "n_pairs: 100" in printed


@pytest.mark.parametrize("name", ["README.md", "docs/features.md", "docs/guarantees.md", "docs/guides/own_model.md"])
def test_links_lead_somewhere(name):
    page = ROOT / name
    found = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    links = [link.partition("#")[0] for link in found if not link.startswith("http")]
    assert len(links) >= 2
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short():
    assert len(README.split()) < 900
