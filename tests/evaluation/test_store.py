"""A run's folder: written in whole chunks, read back in order, joined with proof, and suspicious of what isn't its
own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab._util.files import _HOST
from kvsteer_lab.cli.main import main
from kvsteer_lab.evaluation.chunk_files import Note, write_rows
from kvsteer_lab.evaluation.identity import RunIdentity, hash_of
from kvsteer_lab.evaluation.merging import IncompleteRunError
from kvsteer_lab.evaluation.runs import Run, parse_shard

TEXTS = {"model": {"fingerprint": "f"}, "settings": {"seed": 0}}
IDENTITY = RunIdentity(TEXTS, {"rules": {"answer": 1}})
CHUNKS = (("a", "b"), ("c", "d"), ("e",), ("f",))
OTHER_CHUNKS = (("a",), ("b", "c", "d", "e", "f"))
LABELS = ("baseline", "steered")


def rows(questions: Sequence[str], score: float = 0.5) -> pd.DataFrame:
    """Two interventions; the note is missing for all but `c`, so that most chunks know nothing of its type."""
    table = [(q, m, None if q != "c" else "note", 0, score) for q in questions for m in LABELS]
    return pd.DataFrame(table, columns=["question", "intervention", "note", "sample", "score"])


def run_in(path: Path, identity: RunIdentity = IDENTITY, chunks: Sequence[Sequence[str]] = CHUNKS) -> Run:
    """A run that is begun, or gone on with."""
    return Run(path, identity, tuple(map(tuple, chunks)), LABELS, 1, {"task": "t"}, {"commit": "c"}).begin()


def begin(
    path: Path, chunks: Sequence[int] = (0, 1, 2, 3), identity: RunIdentity = IDENTITY, score: float = 0.5
) -> Run:
    run = run_in(path, identity)
    for chunk in chunks:
        run.write(chunk, rows(CHUNKS[chunk], score))
    return run


def with_seed(seed: int) -> RunIdentity:
    return RunIdentity({**TEXTS, "settings": {"seed": seed}}, IDENTITY.readings)


# --- writing and reading -------------------------------------------------------------------------------------


def test_rows_come_back_in_the_order_of_the_questions(tmp_path):
    run = begin(tmp_path / "run", [2, 0, 3])
    assert not run.complete and run.missing() == [1] and run.finished == [0, 2, 3]
    run.write(1, rows(CHUNKS[1]))
    again = Run.load(tmp_path / "run")
    assert (
        again.complete
        and again.missing() == []
        and again.settings == {"task": "t"}
        and again.identity == IDENTITY
        and again.hash == run.hash
    )
    whole = rows([q for chunk in CHUNKS for q in chunk])
    assert again.read().question.tolist() == whole.question.tolist()
    pd.testing.assert_frame_equal(again.read(), whole)


def test_pandas_and_duckdb_read_the_rows(tmp_path):
    run = begin(tmp_path / "run")
    (run.path / "unfinished" / ".00001-x.parquet").write_bytes(b"killed")
    read = pd.read_parquet(run.path / "rows")
    pd.testing.assert_frame_equal(read[list(run.read().columns)], run.read())
    query = (
        f"select question, intervention, note from read_parquet('{run.path}/rows/*.parquet') order by question,"
        " intervention"
    )
    assert duckdb.sql(query).fetchall()[4:6] == [("c", "baseline", "note"), ("c", "steered", "note")]
    assert len(duckdb.sql(query)) == 12


def test_opening_again_goes_on(tmp_path):
    begin(tmp_path / "run", [0])
    run = run_in(tmp_path / "run", RunIdentity(dict(reversed(TEXTS.items())), IDENTITY.readings), OTHER_CHUNKS)
    assert run.chunks == CHUNKS and run.missing() == [1, 2, 3]
    assert run.provenance == {"commit": "c"}  # recorded once, never compared


def test_a_killed_start_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / ".config-x.json").write_text("{")
    assert begin(tmp_path).complete


def test_leftovers_of_dead_processes_go_when_something_is_written(tmp_path):
    run = begin(tmp_path, [])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (os.getpid(), dead.pid):
        (tmp_path / "unfinished" / f".00001.{_HOST}-{pid}-01234567.parquet").write_bytes(b"killed")
    (tmp_path / "unfinished" / f".00001.deadbeef-{dead.pid}-01234567.parquet").write_bytes(b"of another machine")
    run.write(1, rows(CHUNKS[1]))
    left = {p.name for p in (tmp_path / "unfinished").iterdir() if p.suffix == ".parquet"}
    assert left == {f".00001.{_HOST}-{os.getpid()}-01234567.parquet", f".00001.deadbeef-{dead.pid}-01234567.parquet"}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    run = begin(tmp_path, [0])
    before = run.file(0).read_bytes()

    def full(table, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvsteer_lab.evaluation.chunk_files.pq.write_table", full)
    for chunk in (0, 1):
        with pytest.raises(OSError, match="No space left on device"):
            run.write(chunk, rows(CHUNKS[chunk]))
    assert run.finished == [0] and run.file(0).read_bytes() == before
    assert [p.name for p in (tmp_path / "unfinished").iterdir()] == ["folder.lock"]


def test_shards_share_out_the_chunks(tmp_path):
    run = begin(tmp_path, [])
    parts = [run.missing((i, 3)) for i in (1, 2, 3)]
    assert parts == [[0, 3], [1], [2]]
    assert run.missing((5, 6)) == [] and run.missing(parse_shard(None)) == [0, 1, 2, 3]
    assert parse_shard("2/3") == parse_shard((2, 3)) == (2, 3)


# --- merging -------------------------------------------------------------------------------------------------


def test_merging_joins_shards_and_overlaps_that_agree(tmp_path):
    begin(tmp_path / "1", [0, 2])
    begin(tmp_path / "2", [1, 2, 3])
    merged = kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    assert merged.complete and merged.hash == Run.load(tmp_path / "1").hash
    pd.testing.assert_frame_equal(merged.read(), begin(tmp_path / "alone").read())
    assert merged.provenance == {"merged": [{"commit": "c"}] * 2} and merged.settings == {"task": "t"}
    assert kv.merge([tmp_path / "2", tmp_path / "1"], tmp_path / "whole").complete  # a second time changes nothing


def test_merging_proves_completeness_and_writes_nothing_otherwise(tmp_path):
    begin(tmp_path / "1", [0])
    begin(tmp_path / "2", [2])
    with pytest.raises(
        IncompleteRunError, match=r"2 of 4 chunks are missing \(1, 3\), with 3 questions from 'c' on; finish the shards"
    ) as refused:
        kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    assert refused.value.chunks == (1, 3) and refused.value.questions == ("c", "d", "f")
    assert not (tmp_path / "whole").exists()


def test_merging_refuses_rows_that_differ(tmp_path):
    begin(tmp_path / "1", [0, 1])
    begin(tmp_path / "2", [1, 2, 3], score=0.75)
    with pytest.raises(
        ValueError, match=r"1/rows/00001.parquet and .*2/rows/00001.parquet hold the same chunk with rows that differ"
    ):
        kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_merging_refuses_other_runs(tmp_path):
    begin(tmp_path / "1")
    begin(tmp_path / "2", identity=with_seed(1))
    with pytest.raises(
        ValueError, match=r"are different runs and can't be merged: settings.seed is 0 there and 1 here"
    ):
        kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    run_in(tmp_path / "3", IDENTITY, OTHER_CHUNKS)
    with pytest.raises(ValueError, match="divide their questions into other chunks"):
        kv.merge([tmp_path / "1", tmp_path / "3"], tmp_path / "whole")
    with pytest.raises(ValueError, match="divide their questions into other chunks"):
        kv.merge([tmp_path / "1"], tmp_path / "3")
    assert not list((tmp_path / "3" / "rows").iterdir()), "checked before anything is copied"
    begin(tmp_path / "4", identity=RunIdentity(TEXTS, {"rules": {"answer": 2}}))
    with pytest.raises(
        ValueError, match=r"read with other rules: rules.answer is 1 there and 2 here .* reads them anew"
    ):
        kv.merge([tmp_path / "1", tmp_path / "4"], tmp_path / "whole")
    with pytest.raises(ValueError, match=r"2 holds another run: settings.seed is 1 there and 0 here"):
        kv.merge([tmp_path / "1"], tmp_path / "2")
    with pytest.raises(ValueError, match="nothing to merge"):
        kv.merge([], tmp_path / "whole")


def test_the_merge_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "1", [0])
    begin(tmp_path / "2", [1, 2])
    with pytest.raises(SystemExit, match=r"kvsteer: 1 of 4 chunks are missing \(3\)"):
        main(["merge", "1", "2", "--out", "whole"])
    assert capsys.readouterr().err.splitlines() == ["missing questions:", "f"]
    begin(tmp_path / "2", [3])
    main(["merge", "1", "2", "--out", "whole"])
    assert capsys.readouterr().out == "Wrote whole: complete, 4 chunks, 6 questions, 12 rows.\n"


# --- bad input -----------------------------------------------------------------------------------------------


def test_another_run_is_refused_and_named(tmp_path):
    begin(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"holds another run: settings.seed is 0 there and 7 here. Choose another folder, or ask for the same.",
    ):
        run_in(tmp_path, with_seed(7))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_shard_is_named_with_its_remedy(tmp_path, damage):
    run = begin(tmp_path)
    content = bytearray(run.file(2).read_bytes())
    if damage == "flipped":
        place = content.find(b"steered")  # in a page of data: the footer is intact
        content[place] ^= 1
    run.file(2).write_bytes({"truncated": bytes(content[:-60]), "flipped": bytes(content), "empty": b""}[damage])
    for attempt in (
        lambda: run_in(tmp_path),
        lambda: Run.load(tmp_path),
        lambda: kv.Results.load(tmp_path),
    ):
        with pytest.raises(
            ValueError, match=r"rows/00002.parquet is truncated or damaged \(.*\); delete this file and run"
        ) as refused:
            attempt()
        assert "\n" not in str(refused.value)
    run.file(2).unlink()
    assert run_in(tmp_path).missing() == [2]


def test_shards_of_other_runs_or_chunks_are_refused(tmp_path):
    mine, other = begin(tmp_path / "1"), begin(tmp_path / "2", identity=RunIdentity({"model": "other"}))
    mine.file(1).write_bytes(other.file(1).read_bytes())
    with pytest.raises(ValueError, match=r"00001.parquet belongs to another run or chunk; delete this file"):
        Run.load(tmp_path / "1")
    mine.file(1).write_bytes(mine.file(2).read_bytes())
    with pytest.raises(ValueError, match=r"00001.parquet belongs to another run or chunk"):
        Run.load(tmp_path / "1")
    rows(CHUNKS[1]).to_parquet(mine.file(1))
    with pytest.raises(ValueError, match=r"00001.parquet is truncated or damaged"):
        Run.load(tmp_path / "1")


def without(row: int) -> pd.DataFrame:
    return rows(CHUNKS[0]).drop(index=row)


WRONG = {
    "another question": rows(["a", "x"]),
    "a question too many": rows(["a", "b", "c"]),
    "a question too few": rows(["a"]),
    "a row that is missing": without(1),
    "a row that is there twice": pd.concat([rows(CHUNKS[0]), rows(CHUNKS[0])[:1]]),
    "a row in another's place": pd.concat([without(1), rows(CHUNKS[0])[:1]]),
    "another intervention": rows(CHUNKS[0]).replace({"intervention": {"steered": "other"}}),
    "another sample": rows(CHUNKS[0]).assign(sample=1),
}


@pytest.mark.parametrize("found", WRONG.values(), ids=WRONG)
def test_a_chunk_takes_each_reply_once(tmp_path, found):
    run = begin(tmp_path, [])
    with pytest.raises(ValueError, match=r"Chunk 0 and the rows to be written differ in \d+ replies, '.*' to question"):
        run.write(0, found)
    assert run.finished == []


@pytest.mark.parametrize("found", WRONG.values(), ids=WRONG)
def test_a_chunk_s_file_with_other_replies_is_refused(tmp_path, found):
    run = begin(tmp_path)
    write_rows(run.file(0), found, Note(run=run.hash, readings=IDENTITY.readings_hash, chunk=0))
    with pytest.raises(ValueError, match=r"Chunk 0 and .*00000.parquet differ in \d+ replies"):
        Run.load(tmp_path)


def test_rules_that_read_numbers_here_and_nothing_there_make_one_column(tmp_path):
    run = begin(tmp_path, [])
    for chunk, read in enumerate((None, "18", None, "7")):
        run.write(chunk, rows(CHUNKS[chunk]).assign(by_answer=read, correct=True, tokens=3))
    assert Run.load(tmp_path).read().by_answer.dropna().tolist() == ["18"] * 4 + ["7"] * 2
    assert {str(run.table(chunk).schema.field("by_answer").type) for chunk in range(4)} == {"string"}
    with pytest.raises(ValueError, match="The column 'correct' of a run holds values of several types"):
        run.write(0, rows(CHUNKS[0]).assign(correct="yes"))


# --- every byte ----------------------------------------------------------------------------------------------


def flip(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_refused_or_changes_no_row(tmp_path, step):
    run = begin(tmp_path)
    expected, refused = run.read(), 0
    for file in (run.file(1), tmp_path / "config.json"):
        content = file.read_bytes()
        for place in range(0, len(content), step):
            file.write_bytes(flip(content, place, place % 8))
            try:
                found = Run.load(tmp_path)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                pd.testing.assert_frame_equal(found.read(), expected)
                assert found.complete and found.settings == {"task": "t"} and found.identity == IDENTITY
        file.write_bytes(content)
    assert refused > 20


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no run in .*absent: it has no config.json"):
        Run.load(tmp_path / "absent")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"There is no run in .*mine"):
        kv.Results.load(tmp_path / "mine")
    for place in ("mine", "mine/thesis.txt"):
        with pytest.raises(
            ValueError, match=r"holds something else than a run of kvsteer_lab; choose a new or empty folder"
        ):
            begin(tmp_path / place)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[]",
        "[" * 100_000,
        '{"format": NaN}',
        '{"format": "\\ud800"}',
        json.dumps({"format": "kvsteer_lab.run.2"}),
    ],
)
def test_a_damaged_config_is_refused(tmp_path, content):
    begin(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"config.json is damaged \(.*\); choose another folder and run again"
    ) as refused:
        run_in(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": []},
        {"chunks": [["a", "b"], []]},
        {"chunks": [["a", "b"], ["b"]]},
        {"samples": 0},
        {"samples": "1"},
        {"samples": 1.0},
        {"labels": []},
        {"labels": None},
        {"identity": {"texts": {}}},
        {"identity": []},
        {"settings": None},
        {"surplus": 1},
    ],
)
def test_a_config_of_other_types_is_refused_though_its_checksum_is_right(tmp_path, change):
    begin(tmp_path)
    note = {**json.loads((tmp_path / "config.json").read_text()), **change}
    note["check"] = hash_of({key: value for key, value in note.items() if key != "check"})
    (tmp_path / "config.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        Run.load(tmp_path)


def test_a_run_of_an_older_version_is_refused_with_its_reason(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": "kvsteer_lab.run.1", "hash": "0", "identity": {}}))
    with pytest.raises(
        ValueError, match=r"written by an older version of kvsteer_lab, .* can't be continued; choose an"
    ):
        run_in(tmp_path)


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_saved_results_is_refused_or_changes_no_row(tmp_path, step):
    results = kv.Results(rows(["c", "d"]).assign(correct=[True, False, True, True]), {"task": "t", "seed": 3})
    path = results.save(tmp_path / "r.parquet")
    expected, content, refused = kv.Results.load(path).rows, path.read_bytes(), 0
    pd.testing.assert_frame_equal(expected, results.rows)
    for place in range(0, len(content), step):
        path.write_bytes(flip(content, place, place % 8))
        try:
            found = kv.Results.load(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            pd.testing.assert_frame_equal(found.rows, expected, check_dtype=False)
            assert found.complete and found.settings == {"task": "t", "seed": 3}
    assert refused > 10


# --- texts that are valid, read with other rules --------------------------------------------------------------


def test_other_readings_leave_the_texts(tmp_path):
    begin(tmp_path)
    mended = RunIdentity(TEXTS, {"rules": {"answer": 2}})
    run = run_in(tmp_path, mended)
    assert run.missing() == [] and run.stale == [0, 1, 2, 3] and run.finished == [] and not run.complete
    assert kv.Results.load(tmp_path).rows.empty, "half of the rows read in another way would be a mixture"
    run.write(0, run.rows(0).assign(note="read again"))
    assert run.stale == [1, 2, 3] and Run.load(tmp_path).finished == [0]
    for chunk in run.stale:
        run.write(chunk, run.rows(chunk))
    assert run_in(tmp_path, mended).complete


@pytest.mark.parametrize("shard", ["3/2", "0/2", "1/0", "-1/2", "1", "a/b", "1/2/3", (3, 2), "1.5/2"])
def test_shards_that_are_none_are_refused(shard):
    with pytest.raises(ValueError, match=re.escape(f"shard {shard!r} isn't one: give i/N with i from 1 to N")):
        parse_shard(shard)


def test_a_folder_that_can_t_be_written_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"Cannot write .*file/run: Not a directory. Choose a folder that you can write to."
    ):
        begin(tmp_path / "file" / "run")
    begin(tmp_path / "run", [0])

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        "tempfile.TemporaryFile", denied
    )  # root may write anywhere, so permissions alone can't be tested
    with pytest.raises(OSError, match=r"Cannot write .*run: Permission denied. Choose a folder that you can write to."):
        run_in(tmp_path / "run")
