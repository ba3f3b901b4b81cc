"""Rules that read an answer out of a reply. What can't be read is `None`, which is counted as unread: a rule never
guesses, unless its name says so.

A rule takes the question and the whole text; where a task has closing words, that is the reply, those words and the few
tokens with which the model completed them. All rules look after the thoughts of a thinking model, and before a question
that the reply runs on into.

The rules by name, the main one (by which accuracy is computed) first: `CHOICE` for labels of choices, `NUMBER` for
numbers, and `word_rules` for words.
"""

from collections.abc import Mapping

from ..base import Rule
from .choices import ANY_CHOICE, CLOSING, augmented_extract, last_letter, strict_choice, two_stage
from .decimals import is_number, plain
from .numbers import last_number, marked_number, math_verify, strict_number
from .words import last_said, said, strict_said, word_rules

__all__ = [
    "ANY_CHOICE",
    "CHOICE",
    "CLOSING",
    "NUMBER",
    "augmented_extract",
    "is_number",
    "last_letter",
    "last_number",
    "last_said",
    "marked_number",
]
__all__ += ["math_verify", "plain", "said", "strict_choice", "strict_number", "strict_said", "two_stage", "word_rules"]

CHOICE: Mapping[str, Rule] = {
    "two_stage": two_stage,
    "augmented_extract": augmented_extract,
    "last_letter": last_letter,
    "strict": strict_choice,
}
"""The rules for multiple choice: what was written after the closing words, the paper's two rules, and what the reply
itself states.
"""
NUMBER: Mapping[str, Rule] = {
    "marked": marked_number,
    "strict": strict_number,
    "last_number": last_number,
    "math_verify": math_verify,
}
"""The rules for numbers: the one stated last, the only one stated, the last of all where none is stated, and the
package math-verify.
"""
