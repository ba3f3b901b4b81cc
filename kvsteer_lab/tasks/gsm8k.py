"""GSM8K (Cobbe et al. 2021): grade-school word problems with human steps."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import field_validator

from .base import Question, Rule
from .benchmark import Benchmark
from .rules import NUMBER, is_number, marked_number, plain
from .source import Row, Source, Text

_MARKS = re.compile(r"<<[^>]*>>")


class GSM8KRow(Row):
    """The dataset's own columns: the answer holds the steps, `####`, and the number."""

    question: Text
    answer: Text

    @field_validator("answer")
    @classmethod
    def _has_a_number(cls, answer: str) -> str:
        _, mark, number = answer.rpartition("####")
        if not mark or not is_number(number):
            raise ValueError("it doesn't end in '####' and a number")
        return answer


class GSM8K(Benchmark):
    """Read from `gsm8k_PART.jsonl` or `.parquet`, or `openai/gsm8k`.

    The test part is the test split; the train part is divided into extraction and dev. Replies in steps are the
    dataset's human ones.
    """

    name = "gsm8k"
    styles = ("direct", "stepwise")
    max_new_tokens = 512
    source = Source(("gsm8k",), ("train", "test"), "openai/gsm8k", "main")
    row = GSM8KRow

    @staticmethod
    def ask(row: Row) -> Question:
        assert isinstance(row, GSM8KRow)
        steps, _, number = row.answer.rpartition("####")
        answer = plain(number)
        end = f"The answer is {answer}."
        return Question(
            "", row.question, answer, {"direct": end, "stepwise": f"{_MARKS.sub('', steps).strip()}\n{end}"}
        )

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The number stated last first; then a strict rule, the last number of all where none is stated, and
        math-verify.
        """
        return NUMBER

    def read_answer(self, text: str) -> str | None:
        """The number that the reply states last, after `####`, "the answer is" and the like; `None` if it states none.

        >>> import kvsteer_lab as kv, tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     row = '{"question": "What is 2 + 2?", "answer": "2 + 2 = 4\\\\n#### 4"}'
        ...     _ = pathlib.Path(folder, "gsm8k_test.jsonl").write_text(row)
        ...     GSM8K(folder).read_answer("So the answer is 4.")
        '4'
        """
        return marked_number(Question("", "", ""), text)
