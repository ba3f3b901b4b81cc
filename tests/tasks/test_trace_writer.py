"""The trace writer against a server that speaks the protocol and misbehaves on demand."""

from __future__ import annotations

import asyncio
import email.utils
import html
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chat_server import Server, cut_off, drip, hang, raw, says, status, verbatim
from filelock import FileLock
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.tasks.base import Question
from kvsteer_lab.tasks.styles import STYLES, detect_style
from kvsteer_lab.tasks.traces import endpoint as module
from kvsteer_lab.tasks.traces.endpoint import Endpoint
from kvsteer_lab.tasks.traces.http_request import Bearer
from kvsteer_lab.tasks.traces.instructions import INSTRUCTIONS
from kvsteer_lab.tasks.traces.secrets import key_in, without_key

KEY = "sk-very-secret-0123456789"


def solve(prompt: str) -> str:
    number = re.findall(r"legs have (\d+)", prompt)[-1]
    return f"Step 1: {number} animals have 4 legs each.\nThe answer is {4 * int(number)}."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(solve) as running:
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "traces.jsonl"


def write(server: Server | str, out: Path, **settings: Any) -> kv.Traces:
    url = server if isinstance(server, str) else server.url
    given = {"task": Toy(), "style": "stepwise", "n": 10, "model": "m", "pause": 0.001, "progress": False, **settings}
    return kv.write_traces(given.pop("task"), given.pop("style"), out, base_url=url, **given)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def questions_asked(server: Server) -> list[str]:
    return [re.findall(r"How many legs have \d+ \w+\?", a["body"]["messages"][-1]["content"])[0] for a in server.asked]


# --- writing --------------------------------------------------------------------------------------------------


def test_replies_become_traces_and_contrastive_sets(server: Server, out: Path, tokenizer: Any) -> None:
    traces = write(server, out)
    assert len(traces) == 10 and traces.styles == ("stepwise",) and traces.rejected == {}
    assert len(set(questions_asked(server))) == 10
    task = kv.with_traces(Toy(), traces)
    pairs = kv.ContrastiveSet.few_shot(task, tokenizer, style="stepwise", n=5, shots=2)
    assert all(p.count("animals have 4 legs each") == 2 for p in pairs.positive)


def test_the_request_is_the_protocol_s(server: Server, out: Path) -> None:
    write(server, out, n=1, temperature=0.5, max_tokens=77)
    request = server.asked[0]
    assert request["path"] == "/v1/chat/completions" and request["headers"]["Authorization"] == f"Bearer {KEY}"
    assert {k: v for k, v in request["body"].items() if k != "messages"} == {
        "model": "m",
        "temperature": 0.5,
        "max_tokens": 77,
    }
    (message,) = request["body"]["messages"]
    asked = questions_asked(server)[0]
    assert message["role"] == "user" and message["content"].startswith(asked) and "'Step 1:'" in message["content"]
    form = re.search(r"another question\): The answer is (\d+)\.$", message["content"])
    own = 4 * int(re.findall(r"\d+", asked)[0])
    assert form and int(form[1]) != own, "the form of the answer is shown by another question's"
    write(server, out.with_name("b"), n=1, temperature=None, max_tokens=None)
    assert server.asked[1]["body"].keys() == {"model", "messages"}
    write(server.url + "/chat/completions/", out.with_name("c"), n=1)
    assert server.asked[2]["path"] == "/v1/chat/completions"


def test_the_gold_answer_is_told_only_where_the_instruction_asks_for_it(server: Server, out: Path) -> None:
    write(server, out, n=1, instruction="The answer is known to be {answer}; explain.", style="pirate")
    asked = server.asked[0]["body"]["messages"][-1]["content"]
    assert f"known to be {solve(asked).split()[-1].rstrip('.')}; explain" in asked
    assert rows_of(out)[0]["style"] == "pirate"


def test_every_reply_is_kept_with_its_verdict(server: Server, out: Path) -> None:
    server.faults = [
        says("Step 1: no. The answer is 999."),
        says(None),
        says("Step 1: and so", "length"),
        says("x", "content_filter"),
    ]
    server.faults.append(status(400, "bad words", error_code="content_filter"))
    server.faults.append(says("<think>hm, hm</think>\n\nThe answer is 1."))
    traces = write(server, out, n=9, concurrency=1)
    assert len(traces) == 3 and traces.rejected == {"wrong answer": 2, "empty": 1, "truncated": 1, "filtered": 2}
    rows = rows_of(out)
    assert len(rows) == 9 and rows[0]["text"].endswith("999.") and rows[0]["read"] == "999"
    assert rows[5]["text"] == "The answer is 1.", "thoughts are no part of the reply"
    assert [r["detected"] for r in rows[6:]] == ["stepwise"] * 3
    assert "rejected: 2 wrong answer" in repr(traces) and kv.Traces.load(out) == traces


def test_each_style_has_an_instruction_whose_opening_its_detector_knows() -> None:
    assert tuple(INSTRUCTIONS) == ("direct", *[s for s in INSTRUCTIONS if s != "direct"]) and set(INSTRUCTIONS) == set(
        STYLES
    )
    for style, told in INSTRUCTIONS.items():
        opening = re.search(r"'(.+?)'|(\[Premise\])", told)
        assert style == "direct" or (
            opening and detect_style(f"{opening[1] or opening[2]} a thing that is so and so.") == style
        )


@pytest.mark.skipif(
    not os.environ.get("KVSTEER_DATA_DIR"), reason="KVSTEER_DATA_DIR names no folder with the real files"
)
@pytest.mark.parametrize("name", ["gsm8k", "arc_challenge", "commonsense_qa", "piqa"])
def test_it_writes_for_the_benchmarks(name: str, server: Server, out: Path, tiny: kv.Model) -> None:
    task = kv.tasks.get(name)
    by_text = {task.chat(q)[-1]["content"]: q for q in task.questions("extraction")}
    server.answer = lambda prompt: (
        f"If so, then so. {by_text[prompt.rpartition(chr(10) * 2 + 'Reason along')[0]].replies['direct']}"
    )
    traces = write(server, out, task=task, style="causal_chain", n=12)
    assert len(traces) == 12 and {r["detected"] for r in rows_of(out)} == {"causal_chain"}
    pairs = kv.ContrastiveSet.few_shot(kv.with_traces(task, traces), tiny.tokenizer, style="causal_chain", n=6, shots=2)
    assert all(p.count("If so, then so.") == 2 and n.count("If so") == 0 for p, n in pairs)


# --- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        status(429, headers={"Retry-After": "0"}),
        status(500),
        status(503, headers={"Retry-After": "soon"}),
        raw(b'{"choices": [{"message": {"content": "Step'),
        raw(b'{"choices": []}'),
        raw(b'{"choices": [{"message": {"content": 7}}]}'),
        raw(b"[1]"),
        raw(b"<html>"),
        cut_off,
    ],
    ids=["429", "500", "503", "truncated", "empty", "number", "list", "html", "hung up"],
)
def test_faults_that_pass_are_asked_again(fault: Any, server: Server, out: Path) -> None:
    server.faults = [fault, fault]
    assert len(write(server, out, n=3, concurrency=1)) == 3
    assert len(server.asked) == 5 and len(set(questions_asked(server))) == 3


def test_a_server_that_says_nothing_counts_as_lost(server: Server, out: Path) -> None:
    server.faults = [hang(0.4)]
    assert len(write(server, out, n=2, concurrency=1, timeout=0.1)) == 2
    server.faults = [hang(0.4)] * 2
    with pytest.raises(
        ConnectionError,
        match=(
            r"gave no usable reply in 2 tries, the last time: no answer within 0\.1 seconds\. 2 replies are in"
            r" .*traces\.jsonl"
        ),
    ):
        write(server, out, n=3, timeout=0.1, retries=1)


def test_a_fault_that_does_not_pass_ends_the_run_and_keeps_what_came(server: Server, out: Path) -> None:
    server.faults = [says("The answer is 0.")] * 4 + [status(500, "out of order")] * 30
    with pytest.raises(
        ConnectionError,
        match=(
            r"in 3 tries, the last time: status 500 \(out of order\)\. 4 replies are in .*; the same call goes on from"
            r" there"
        ),
    ):
        write(server, out, retries=2, concurrency=1)
    asked = len(server.asked)
    server.faults = []
    write(server, out)
    assert len(server.asked) - asked == 6 and len(rows_of(out)) == 10


def test_a_refused_key_is_not_tried_again(server: Server, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = [status(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(
        ConnectionError,
        match=(
            r"refused the key in the environment variable OPENAI_API_KEY \(401\); put a valid one there, or name"
            r" another"
        ),
    ):
        write(server, out, n=1)
    monkeypatch.delenv("OPENAI_API_KEY")
    server.faults = [status(401)]
    with pytest.raises(
        ConnectionError, match=r"wants a key, and there is none in the environment variable OPENAI_API_KEY \(401\)"
    ):
        write(server, out, n=1)
    assert len(server.asked) == 2 and "Authorization" not in server.asked[1]["headers"]
    monkeypatch.setenv("MY_KEY", "other")
    write(server, out, n=1, api_key_env="MY_KEY")
    assert server.asked[-1]["headers"]["Authorization"] == "Bearer other"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            status(404, "no model 'm'"),
            (
                r"refused the request with status 404 \(no model 'm'\); correct the address, the model's name or the"
                r" settings"
            ),
        ),
        (status(400, "use max_completion_tokens"), r"status 400 \(use max_completion_tokens\)"),
        (status(403, f"{KEY} may not"), r"status 403 \(\*\*\* may not\)"),
        (status(308, headers={"Location": "http://127.0.0.1:9/"}), "status 308"),
        (status(429, "pay first", error_code="insufficient_quota"), r"status 429 \(pay first\)"),
        (
            status(429, headers={"Retry-After": "86400"}),
            r"asks to wait 86400 seconds \(status 429 \(busy\)\); try again later",
        ),
    ],
)
def test_refusals_are_not_tried_again(fault: Any, message: str, server: Server, out: Path) -> None:
    server.faults = [fault]
    with pytest.raises(ConnectionError, match=message):
        write(server, out, n=1)
    assert len(server.asked) == 1


def test_an_unreachable_endpoint_is_one_sentence_and_leaves_no_file(server: Server, out: Path) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    begun = time.monotonic()
    with pytest.raises(
        ConnectionError, match=rf"^Nothing answers at {url} \(.*refused.*\); start the server or correct base_url\.$"
    ):
        write(url, out, pause=60)
    assert not out.exists() and time.monotonic() - begun < 5


# --- waiting --------------------------------------------------------------------------------------------------


class Clock:
    """Notes the pauses and spends none."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.pauses: list[float] = []
        self.stop_at = stop_at

    def wait(self, timeout: float) -> bool:
        self.pauses.append(timeout)
        return len(self.pauses) == self.stop_at


def test_pauses_double_with_jitter_and_honour_retry_after(server: Server) -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    server.faults = [status(500)] * 3 + [
        status(429, headers={"Retry-After": "30"}),
        status(429, headers={"Retry-After": date}),
        status(500),
    ]
    clock = Clock()
    Endpoint(server.url, "m").complete([{"role": "user", "content": "legs have 3"}], clock)
    first, second, third, fourth, fifth, sixth = clock.pauses
    assert 0.5 <= first <= 1 and 1 <= second <= 2 and 2 <= third <= 4
    assert fourth == 30 and 95 < fifth <= 100 and 16 <= sixth <= 32
    assert len({module.pause_before(3, 1.0, None) for _ in range(20)}) > 10
    assert module.pause_before(50, 1.0, None) <= 60
    server.faults = [status(500)] * 9
    with pytest.raises(module.Stopped):
        Endpoint(server.url, "m").complete([{"role": "user", "content": "x"}], Clock(stop_at=2))


@pytest.mark.parametrize("headers", [True, False])
def test_a_deadline_is_for_the_whole_answer_however_slowly_it_comes(headers: bool, server: Server, out: Path) -> None:
    """A byte every 0.02 seconds resets the time limit of a single read for ever."""
    server.faults = [drip(headers=headers)] * 2
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=r"the last time: no answer within 0\.3 seconds"):
        write(server, out, n=1, timeout=0.3, retries=1)
    assert time.monotonic() - begun < 3


def test_a_greeting_that_drips_does_not_hang(server: Server, out: Path) -> None:
    server.greeting = drip(headers=True)
    begun = time.monotonic()
    assert len(write(server, out, n=1, timeout=0.5)) == 1, "something is there, so it is asked"
    assert time.monotonic() - begun < 3


def test_the_endpoint_is_asked_where_a_loop_runs_already(server: Server, out: Path) -> None:
    """As in a notebook, whose cells run in the loop of the kernel."""

    async def cell() -> kv.Traces:
        return write(server, out, n=1)

    assert len(asyncio.run(cell())) == 1


def test_requests_run_at_once_but_no_more_than_allowed(server: Server, out: Path) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(prompt: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return solve(prompt)

    server.answer = slow
    write(server, out, concurrency=3, n=12)
    assert most == 3


# --- going on -------------------------------------------------------------------------------------------------


def test_nothing_is_asked_twice_and_more_may_be_asked(server: Server, out: Path) -> None:
    server.faults = [says("The answer is 999.")]
    first = write(server, out, concurrency=1)
    assert write(server, out) == first and len(server.asked) == 10
    assert len(write(server, out, n=15)) == 14 and len(server.asked) == 15 and len(set(questions_asked(server))) == 15


@pytest.mark.parametrize("cut", [1, 5, 40, 150])
def test_a_half_written_last_line_is_dropped(cut: int, server: Server, out: Path) -> None:
    write(server, out)
    whole = out.read_bytes()
    out.write_bytes(whole[:-cut])
    assert len(kv.Traces.load(out)) == 9
    write(server, out)
    assert len(server.asked) == 11 and len(rows_of(out)) == 10 and len({r["id"] for r in rows_of(out)}) == 10


def test_killed_at_any_moment_it_goes_on(server: Server, out: Path) -> None:
    """A process that is killed leaves whole rows; the next run asks what is missing, and not what is there."""
    server.answer = lambda prompt: (time.sleep(0.02), solve(prompt))[1]
    code = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from toy import Toy
        from kvsteer_lab.tasks.traces.writing import write_traces
        url, out = {server.url!r}, {str(out)!r}
        write_traces(Toy(), "stepwise", out, base_url=url, model="m", n=50, concurrency=2, progress=False)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "NO_PROXY": "127.0.0.1"}
    )
    while len(server.asked) < 12:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    written = {r["id"] for r in rows_of(out)}
    asked = len(server.asked)
    assert 1 <= len(written) < 50
    assert len(write(server, out, n=50, concurrency=8)) == 50
    assert len(server.asked) - asked == 50 - len(written)


def test_ctrl_c_keeps_what_is_under_way(server: Server, out: Path) -> None:
    def answer(prompt: str) -> str:
        if len(server.asked) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return solve(prompt)

    server.answer = answer
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs are started with Ctrl-C ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            write(server, out, n=59, concurrency=4)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(0.1)
    assert 12 <= len(server.asked) < 59
    assert len(rows_of(out)) == len(server.asked), "what was asked was kept"
    write(server, out, n=59, concurrency=8)
    assert len(server.asked) == 59


def test_a_full_disk_leaves_whole_lines(server: Server, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(server, out, n=4)
    before = out.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(
            OSError,
            match=r"Cannot write to .*traces\.jsonl: No space left on device. Free some space; the same call goes on",
        ):
            write(server, out, concurrency=1)
    assert out.read_bytes() == before
    assert len(write(server, out)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"style": "causal_chain"},
            (
                r"traces\.jsonl was begun with style 'stepwise', not 'causal_chain', prompt '.*; choose another file,"
                r" or ask as before"
            ),
        ),
        ({"model": "n"}, "was begun with model 'm', not 'n'; choose"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"instruction": "Sing."}, "was begun with prompt"),
        ({"temperature": 1.0}, "temperature 0.0, not 1.0"),
    ],
)
def test_other_traces_are_not_mixed_in(change: dict[str, Any], message: str, server: Server, out: Path) -> None:
    write(server, out, n=2)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=message):
        write(server, out, n=3, **change)
    assert out.read_bytes() == before and len(server.asked) == 2


def test_foreign_files_are_left_alone(server: Server, out: Path) -> None:
    out.write_text('{"id": "toy/1", "style": "stepwise", "text": "mine"}\n{"half', encoding="utf-8")
    with pytest.raises(ValueError, match=r"Line 2 of .* can't be read as JSON: .*; write one trace a line"):
        write(server, out)
    out.write_text('{"id": "toy/1", "style": "stepwise", "text": "mine"}\n', encoding="utf-8")
    with pytest.raises(
        ValueError,
        match=r"traces\.jsonl holds something else than traces of kv\.traces\.write_traces; choose another file",
    ):
        write(server, out)
    assert "mine" in out.read_text() and not server.asked
    out.write_bytes(b"")
    assert len(write(server, out)) == 10, "an empty file is no one's"


def test_two_processes_do_not_write_to_one_file(server: Server, out: Path) -> None:
    write(server, out, n=2)
    with (
        FileLock(out.with_name(".traces.jsonl.lock")),
        pytest.raises(
            ValueError, match=r"Another process is writing to .*traces\.jsonl; wait for it, or choose another file"
        ),
    ):
        write(server, out, n=3)
    assert len(server.asked) == 2 and len(write(server, out, n=3)) == 3


@pytest.mark.parametrize("begun", [False, True])
def test_of_two_writers_one_asks_and_the_file_stays_whole(begun: bool, server: Server, out: Path) -> None:
    """Both used to read the file before either held the lock, and a new file was put in place twice."""
    for turn in range(8):
        path, told = out.with_name(f"{turn}.jsonl"), []
        if begun:
            write(server, path, n=1)

        def run(path: Path = path, told: list[str] = told) -> None:
            try:
                told.append(str(len(write(server, path, n=6))))
            except ValueError as error:
                told.append(str(error))

        server.asked.clear()
        writers = [threading.Thread(target=run) for _ in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert "6" in told and all(text == "6" or "Another process is writing" in text for text in told)
        assert len(server.asked) == len(set(questions_asked(server))) == 6 - begun, "nothing is asked twice"
        assert len(kv.Traces.load(path)) == len(rows_of(path)) == 6


def test_half_a_character_in_a_question_is_refused_before_anything_is_asked(server: Server, out: Path) -> None:
    class Broken(Toy):
        def questions(self, *arguments: Any) -> list[Question]:
            return [replace(q, text=q.text + "\ud83d") for q in super().questions(*arguments)]

    with pytest.raises(ValueError, match=r"Question 'toy/\d+' holds half of a character .*; mend it"):
        write(server, out, task=Broken())
    assert not server.asked and not out.exists()


def test_questions_that_changed_are_not_mixed_in(server: Server, out: Path) -> None:
    write(server, out, n=2)
    changed = rows_of(out)[1]["id"]

    class Other(Toy):
        def questions(self, *arguments: Any) -> list[Question]:
            return [
                replace(q, text="How many wings have 7 owls?") if q.id == changed else q
                for q in super().questions(*arguments)
            ]

    with pytest.raises(
        ValueError, match=rf"Question '{changed}' had another text when .*traces\.jsonl was begun; choose another file"
    ):
        write(server, out, task=Other())


# --- the key --------------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_but_in_the_request(
    server: Server, out: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told = [repr(Endpoint(server.url, "m")), repr(Bearer(partial(key_in, "OPENAI_API_KEY")).__dict__)]
    write(server, out, n=2)
    faults = [status(401, f"bad key {KEY}"), status(403, f"{KEY}"), status(500, f"{KEY} {KEY}"), raw(b"{"), cut_off]
    for fault in faults:
        server.faults = [fault] * 2
        with pytest.raises(ConnectionError) as caught:
            write(server, out, n=3, retries=1)
        seen: BaseException | None = caught.value
        while seen is not None:
            told += [str(seen), repr(seen), repr(seen.__dict__)]
            told += traceback.TracebackException.from_exception(seen, capture_locals=True).format()
            seen = seen.__cause__ or seen.__context__
    printed = capfd.readouterr()
    assert all("Authorization" in a["headers"] for a in server.asked), "the key was sent"
    for place in (*told, caplog.text, printed.out, printed.err, out.read_text()):
        assert KEY not in place
    assert server.pings and not any("Authorization" in ping for ping in server.pings)


# The key as servers may write it: as it is, escaped in JSON, twice, in a URL, in HTML, in other letters.
WRITTEN = [
    KEY,
    KEY.replace("-", "\\u002d"),
    KEY.replace("-", "\\\\u002D"),
    KEY.replace("-", "%2D"),
    KEY.replace("-", "%252d"),
    KEY.replace("-", "&#45;"),
    KEY.replace("-", "&amp;#x2d;"),
    KEY.upper(),
    f"x{KEY}y",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_the_key_is_struck_out_however_it_is_written(written: str, server: Server, out: Path) -> None:
    """Struck out before JSON was decoded, `\\u002d` hid it; and replies were stored as they came."""
    body = '{"error": {"message": "%s", "code": "%s", "type": ["%s"]}}' % ((written,) * 3)
    for code in (403, 500, 404):
        server.faults = [verbatim(f"HTTP/1.1 {code} No\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())]
        with pytest.raises(ConnectionError, match=r"\*\*\*") as caught:
            write(server, out, n=1, retries=0)
        assert not leaks(str(caught.value))
    reply = (
        '{"choices": [{"message": {"content": "My header was Bearer %s. The answer is 4."}, "finish_reason": "%s"}]}'
    )
    server.faults = [raw((reply % (written, written)).encode())]
    write(server, out, n=1)
    assert "My header was Bearer" in out.read_text() and not leaks(out.read_text())


def leaks(text: str) -> bool:
    """Whether the key can be read out of a text, decoded as often as one likes."""
    for _ in range(4):
        if KEY in text.lower():
            return True
        text = html.unescape(urllib.parse.unquote(re.sub(r"\\+u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)))
    return False


def test_the_key_is_struck_out_of_slashes_and_of_lines_that_are_no_headers(
    server: Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key := "sk/very/secret/0123")
    server.faults = [raw(json.dumps({"choices": [{"message": {"content": key}}]}).replace("/", "\\/").encode())]
    write(server, out, n=1)
    assert rows_of(out)[0]["text"] == "***"
    server.faults = [verbatim(f"HTTP/1.1 200 OK\r\nBearer {key}\r\n\r\n".encode())]
    with pytest.raises(ConnectionError, match="gave no usable reply") as caught:
        write(server, out, n=2, retries=0)
    assert key not in str(caught.value)


def test_a_key_cut_off_at_the_end_of_a_long_message_is_struck_out_first(server: Server, out: Path) -> None:
    server.faults = [status(403, "x" * (200 - len(KEY) // 2) + KEY)]
    with pytest.raises(ConnectionError) as caught:
        write(server, out, n=1)
    assert KEY[:8] not in str(caught.value)


def test_a_placeholder_for_a_key_is_left_in_replies(server: Server, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    server.faults = [says("The box is EMPTY. The answer is 0.")]
    write(server, out, n=1)
    assert rows_of(out)[0]["text"] == "The box is EMPTY. The answer is 0."
    assert without_key({"a": ["EMPTY", 3, None]}, "EMPTY") == {"a": ["EMPTY", 3, None]}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "The answer "}, {"type": "text", "text": "is 4."}],
        "thinking</think>\nThe answer is 4.",
    ],
)
def test_a_reply_in_parts_or_after_thoughts_is_one_text(content: Any, server: Server, out: Path) -> None:
    server.faults = [raw(json.dumps({"choices": [{"message": {"content": content}}]}).encode())]
    write(server, out, n=1)
    assert rows_of(out)[0]["text"] == "The answer is 4."


def test_nested_and_endless_replies_count_as_garbled(server: Server, out: Path) -> None:
    server.faults = [raw(b"[" * 200_000), raw(b'{"error": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")]
    with pytest.raises(ConnectionError, match="the last time: a reply "):
        write(server, out, n=1, retries=1)


def test_addresses_with_secrets_are_refused_without_showing_them(out: Path) -> None:
    for url in (f"http://me:{KEY}@127.0.0.1:9/v1", f"http://127.0.0.1:9/v1?key={KEY}", f"ftp://me:{KEY}@127.0.0.1/v1"):
        with pytest.raises(ValueError) as caught:
            write(url, out)
        assert KEY not in str(caught.value)
    with pytest.raises(
        ValueError,
        match=(
            r"base_url has a password or parameters beside http://127.0.0.1:9/v1; keep the key in an environment"
            r" variable"
        ),
    ):
        write(f"http://127.0.0.1:9/v1?key={KEY}", out)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n and concurrency must be at least 1, not 0 and 4"),
        ({"concurrency": 0}, "n and concurrency must be at least 1, not 10 and 0"),
        (
            {"n": 60},
            "Task 'toy' has 60 extraction questions, too few for 60 traces and one that shows the answer's form",
        ),
        (
            {"style": "pirate"},
            "There is no instruction for style 'pirate'; pass instruction=, or choose one of: direct, stepwise",
        ),
        ({"instruction": " "}, "The instruction is empty; say how the question shall be answered"),
        ({"model": ""}, "The endpoint needs the name of a model; pass model="),
        ({"temperature": float("nan")}, "temperature must be a finite number of at least 0, not nan"),
        ({"max_tokens": 0}, "max_tokens must be a finite number of at least 1, not 0"),
        ({"retries": -1}, "retries must be a finite number of at least 0, not -1"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(
    settings: dict[str, Any], message: str, server: Server, out: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write(server, out, **settings)
    assert not server.asked and not server.pings and not out.exists()


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "file:///etc", "http://", "http://[::1"])
def test_what_is_no_address_is_refused(url: str, out: Path) -> None:
    with pytest.raises(ValueError, match=r"base_url=.* is not an address; write one like 'http://localhost:8000/v1'"):
        write(url, out)


def test_a_key_that_cannot_be_sent_is_refused_unseen(
    server: Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(
        ValueError,
        match="The key in the environment variable OPENAI_API_KEY holds characters that no key has; set it again",
    ) as caught:
        write(server, out)
    assert KEY not in str(caught.value) and not out.exists()


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_writes_and_says_what(
    monkeypatch: pytest.MonkeyPatch, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    answers = {q.text: q.replies for q in kv.tasks.get("tiny-arithmetic").questions("extraction")}
    with Server(lambda prompt: answers[prompt.partition("\n\n")[0]]["causal_chain"]) as server:
        command = [
            "traces",
            "--out",
            str(out),
            "--base-url",
            server.url,
            "--model",
            "m",
            "--task",
            "tiny-arithmetic",
            "--style",
            "causal_chain",
            "--n",
            "6",
        ]
        server.faults = [says("So it is. The answer is 12345.")]
        main(command)
        assert "5 traces in style causal_chain kept, 1 rejected (1 wrong answer)." in capsys.readouterr().out
        url = server.url
    main(["info", str(out)])
    assert capsys.readouterr().out.startswith("Traces(5 causal_chain; rejected: 1 wrong answer; from ")
    vectors = out.with_name("v.safetensors")
    extract = [
        "extract",
        "--out",
        str(vectors),
        "--traces",
        str(out),
        "--style",
        "causal_chain",
        "--n",
        "4",
        "--shots",
        "2",
        "--max-prompt-tokens",
        "900",
    ]
    main(extract)
    assert kv.KVVectors.load(vectors).card.recipe["traces"] == kv.Traces.load(out).digest
    with pytest.raises(
        SystemExit, match="A contrastive set and traces can't both be extracted from; pass --pairs or --traces"
    ):
        main([*extract, "--pairs", "p.jsonl"])
    with pytest.raises(SystemExit, match=f"kvsteer: Nothing answers at {url}"):
        main([*command[:-1], "7"])
