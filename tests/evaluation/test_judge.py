"""The judge: both orders, what it costs, agreement with labels by hand, faults; against a local server."""

import math
import re

import pytest
from chat_server import Server, status

import kvsteer_lab as kv
from kvsteer_lab.tasks import Question

QUESTION = Question("q", "What is 2 + 2?", "4")
RUBRIC = "The reply explains its answer."


def judge(server, **settings):
    endpoint = kv.outcomes.Endpoint(server.url, "judge", retries=1, pause=0.01, max_tokens=4, **settings)
    return kv.outcomes.Judge(endpoint, RUBRIC)


def sensible(asked):
    """Says yes to replies with "because", in whichever order the options stand."""
    yes = re.search(r"([AB]): yes", asked)[1]
    reply = re.search(r"<reply>\n(.*)\n</reply>", asked, re.DOTALL)[1]
    return yes if "because" in reply else "BA"[yes == "B"]


def test_a_sensible_judge_is_asked_in_both_orders():
    with Server(sensible) as server:
        one = judge(server)
        assert one.judge(QUESTION, "4, because 2 and 2 make 4.") == 1.0
        assert one.judge(QUESTION, "The answer is 4.") == 0.0
        asked = [a["body"]["messages"][-1]["content"] for a in server.asked]
    assert len(asked) == 4 and all(RUBRIC in a and QUESTION.text in a for a in asked)
    assert asked[0].endswith("A: yes, it does\nB: no, it does not")
    assert asked[1].endswith("A: no, it does not\nB: yes, it does")


@pytest.mark.parametrize("answer", ["A", "b", "**A**", "Answer: B."])
def test_a_judge_that_always_says_the_same_letter_says_nothing(answer):
    with Server(lambda asked: answer) as server:
        assert judge(server).judge(QUESTION, "4") == 0.5


def test_no_letter_is_no_verdict():
    with Server(lambda asked: "I would say that it depends.") as server:
        assert math.isnan(judge(server).judge(QUESTION, "4"))


def test_a_reply_is_asked_about_once():
    with Server(sensible) as server:
        one = judge(server)
        assert [one.judge(QUESTION, "4") for _ in range(3)] == [0.0] * 3
        assert len(server.asked) == 2


def test_agreement_with_labels_by_hand():
    labelled = [(QUESTION, f"{i}, because so.", True) for i in range(8)] + [
        (QUESTION, f"{i}.", i < 2) for i in range(8)
    ]
    with Server(sensible) as server:
        table = judge(server).agreement(labelled)
    rows = table.set_index("label")
    assert rows.loc["yes", "precision"] == 1.0 and rows.loc["yes", "recall"] == 0.8
    assert rows.loc["all", "precision"] == 14 / 16 and table.attrs == {"same_in_both_orders": 1.0, "unread": 0.0}
    with Server(lambda asked: "A") as server:
        table = judge(server).agreement(labelled)
    assert table.attrs["same_in_both_orders"] == 0.0 and table.set_index("label").loc["all", "precision"] == 0.0
    with Server(sensible) as server, pytest.raises(ValueError, match="labelled by hand"):
        judge(server).agreement([])


def test_faults_that_pass_are_asked_again_and_others_are_told_without_the_key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-0123456789")
    with Server(sensible) as server:
        server.faults = [status(503)]
        assert judge(server).judge(QUESTION, "4") == 0.0 and len(server.asked) == 3
    with Server(sensible) as server:
        server.faults = [status(401, "bad key sk-secret-0123456789")]
        with pytest.raises(ConnectionError, match="JUDGE_KEY") as told:
            judge(server, api_key_env="JUDGE_KEY").judge(QUESTION, "4")
        assert "sk-secret" not in str(told.value)
        assert server.asked[0]["headers"]["Authorization"] == "Bearer sk-secret-0123456789"


def test_it_is_an_outcome_and_needs_the_questions_text():
    model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    results = kv.evaluate(model, task, [], n=2, split="dev", generation={"max_new_tokens": 8}, progress=False)
    with Server(sensible) as server:
        one = judge(server)
        with pytest.raises(ValueError, match="pass the task"):
            results.measure(one)
        table = results.measure(one, task).outcomes_table()
    assert table.loc[("judge", "baseline"), "value"] == 0.0
    with pytest.raises(ValueError, match="needs a rubric"):
        kv.outcomes.Judge(one.endpoint, " ")
