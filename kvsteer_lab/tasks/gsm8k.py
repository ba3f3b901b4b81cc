"""GSM8K (Cobbe et al. 2021): grade-school word problems with human steps."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

from .base import Question, Task, check_split, split_of

_MARKS = re.compile(r"<<[^>]*>>")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FILES = {"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}


class GSM8K(Task):
    """Read from `gsm8k_train.jsonl` and `gsm8k_test.jsonl`, in the dataset's own columns `question` and `answer`.

    The dataset's test file is the test split; its train file is divided into extraction and dev by a hash of the id.

    Args:
        data_dir: the folder with the files (or one with them in `benchmarks/`); by default `KVSTEER_DATA_DIR`.

    Raises:
        ValueError: no folder was named, or the files aren't there.
    """

    name = "gsm8k"
    styles = ("direct", "stepwise")

    def __init__(self, data_dir: str | Path | None = None) -> None:
        folder = data_dir or os.environ.get("KVSTEER_DATA_DIR")
        if not folder:
            raise ValueError("Task 'gsm8k' needs its files: pass data_dir=, or set KVSTEER_DATA_DIR to the folder with gsm8k_train.jsonl.")
        places = [Path(folder), Path(folder) / "benchmarks"]
        found = next((p for p in places if (p / _FILES["train"]).is_file()), None)
        if found is None:
            raise ValueError(f"There is no {_FILES['train']} in {folder}; put the dataset's JSONL files there.")
        self.folder = found

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        check_split(split)
        found = self._read("test") if split == "test" else [q for q in self._read("train") if (split_of(q.id, dev=0.15, test=0) == split)]
        if seed is not None:
            random.Random(seed).shuffle(found)
        if n is not None and n > len(found):
            raise ValueError(f"The {split} split of gsm8k has {len(found)} questions, fewer than {n}.")
        return found[:n]

    def read_answer(self, text: str) -> str | None:
        """The number behind `####` or "answer is", else the last number, without commas and trailing zeros."""
        marked = re.findall(rf"(?:####|answer is)\s*\$?({_NUMBER.pattern})", text)
        found = marked or _NUMBER.findall(text)
        return _plain(found[-1]) if found else None

    def _read(self, part: str) -> list[Question]:
        path = self.folder / _FILES[part]
        questions = []
        for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n")):
            try:
                row = json.loads(line)
                steps, _, answer = row["answer"].rpartition("####")
                text = row["question"]
            except (ValueError, KeyError) as error:
                raise ValueError(f"Line {number + 1} of {path} is no GSM8K row with 'question' and 'answer' ({error}).") from error
            answer = _plain(answer.strip())
            end = f"The answer is {answer}."
            replies = {"direct": end, "stepwise": f"{_MARKS.sub('', steps).strip()}\n{end}"}
            questions.append(Question(f"gsm8k/{part}/{number}", text, answer, replies))
        return questions


def _plain(number: str) -> str:
    value = float(number.replace(",", ""))
    return str(int(value)) if value == int(value) else repr(value)
