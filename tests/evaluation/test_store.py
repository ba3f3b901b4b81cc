"""A run's folder: written in whole chunks, read back in order, joined with proof, and suspicious of what isn't its
own.
"""

import json
import re

import duckdb
import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.cli.main import main
from kvsteer_lab.evaluation.merging import IncompleteRunError
from kvsteer_lab.evaluation.runs import Run, parse_shard

IDENTITY = {"model": {"fingerprint": "f"}, "settings": {"seed": 0}}
CHUNKS = [["a", "b"], ["c", "d"], ["e"], ["f"]]


def rows(questions: list[str], score: float = 0.5) -> pd.DataFrame:
    """Two interventions; the note is missing for all but `c`, so that most chunks know nothing of its type."""
    table = [
        (q, m, None if q != "c" else "note", i, score) for q in questions for i, m in enumerate(("baseline", "steered"))
    ]
    return pd.DataFrame(table, columns=["question", "intervention", "note", "sample", "score"])


def begin(path, chunks=(0, 1, 2, 3), identity=IDENTITY, score: float = 0.5) -> Run:
    run = Run.open(path, identity, CHUNKS, settings={"task": "t"}, provenance={"commit": "c"})
    for chunk in chunks:
        run.write(chunk, rows(CHUNKS[chunk], score))
    return run


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
    run = Run.open(tmp_path / "run", dict(reversed(IDENTITY.items())), [["a"], ["b", "c", "d", "e", "f"]])
    assert run.chunks == tuple(map(tuple, CHUNKS)) and run.missing() == [1, 2, 3]
    assert run.provenance == {"commit": "c"}  # recorded once, never compared


def test_a_killed_start_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / ".config-x.json").write_text("{")
    assert begin(tmp_path).complete


def test_leftovers_of_a_chunk_go_when_it_is_written(tmp_path):
    run = begin(tmp_path, [])
    for name in (".00001-x.parquet", ".00002-x.parquet"):
        (tmp_path / "unfinished" / name).write_bytes(b"killed")
    run.write(1, rows(CHUNKS[1]))
    # another process may be writing it
    assert [p.name for p in (tmp_path / "unfinished").iterdir()] == [".00002-x.parquet"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    run = begin(tmp_path, [0])
    before = run.file(0).read_bytes()

    def full(table, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kvsteer_lab.evaluation.runs.pq.write_table", full)
    for chunk in (0, 1):
        with pytest.raises(OSError, match="No space left on device"):
            run.write(chunk, rows(CHUNKS[chunk]))
    assert run.finished == [0] and run.file(0).read_bytes() == before and not list((tmp_path / "unfinished").iterdir())


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
    begin(tmp_path / "2", identity={**IDENTITY, "settings": {"seed": 1}})
    with pytest.raises(
        ValueError, match=r"are different runs and can't be merged: settings.seed is 0 there and 1 here"
    ):
        kv.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    Run.open(tmp_path / "3", IDENTITY, [["a"], ["b", "c", "d", "e", "f"]])
    with pytest.raises(ValueError, match="divide their questions into other chunks"):
        kv.merge([tmp_path / "1", tmp_path / "3"], tmp_path / "whole")
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
        Run.open(tmp_path, {**IDENTITY, "settings": {"seed": 7}}, CHUNKS)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_shard_is_named_with_its_remedy(tmp_path, damage):
    run = begin(tmp_path)
    content = bytearray(run.file(2).read_bytes())
    if damage == "flipped":
        place = content.find(b"steered")  # in a page of data: the footer is intact
        content[place] ^= 1
    run.file(2).write_bytes({"truncated": bytes(content[:-60]), "flipped": bytes(content), "empty": b""}[damage])
    for attempt in (
        lambda: Run.open(tmp_path, IDENTITY, CHUNKS),
        lambda: Run.load(tmp_path),
        lambda: kv.Results.load(tmp_path),
    ):
        with pytest.raises(
            ValueError, match=r"rows/00002.parquet is truncated or damaged \(.*\); delete this file and run"
        ) as refused:
            attempt()
        assert "\n" not in str(refused.value)
    run.file(2).unlink()
    assert Run.open(tmp_path, IDENTITY, CHUNKS).missing() == [2]


def test_shards_of_other_runs_or_chunks_are_refused(tmp_path):
    mine, other = begin(tmp_path / "1"), begin(tmp_path / "2", identity={"model": "other"})
    mine.file(1).write_bytes(other.file(1).read_bytes())
    with pytest.raises(ValueError, match=r"00001.parquet belongs to another run or chunk; delete this file"):
        Run.load(tmp_path / "1")
    mine.file(1).write_bytes(mine.file(2).read_bytes())
    with pytest.raises(ValueError, match=r"00001.parquet belongs to another run or chunk"):
        Run.load(tmp_path / "1")
    rows(CHUNKS[1]).to_parquet(mine.file(1))
    with pytest.raises(ValueError, match=r"00001.parquet is truncated or damaged"):
        Run.load(tmp_path / "1")


@pytest.mark.parametrize("found", [["a"], ["a", "b", "c"], ["a", "x"]])
def test_a_chunk_takes_exactly_its_questions(tmp_path, found):
    run = begin(tmp_path, [])
    with pytest.raises(ValueError, match=r"Chunk 0 and the rows to be written differ in \d questions"):
        run.write(0, rows(found))
    assert run.finished == []


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no run in .*absent: it has no config.json"):
        Run.load(tmp_path / "absent")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"There is no run in .*mine"):
        kv.Results.load(tmp_path / "mine")
    for place in ("mine", "mine/thesis.txt"):
        with pytest.raises(
            ValueError, match=r"holds something that is no run of kvsteer_lab; choose a new or an empty folder"
        ):
            begin(tmp_path / place)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", json.dumps({"format": "kvsteer_lab.run.1", "hash": "0", "identity": {}})]
)
def test_a_damaged_config_is_refused(tmp_path, content):
    begin(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json is damaged \(.*\); choose another folder and run again"):
        Run.open(tmp_path, IDENTITY, CHUNKS)


@pytest.mark.parametrize("shard", ["3/2", "0/2", "1/0", "-1/2", "1", "a/b", "1/2/3", (3, 2), "1.5/2"])
def test_shards_that_are_none_are_refused(shard):
    with pytest.raises(ValueError, match=re.escape(f"Shard {shard!r} is none: give i/N with i from 1 to N")):
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
        Run.open(tmp_path / "run", IDENTITY, CHUNKS)
