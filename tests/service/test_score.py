"""Batch scoring: every row once, whatever the format, the place, or the moment at which it was stopped."""

import csv
import datetime
import decimal
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service import files, score
from service.bundle import MAX_CHARACTERS, Bundle
from service.parts import ADDED
from service.schema import label_of
from training.candidate import Candidate
from training.data import Reviews

Score = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command(candidate: Candidate) -> list[str]:
    return [sys.executable, "-P", "-m", "service.score", "--bundle", str(candidate.bundle), "--version", "7"]


@pytest.fixture(scope="session")
def score_files(command: list[str]) -> Score:
    """Run the command to its end, with two workers; `fails` is the exit code that is expected."""

    def run(*words: object, fails: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, "--workers", "2", *map(str, words)],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == fails, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def texts(holdout: Reviews) -> list[str]:
    return holdout.texts[:600]


def write_csv(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "text"], *enumerate(texts)])
    return path


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def write_parquet(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] not in "._" and "rejected" not in path.name)


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of all parts, in the order of their names."""
    found = []
    for path in parts(folder):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as stream:
                found += csv.DictReader(stream)
        else:
            found += [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return found


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.rejected.jsonl"))
        for line in path.read_text().split("\n")[:-1]
    ]


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its name, but the run's record, the reports of its shards, and what is hidden from readers."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] not in "_."}


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == found["scored"] + found["rejected"]
    return {name: count for name, count in found.items() if name != "seconds"}


# What is written


@pytest.mark.parametrize("form", ["input", "parquet"])
@pytest.mark.parametrize("kind", WRITERS)
def test_answers_are_the_scorers_own_to_the_last_bit(
    kind: str, form: str, tmp_path: Path, texts: list[str], bundle: Bundle, score_files: Score
):
    source = WRITERS[kind](tmp_path / f"reviews.{kind}", texts)

    score_files("--rows", 250, "--format", form, source, tmp_path / "out")

    expected = [bundle.scorer.score(text).positive for text in texts]
    found = rows(tmp_path / "out")
    assert [float(row["positive"]) for row in found] == expected
    assert [row["label"] for row in found] == [label_of(positive) for positive in expected]
    assert {row["model_version"] for row in found} == {"7"}
    objects = [json.loads(row["json"]) if "json" in row else row for row in found]
    assert [(int(row["id"]), row["text"]) for row in objects] == list(enumerate(texts))
    assert {path.suffix[1:] for path in parts(tmp_path / "out")} == {kind if form == "input" else form}


def test_a_part_has_the_rows_asked_for_and_the_last_what_is_left(tmp_path: Path, texts: list[str], score_files: Score):
    source = write_parquet(tmp_path / "reviews.parquet", texts)

    done = score_files("--rows", 250, "--json", source, tmp_path / "out")

    assert [pq.read_metadata(path).num_rows for path in parts(tmp_path / "out")] == [250, 250, 100]
    assert [re.sub("-[0-9a-f]{12}-", "-HASH-", path.name) for path in parts(tmp_path / "out")] == [
        f"reviews-HASH-0000{number}.parquet" for number in range(3)
    ]
    assert counts(done) == {"rows": 600, "scored": 600, "rejected": 0, "resumed": 0}
    assert json.loads((tmp_path / "out" / "_done-0-of-1.json").read_text())["rows"] == 600


def test_parquet_keeps_its_columns_and_their_types(tmp_path: Path, score_files: Score):
    moment = datetime.datetime(2026, 11, 22, 10, 30, 0, 123456, tzinfo=datetime.UTC)
    schema = pa.schema(
        [
            pa.field("id", pa.uint16(), nullable=False),
            pa.field("text", pa.large_string()),
            pa.field("at", pa.timestamp("us", tz="UTC")),
            pa.field("nanoseconds", pa.timestamp("ns")),
            pa.field("price", pa.decimal128(9, 2)),
            pa.field("tags", pa.list_(pa.struct([("name", pa.string()), ("weight", pa.float32())]))),
            pa.field("shop", pa.dictionary(pa.int8(), pa.string())),
            pa.field("raw", pa.binary()),
        ],
        metadata={"origin": "shop"},
    )
    table = pa.Table.from_pydict(
        {
            "id": [1, 2, 3],
            "text": ["A fine film.", "A dull film.", "So so."],
            "at": [moment, None, moment],
            "nanoseconds": pa.array([1, None, 3], pa.timestamp("ns")),
            "price": [decimal.Decimal("1.10"), None, decimal.Decimal("-2.00")],
            "tags": [[{"name": "a", "weight": 0.5}], None, []],
            "shop": ["x", None, "x"],
            "raw": [b"\xff", None, b""],
        },
        schema=schema,
    )
    pq.write_table(table, tmp_path / "typed.parquet")

    score_files(tmp_path / "typed.parquet", tmp_path / "out")

    found = pq.read_table(parts(tmp_path / "out")[0])
    kept = found.drop_columns(list(ADDED))
    assert kept.schema.equals(pq.read_schema(tmp_path / "typed.parquet"), check_metadata=True)
    assert kept.equals(table)
    assert found.schema.names[-3:] == list(ADDED)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_parquet_texts_may_be_of_any_string_type(kind: pa.DataType, tmp_path: Path, score_files: Score):
    texts = pa.array(["A fine film.", "A dull film.", "A fine film."]).cast(kind)
    pq.write_table(pa.table({"text": texts}), tmp_path / "typed.parquet", row_group_size=2)

    score_files(tmp_path / "typed.parquet", tmp_path / "out")

    assert [row["text"] for row in rows(tmp_path / "out")] == ["A fine film.", "A dull film.", "A fine film."]


def test_csv_cells_and_json_objects_stay_as_they_were(tmp_path: Path, score_files: Score):
    cells = ['say "hi"', "two\r\nlines\rand\none", "1.10", "", "ä,ß"]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([["text", *"bcdef"], ["A fine film.", *cells]])
    line = '{"text": "A fine film.", "n": 1.10, "big": 123456789012345678901234567890, "x": [null, {"\\u00e4": 1e5}]}'
    (tmp_path / "b.ndjson").write_text(f"\n{line}  \n")

    score_files(tmp_path / "a.csv", tmp_path / "b.ndjson", tmp_path / "out")

    from_csv, from_json = parts(tmp_path / "out")
    with from_csv.open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream))[1][:6] == ["A fine film.", *cells]
    assert from_json.read_text().startswith(line[:-1] + ', "label": "positive", "positive": 0.')


# Bad rows

LONG = "long " * MAX_CHARACTERS


def test_bad_rows_of_csv_stand_beside_the_part_with_their_reasons(tmp_path: Path, score_files: Score):
    """A quote that is never closed, a line of megabytes, and a byte that is no UTF-8 cost one row each."""
    lines = [
        b"id,text",
        b"1,A fine film.",
        b"2",
        b"3,too,many",
        b"4,",
        b"5,   ",
        b"6,\xff\xfe",
        b"7," + LONG.encode(),
        b"",
        b'8,"never closed',
        b"9,A dull film.",
        b'10,"two\nlines"',
        b'11,"broken" quote',
        b'12,"' + "ä".encode() * 3 * 2**20,  # the quote is open where the line is cut
        b"13,So so.",
        b'14,"never closed either',
        b"15,The end.",
    ]
    (tmp_path / "bad.csv").write_bytes(b"\n".join(lines))

    done = score_files("--json", "--rows", 4, tmp_path / "bad.csv", tmp_path / "out")

    assert [row["id"] for row in rows(tmp_path / "out")] == ["1", "9", "10", "13", "15"]
    assert counts(done) == {"rows": 15, "scored": 5, "rejected": 10, "resumed": 0}
    found = rejected(tmp_path / "out")
    assert {row["input"] for row in found} == {str(tmp_path / "bad.csv")}
    assert [(row["row"], row["reason"]) for row in found] == [
        (2, "1 fields, the header names 2"),
        (3, "3 fields, the header names 2"),
        (4, "the text is blank"),
        (5, "the text is blank"),
        (6, "not Unicode"),
        (7, "the text has 50000 characters, at most 10000 are scored"),
        (8, "unexpected end of data"),
        (11, "',' expected after '\"'"),
        (12, "longer than 1048576 characters; the content is cut"),
        (14, "unexpected end of data"),
    ]
    assert [found[i]["content"] for i in (0, 1, 4, 6)] == [
        "2\n",
        "3,too,many\n",
        "6,\udcff\udcfe\n",
        '8,"never closed\n',
    ]


def test_bad_rows_of_json_lines_stand_beside_the_part_with_their_reasons(tmp_path: Path, score_files: Score):
    lines = [
        b'{"text": "A fine film."}',
        b'{"text": "cut',
        b"[1]",
        b'{"other": 1}',
        b'{"text": null}',
        b'{"text": 7}',
        b'{"text": " "}',
        b'{"text": "\xff"}',
        b'{"text": "half a pair \\ud800"}',
        b'{"text": "A dull film.", "label": 1}',
        b"[" * 100_000,
        b'{"text": "' + b"x" * 2**21 + b'"}',
        b'{"text": "So so."}',
    ]
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join(lines))

    done = score_files("--json", tmp_path / "bad.jsonl", tmp_path / "out")

    assert counts(done) == {"rows": 13, "scored": 2, "rejected": 11, "resumed": 0}
    found = rejected(tmp_path / "out")
    assert [row["row"] for row in found] == list(range(2, 13))
    reasons = ["Unterminated", "not a JSON object", "no text", "no text", "int, not a string", "blank", "not Unicode"]
    reasons += ["not Unicode", "has 'label' already", "recursion", "longer than"]
    assert [word for word, row in zip(reasons, found, strict=True) if word not in row["reason"]] == []
    assert found[0]["content"] == '{"text": "cut\n'


def test_bad_rows_of_parquet_stand_beside_the_part_with_their_values(tmp_path: Path, score_files: Score):
    offsets = pa.array([0, 0, 2, 14], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"\xff\xfeA fine film.")])
    at = pa.array([1, 2, 3], pa.timestamp("ns"))
    pq.write_table(pa.table({"text": broken, "at": at, "id": [1, 2, 3]}), tmp_path / "bad.parquet")

    done = score_files("--json", tmp_path / "bad.parquet", tmp_path / "out")

    assert counts(done) == {"rows": 3, "scored": 1, "rejected": 2, "resumed": 0}
    blank, no_text = rejected(tmp_path / "out")
    assert (blank["row"], blank["reason"], blank["content"]["id"]) == (1, "the text is blank", 1)
    assert no_text["reason"] == "not Unicode"
    assert "1970-01-01 00:00:00.000000002" in no_text["content"]["at"]


def test_a_long_quoted_cell_is_one_cell(tmp_path: Path, score_files: Score):
    """What stands on its lines is no row, even if it looks like one."""
    page = "<p>\n" + "7,looks fine\n" * 20_000
    with (tmp_path / "long.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["page", "text"], [page, "A fine film."], ["", "A dull film."]])

    done = score_files("--json", tmp_path / "long.csv", tmp_path / "out")

    assert counts(done) == {"rows": 2, "scored": 2, "rejected": 0, "resumed": 0}


def test_a_blank_row_of_one_column_is_a_row(tmp_path: Path, score_files: Score):
    (tmp_path / "one.csv").write_text("text\nA fine film.\n  \n\nA dull film.\n")

    assert counts(score_files("--json", tmp_path / "one.csv", tmp_path / "out"))["rejected"] == 1


def test_a_value_that_python_cannot_hold_fails_nothing(tmp_path: Path, score_files: Score):
    at = pa.array([2**40, 1], pa.timestamp("s"))
    pq.write_table(pa.table({"text": [" ", "A fine film."], "at": at}), tmp_path / "odd.parquet")

    assert counts(score_files("--json", tmp_path / "odd.parquet", tmp_path / "out"))["scored"] == 1


def test_of_a_line_that_is_too_long_little_is_kept(tmp_path: Path, score_files: Score):
    (tmp_path / "long.jsonl").write_text(('{"text": "' + "x" * 2**21 + '"}\n') * 20)

    score_files(tmp_path / "long.jsonl", tmp_path / "out")

    assert {len(row["content"]) for row in rejected(tmp_path / "out")} == {1_000}


def test_a_part_of_bad_rows_alone_is_there_and_empty(tmp_path: Path, score_files: Score):
    (tmp_path / "in").mkdir()
    for kind, write in WRITERS.items():
        write(tmp_path / "in" / f"blank.{kind}", [" "])

    for form in ("input", "parquet"):
        score_files("--format", form, tmp_path / "in", tmp_path / form)

        assert len(parts(tmp_path / form)) == len(rejected(tmp_path / form)) == 3
        assert rows(tmp_path / form) == []


def test_no_review_is_printed(tmp_path: Path, score_files: Score):
    (tmp_path / "bad.csv").write_text('id,text\n1,Zanzibar\n2,Zanzibar,3\n4,"Zanzibar\n')

    done = score_files("--json", tmp_path / "bad.csv", tmp_path / "out")

    assert "Zanzibar" not in done.stdout + done.stderr


# Inputs


def test_files_globs_and_folders_are_read_each_file_once(tmp_path: Path, texts: list[str], score_files: Score):
    """Two files of one name in different folders do not meet, and what lies in OUTPUT is not input."""
    write_csv(tmp_path / "in" / "a" / "part.csv", texts[:10])
    write_csv(tmp_path / "in" / "b" / "part.csv", texts[10:20])
    (tmp_path / "in" / "c.jsonl.gz").write_bytes(
        gzip.compress(write_jsonl(tmp_path / "c.jsonl", texts[20:30]).read_bytes())
    )
    (tmp_path / "in" / "notes.txt").write_text("not for us")
    arguments = [tmp_path / "in", tmp_path / "in" / "*" / "*.csv", tmp_path / "in" / "a" / "part.csv"]

    score_files(*arguments, tmp_path / "in" / "out")
    again = counts(score_files("--json", *arguments, tmp_path / "in" / "out"))

    assert sorted(row["text"] for row in rows(tmp_path / "in" / "out")) == sorted(texts[:30])
    assert again == {"rows": 30, "scored": 30, "rejected": 0, "resumed": 30}


def test_a_bucket_is_read_and_written(
    tmp_path: Path, texts: list[str], score_files: Score, s3: tuple[Any, dict[str, str]]
):
    client, environment = s3
    for kind, write in WRITERS.items():
        path = write(tmp_path / f"reviews.{kind}", [*texts[:30], " "])
        client.upload_file(str(path), "reviews", f"in/{kind}/{path.name}")
    score_files("--rows", 20, *(tmp_path / f"reviews.{kind}" for kind in WRITERS), tmp_path / "local")

    first = counts(score_files("--json", "--rows", 20, "s3://reviews/in", "s3://reviews/out", **environment))
    names = [entry["Key"] for entry in client.list_objects_v2(Bucket="reviews", Prefix="out/")["Contents"]]
    lost = next(name for name in names if name.endswith("00001.csv"))
    client.delete_object(Bucket="reviews", Key=lost)
    second = counts(score_files("--json", "--rows", 20, "s3://reviews/in", "s3://reviews/out", **environment))
    (tmp_path / "out").mkdir()
    for name in names:
        client.download_file("reviews", name, str(tmp_path / name))
    moved = score_files("--rows", 20, "s3://reviews/in/csv/*.csv", "s3://reviews/out", fails=1, **environment)

    assert first == {"rows": 93, "scored": 90, "rejected": 3, "resumed": 0}
    assert second == first | {"resumed": 82}
    assert sorted(map(str, rows(tmp_path / "out"))) == sorted(map(str, rows(tmp_path / "local")))
    assert "is of a run with input s3://reviews/in/jsonl/reviews.jsonl" in moved.stderr


def test_a_name_may_look_like_a_pattern_and_be_written_in_capitals(
    tmp_path: Path, texts: list[str], score_files: Score
):
    write_csv(tmp_path / "in" / "data1.csv", texts[:5])
    write_csv(tmp_path / "in" / "data[1].csv", texts[5:10])
    write_csv(tmp_path / "in" / "MORE.CSV", texts[10:15])

    score_files(tmp_path / "in" / "data1.csv", tmp_path / "in" / "data[1].csv", tmp_path / "in", tmp_path / "out")

    assert sorted(row["text"] for row in rows(tmp_path / "out")) == sorted(texts[:15])


def test_a_file_is_one_file_however_it_is_spelt(tmp_path: Path, texts: list[str], score_files: Score):
    path = write_csv(tmp_path / "in" / "a.csv", texts[:5])
    (tmp_path / "in" / "link.csv").symlink_to(path)

    score_files(path, f"{tmp_path}/in/../in//a.csv", tmp_path / "in", tmp_path / "out")

    assert [row["text"] for row in rows(tmp_path / "out")] == texts[:5]


def test_only_what_lies_in_output_is_no_input(tmp_path: Path, texts: list[str], score_files: Score):
    """A folder elsewhere that is called as OUTPUT is another folder."""
    write_csv(tmp_path / "in" / str(tmp_path).lstrip("/") / "out" / "a.csv", texts[:5])

    score_files(tmp_path / "in", tmp_path / "out")

    assert [row["text"] for row in rows(tmp_path / "out")] == texts[:5]


# Stopped, and started again


def start(command: list[str], *words: object) -> subprocess.Popen[bytes]:
    # a group of its own: its processes are found and, as by a terminal, interrupted together
    words = ("--workers", 2, *words)
    return subprocess.Popen([*command, *map(str, words)], stderr=subprocess.PIPE, start_new_session=True)


def wait_for_parts(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not folder.exists() or len(parts(folder)) < count):
        time.sleep(0.005)
    assert len(parts(folder)) >= count


def living(group: int) -> list[int]:
    """Processes of a group, but those that only wait to be buried."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def end_of(group: int) -> None:
    deadline = time.monotonic() + 10
    while living(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert living(group) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_killed_and_started_again_it_ends_as_if_undisturbed(
    kind: str, tmp_path: Path, holdout: Reviews, command: list[str], score_files: Score
):
    """The main process alone is killed, twice: its workers notice and end."""
    source = WRITERS[kind](tmp_path / f"reviews.{kind}", [*holdout.texts[:4_000], " "])
    score_files("--rows", 40, source, tmp_path / "undisturbed")

    for count in (3, 20):
        process = start(command, "--rows", 40, source, tmp_path / "out")
        wait_for_parts(tmp_path / "out", count)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        end_of(process.pid)
        assert len(parts(tmp_path / "out")) < 101
    done = counts(score_files("--json", "--rows", 40, source, tmp_path / "out"))

    assert done["rows"] == 4_001
    assert done["rejected"] == 1
    assert done["resumed"] >= 20 * 40
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_ends_quickly_and_cleanly(
    stop: signal.Signals, code: int, tmp_path: Path, holdout: Reviews, command: list[str]
):
    source = write_csv(tmp_path / "reviews.csv", holdout.texts)

    process = start(command, "--rows", 100, source, tmp_path / "out")
    wait_for_parts(tmp_path / "out", 3)
    began = time.monotonic()
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as Ctrl-C does
    else:
        process.send_signal(stop)  # as Kubernetes does
    _, printed = process.communicate(timeout=10)

    assert process.returncode == code
    assert time.monotonic() - began < 3
    assert b"Traceback" not in printed
    end_of(process.pid)
    assert [name for name in content(tmp_path / "out") if name.endswith(".tmp")] == []
    assert not (tmp_path / "out" / "_done-0-of-1.json").exists()


def test_a_killed_worker_fails_the_run(tmp_path: Path, holdout: Reviews, command: list[str]):
    source = write_csv(tmp_path / "reviews.csv", holdout.texts)

    process = start(command, "--rows", 100, source, tmp_path / "out")
    wait_for_parts(tmp_path / "out", 3)
    workers = [pid for pid in living(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, printed = process.communicate(timeout=10)

    assert process.returncode == 1
    assert b"its worker was killed, perhaps for its memory" in printed
    end_of(process.pid)


def test_a_part_that_cannot_be_written_fails_the_run(tmp_path: Path, texts: list[str], command: list[str]):
    """As on a full disk: here a file may have 4,096 bytes."""
    source = write_csv(tmp_path / "reviews.csv", texts)
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
    limit += "os.execv(sys.argv[1], sys.argv[1:])"

    done = subprocess.run(
        [sys.executable, "-c", limit, *command, source, tmp_path / "out"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert re.fullmatch(r"Error: part reviews-[0-9a-f]{12}-00000: OSError: .*File too large\n", done.stderr)
    assert content(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--version", 8), "is of a run with version 7, not 8"),
        (("--rows", 99), "is of a run with rows 10000, not 99"),
        (("--format", "parquet"), "is of a run with format input, not parquet"),
        (("--column", "id"), "is of a run with column text, not id"),
    ],
)
def test_two_runs_do_not_mix(
    words: tuple[object, ...], reason: str, tmp_path: Path, texts: list[str], score_files: Score
):
    source = write_csv(tmp_path / "reviews.csv", texts[:5])
    score_files(source, tmp_path / "out")
    before = content(tmp_path / "out")

    done = score_files(*words, source, tmp_path / "out", fails=1)

    assert f"{reason}: give a new folder" in done.stderr
    assert content(tmp_path / "out") == before


def test_another_model_or_input_does_not_mix(
    tmp_path: Path, texts: list[str], score_files: Score, candidate: Candidate
):
    source = write_csv(tmp_path / "reviews.csv", texts[:5])
    score_files(source, tmp_path / "out")
    recorded = tmp_path / "out" / "_run.json"
    original = recorded.read_text()
    assert json.loads(original)["scorer_sha256"] == Bundle.read(candidate.bundle).scorer.sha256

    recorded.write_text(re.sub('"scorer_sha256": "[0-9a-f]{8}', '"scorer_sha256": "00000000', original))
    other_model = score_files(source, tmp_path / "out", fails=1).stderr
    recorded.write_text(original)
    write_csv(source, texts[:6])
    other_content = score_files(source, tmp_path / "out", fails=1).stderr
    recorded.unlink()
    no_record = score_files(source, tmp_path / "out", fails=1).stderr

    assert "is of a run with scorer_sha256 00000000" in other_model
    assert f"is of a run with input {source} [" in other_content
    assert "has files but no _run.json: give a new folder" in no_record


def test_a_run_s_record_is_never_replaced(tmp_path: Path):
    """Of two runs that begin at the same moment, one finds the other's."""
    files.write(str(tmp_path), score.RUN, b"first", new=True)

    with pytest.raises(FileExistsError):
        files.write(str(tmp_path), score.RUN, b"second", new=True)

    assert (tmp_path / score.RUN).read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == [score.RUN]


def test_two_at_the_same_part_leave_it_whole(tmp_path: Path, texts: list[str], command: list[str], score_files: Score):
    source = write_csv(tmp_path / "reviews.csv", texts)
    score_files("--rows", 20, source, tmp_path / "one")

    processes = [start(command, "--rows", 20, source, tmp_path / "out") for _ in range(2)]
    printed = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], printed
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_what_was_left_half_written_long_ago_is_removed(tmp_path: Path, texts: list[str], score_files: Score):
    source = write_csv(tmp_path / "reviews.csv", texts[:5])
    score_files(source, tmp_path / "out")
    old, new = (tmp_path / "out" / f".{name}.tmp" for name in ("old", "new"))
    old.write_text("half")
    new.write_text("half")
    os.utime(old, (0, 0))

    score_files(source, tmp_path / "out")

    assert (old.exists(), new.exists()) == (False, True)


# Shards


def test_shards_together_are_one_run(tmp_path: Path, texts: list[str], score_files: Score):
    """However a shard learns which it is; two inputs of 6 and 1 parts divide evenly."""
    big = write_csv(tmp_path / "big.csv", [*texts[:110], " "])
    small = write_parquet(tmp_path / "small.parquet", texts[110:120])
    score_files("--rows", 20, big, small, tmp_path / "one")

    done = [
        score_files("--rows", 20, "--json", "--shard", "0/3", big, small, tmp_path / "out", JOB_COMPLETION_INDEX="2"),
        score_files("--rows", 20, "--json", "--shards", 3, big, small, tmp_path / "out", JOB_COMPLETION_INDEX="1"),
        score_files("--rows", 20, "--json", big, small, tmp_path / "out", JOB_COMPLETION_INDEX="2", SCORE_SHARDS="3"),
    ]

    assert content(tmp_path / "out") == content(tmp_path / "one")
    assert [counts(each)["rows"] for each in done] == [50, 40, 31]
    assert [json.loads((tmp_path / "out" / f"_done-{i}-of-3.json").read_text())["rejected"] for i in range(3)] == [
        0,
        0,
        1,
    ]


def test_shards_may_start_at_the_same_moment(tmp_path: Path, texts: list[str], command: list[str], score_files: Score):
    source = write_csv(tmp_path / "reviews.csv", texts)
    score_files("--rows", 20, source, tmp_path / "one")

    processes = [start(command, "--rows", 20, "--shard", f"{i}/2", source, tmp_path / "out") for i in range(2)]
    printed = [process.communicate(timeout=30)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], printed
    assert content(tmp_path / "out") == content(tmp_path / "one")


@pytest.mark.parametrize(
    ("shard", "shards", "index", "expected"),
    [
        (None, None, None, (0, 1)),
        (None, 1, None, (0, 1)),
        ("2/3", None, None, (2, 3)),
        ("2/3", 9, "1", (2, 3)),
        (None, 3, "0", (0, 3)),
    ],
)
def test_which_shard_this_is(shard: str | None, shards: int | None, index: str | None, expected: tuple[int, int]):
    assert score.shard_of(shard, shards, index) == expected


@pytest.mark.parametrize(
    ("shard", "shards", "index"),
    [("3/3", None, None), ("1", None, None), ("-1/3", None, None), (None, 3, None), (None, None, "0"), (None, 2, "2")],
)
def test_a_shard_that_cannot_be_is_refused_with_the_fix(shard: str | None, shards: int | None, index: str | None):
    with pytest.raises(click.UsageError, match="give --shard i/n, 0 <= i < n, or set both JOB_COMPLETION_INDEX"):
        score.shard_of(shard, shards, index)


# Errors, progress, memory


def test_errors_are_one_line_that_names_the_thing_and_the_fix(tmp_path: Path, score_files: Score):
    fine = write_csv(tmp_path / "fine.csv", ["A fine film."])
    (tmp_path / "empty").mkdir()
    (tmp_path / "reviews.txt").write_text("text\nfine\n")
    (tmp_path / "columns.csv").write_text("review,stars\nfine,5\n")
    (tmp_path / "scored.csv").write_text("text,label\nfine,1\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing of the kind")
    (tmp_path / "broken.csv.gz").write_bytes(b"no gzip")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    nothing = "no such file, or none that ends in .csv, .parquet, .jsonl"
    for name, reason in {
        "absent.csv": nothing,
        "absent-*.csv": nothing,
        "empty": nothing,
        "reviews.txt": nothing,
        "columns.csv": "no single column 'text' among review, stars: choose with --column",
        "scored.csv": "has a column 'label' already, which scoring adds: rename it in the file",
        "broken.parquet": "ArrowInvalid: Parquet magic bytes not found",
        "broken.csv.gz": "BadGzipFile: Not a gzipped file",
        "numbers.parquet": "column 'text' holds int64, not strings",
    }.items():
        done = score_files(fine, tmp_path / name, tmp_path / "out", fails=1)

        assert done.stderr.startswith(f"Error: input {tmp_path / name}: {reason}") or reason in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out" / "_run.json").exists()


def test_an_unreadable_bundle_a_bad_output_and_a_bucket_that_is_not_there_are_one_line(
    tmp_path: Path, score_files: Score, s3: tuple[Any, dict[str, str]]
):
    environment = s3[1]
    fine = write_csv(tmp_path / "fine.csv", ["A fine film."])
    for words, reason in {
        ("--bundle", tmp_path / "absent", fine, tmp_path / "out"): f"Error: bundle {tmp_path / 'absent'}: no scorer",
        (fine, fine): f"Error: output {fine}: is a file: name a folder, last",
        (fine, "s3://absent/out"): "Error: output s3://absent/out: FileNotFoundError: The specified bucket does not",
        ("s3://absent/a.csv", tmp_path / "out"): "Error: input s3://absent/a.csv: no such file",
    }.items():
        done = score_files(*words, fails=1, **environment)

        assert done.stderr.startswith(reason)
        assert done.stderr.count("\n") == 1


def test_usage_errors_exit_with_2(score_files: Score):
    assert "Missing argument 'INPUT...'" in score_files("--rows", 5, fails=2).stderr


def test_a_terminal_sees_one_line_that_changes(tmp_path: Path, holdout: Reviews, command: list[str]):
    source = write_csv(tmp_path / "reviews.csv", holdout.texts)
    ours, theirs = pty.openpty()

    done = subprocess.run([*command, "--rows", "100", str(source), str(tmp_path / "out")], stderr=theirs, check=True)
    printed = os.read(ours, 2**16).decode()

    assert done.returncode == 0
    assert printed.count("\x1b[K\r") >= 2
    assert re.search(rf"{len(holdout.texts):,} rows, 1 rejected, [\d,]+ a second\r\n", printed)


def test_help_imports_nothing_heavy():
    code = "import service.score, sys; print(*sorted({n.split('.')[0] for n in sys.modules}))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    forbidden = {"fsspec", "pyarrow", "s3fs", "bentoml", "mlflow", "sklearn", "pandas", "training", "infra"}
    assert not forbidden & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_memory_does_not_grow_with_the_input(kind: str, tmp_path: Path, texts: list[str], command: list[str]):
    """Ten times the rows, of the size of reviews, take the memory of the first: peaks in KiB of the largest process."""
    peaks = []
    for times in (10, 100):
        source = WRITERS[kind](tmp_path / f"{times}.{kind}", texts * times)
        code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        words = [*command, "--workers", "2", "--rows", "1000", str(source), str(tmp_path / f"out-{times}")]
        peaks.append(int(subprocess.check_output([sys.executable, "-c", code, *words], text=True).split()[-1]))

    assert peaks[1] < peaks[0] * 1.2
