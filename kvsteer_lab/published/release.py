"""Reader of the release: files become runs or times, and what is wrong with a file becomes one sentence."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._util.progress import bar
from .runs import Answer, ReleasedRun
from .sources import Problem, Source, count_sources, iterate_sources, shown


@dataclass(frozen=True)
class Timing:
    """A file of measured times, as the release's performance file.

    Attributes:
        file: its path below the root.
        measured: label -> run -> numbers.

    Examples:
        >>> import kvsteer_lab as kv
        >>> times = {"baseline_1": {"run_0": {"time_per_token": 0.01, "batch_size": 1}}}
        >>> list(kv.published.Timing("all_results.json", times).measured)
        ['baseline_1']
    """

    file: str
    measured: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(repr=False)


@dataclass(frozen=True)
class Release:
    """What was found: runs, timings, and problems, in the order of the files.

    Attributes:
        root: the name of the folder or archive.
        runs: files with generations.
        timings: files with measured times.
        problems: what was skipped, or could not be read.

    Examples:
        >>> import kvsteer_lab as kv
        >>> print(kv.published.Release("mine", (), ()))
        0 runs with 0 answers, 0 files of times, 0 problems
    """

    root: str
    runs: tuple[ReleasedRun, ...] = field(repr=False)
    timings: tuple[Timing, ...] = field(repr=False)
    problems: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        answers = sum(len(run.answers) for run in self.runs)
        return (
            f"{len(self.runs)} runs with {answers:,} answers, {len(self.timings)} files of times, {len(self.problems)}"
            " problems"
        )


class UnreadableFile(ValueError):
    """A file is not what it should be; the message completes the sentence "the file ..."."""


def read_release(path: str | Path, progress: bool = False) -> Release:
    """Everything in a folder or a tar archive that looks like the paper's release.

    Files that lack a key, are cut off, empty, or not JSON, links, and names or paths that are hostile are named in
    `problems`; the rest is read.

    Args:
        path: the folder or archive.
        progress: show a bar over the files.

    Returns:
        Runs, times and problems.

    Raises:
        ValueError: `path` is neither a folder nor a tar archive.

    Examples:
        >>> import tempfile
        >>> import kvsteer_lab as kv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(kv.published.read_release(folder))
        0 runs with 0 answers, 0 files of times, 0 problems
    """
    parts = list(iterate_release(path, progress))
    return Release(
        Path(path).name,
        tuple(part for part in parts if isinstance(part, ReleasedRun)),
        tuple(part for part in parts if isinstance(part, Timing)),
        tuple(part for part in parts if isinstance(part, Problem)),
    )


def iterate_release(path: str | Path, progress: bool = False) -> Iterator[ReleasedRun | Timing | Problem]:
    """The same as `read_release`, one file at a time: memory does not grow with the release.

    Args:
        path: the folder or archive.
        progress: show a bar over the files.

    Yields:
        Runs, times and problems in the order of the files.

    Raises:
        ValueError: `path` is neither a folder nor a tar archive.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import kvsteer_lab as kv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "empty.json").write_text("")
        ...     [str(part) for part in kv.published.iterate_release(folder)]
        ['empty.json is empty']
    """
    total = count_sources(path)
    with bar(total, "reading", "file", progress) as ticks:
        for source in iterate_sources(path):
            if isinstance(source, Problem):
                yield source
                continue
            try:
                found: ReleasedRun | Timing | Problem = parse(source)
            except UnreadableFile as error:
                found = Problem(source.file, str(error), opened=True)
            yield found
            ticks.update()


def parse(source: Source) -> ReleasedRun | Timing:
    """A run or a file of times.

    Raises:
        UnreadableFile: it is neither.
    """
    content = _load(source.data)
    if not isinstance(content, dict):
        raise UnreadableFile(f"holds a JSON {type(content).__name__}, not a run's object")
    if not {"arguments", "metrics", "samples"} & content.keys() and _is_timing(content):
        return Timing(source.file, content)
    for key, kind, what in (
        ("arguments", dict, "an object"),
        ("metrics", dict, "an object"),
        ("samples", list, "a list"),
    ):
        if key not in content:
            raise UnreadableFile(f"has no key {key!r}")
        if not isinstance(content[key], kind):
            raise UnreadableFile(f"has a key {key!r} that is not {what}")
    arguments, samples = content["arguments"], content["samples"]
    for key in ("model", "task"):
        if not isinstance(arguments.get(key), str):
            raise UnreadableFile(f"does not say in its arguments which {key} was run")
    if not content["metrics"]:
        raise UnreadableFile("claims no metrics")
    if not samples:
        raise UnreadableFile("holds no samples")
    seen: Counter[str] = Counter()
    answers = tuple(answer for number, sample in enumerate(samples) for answer in _answers(sample, number, seen))
    return ReleasedRun(
        source.file, arguments, {shown(name): value for name, value in content["metrics"].items()}, answers
    )


def _load(data: bytes) -> Any:
    if not data.strip():
        raise UnreadableFile("is empty")
    try:
        return json.loads(data, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise UnreadableFile("is not text in UTF-8, so not JSON") from error
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
        raise UnreadableFile(f"{'is cut off' if cut else 'is not JSON'} ({error.msg}, line {error.lineno})") from error
    except (RecursionError, ValueError) as error:
        raise UnreadableFile("is not JSON that can be read (too deep, or a number too long)") from error


def _integer(digits: str) -> int | float:
    """An integer of a usual size; a longer one as a float, so that no later arithmetic can overflow."""
    return int(digits) if len(digits) < 20 else float(digits)


def _answers(sample: Any, number: int, seen: Counter[str]) -> Iterator[Answer]:
    """The replies to one sample: usually one, or a list of several."""
    if not isinstance(sample, dict):
        raise UnreadableFile(f"has a sample that is not an object (number {number + 1})")
    for key in ("id", "target", "response"):
        if key not in sample:
            raise UnreadableFile(f"has a sample without {key!r} (number {number + 1})")
    texts = sample["response"] if isinstance(sample["response"], list) else [sample["response"]]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UnreadableFile(f"has a sample whose response is not text (number {number + 1})")
    if not isinstance(sample["id"], str | int) or not isinstance(sample["target"], str | int | float):
        raise UnreadableFile(f"has a sample whose id or target is neither text nor number (number {number + 1})")
    prompt = sample.get("input")
    name = str(sample["id"])
    seen[name] += 1
    name = name if seen[name] == 1 else f"{name} #{seen[name]}"
    for turn, text in enumerate(texts):
        stored = _stored(sample.get("filtered_response"), turn, len(texts))
        if isinstance(sample.get("LLM_extracted_answer"), str):
            stored.setdefault("llm_extract", sample["LLM_extracted_answer"].partition("<|")[0].strip())
        yield Answer(name, str(sample["target"]), text, stored, sys.intern(prompt) if isinstance(prompt, str) else "")


def _stored(filtered: Any, turn: int, turns: int) -> dict[str, Any]:
    """What was read from one of several replies: a list of objects, or an object whose values are lists."""
    if isinstance(filtered, list):
        filtered = filtered[turn] if turn < len(filtered) else None
    if not isinstance(filtered, dict):
        return {}
    spread = turns > 1 and all(isinstance(value, list) and len(value) == turns for value in filtered.values())
    return {shown(name): value[turn] if spread else value for name, value in filtered.items()}


def _is_timing(content: dict[str, Any]) -> bool:
    runs = [run for entry in content.values() if isinstance(entry, dict) for run in entry.values()]
    return any(isinstance(run, dict) and "time_per_token" in run for run in runs)
