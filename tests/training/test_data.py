"""Where reviews come from, what is refused, and which of them judge."""

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training import data
from training.data import DataError, Reviews


def rows(n: int = 4_000) -> list[tuple[str, str]]:
    """n distinct labelled texts, enough for a holdout."""
    return [(f"review number {i} was {'great' if i % 2 else 'dull'}", str(i % 2)) for i in range(n)]


@pytest.fixture
def csv_file(tmp_path: Path) -> Callable[..., Path]:
    def write(lines: list[tuple[str, ...]], header: str = "text,label", name: str = "reviews.csv") -> Path:
        path = tmp_path / name
        path.write_text(header + "\n" + "".join(",".join(json.dumps(c) for c in line) + "\n" for line in lines))
        return path

    return write


def refusal(*sources: object) -> str:
    with pytest.raises(DataError) as caught:
        data.load([str(source) for source in sources])
    return str(caught.value)


# The built-in corpora


def test_the_built_in_corpora_are_the_recorded_ones(reviews: Reviews):
    """33,530 rows, of which 101 say the same as another once markup, case and punctuation are set aside."""
    names, counts = np.unique(reviews.sources, return_counts=True)

    assert dict(zip(names, counts, strict=True)) == {"imdb": 24_901, "rotten_tomatoes": 8_528}


def test_reviews_are_clean(reviews: Reviews):
    leftovers = [text for text in reviews.texts if "<br" in text or "&amp;" in text or text != " ".join(text.split())]

    assert leftovers == []


def test_an_altered_corpus_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "BUILT_IN_SHA256", "0" * 64)

    assert "the file was altered" in refusal("imdb")


# The holdout


def test_the_holdout_is_a_fifth(reviews: Reviews):
    training, holdout = reviews.split()

    assert len(training) + len(holdout) == len(reviews)
    assert len(holdout) / len(reviews) == pytest.approx(0.2, abs=0.01)


def test_a_review_stays_on_its_side_whatever_is_added(reviews: Reviews):
    """No champion has ever trained on a review that judges its challenger."""
    alone = data.load(["imdb"])

    assert set(alone.split()[1].keys) <= set(reviews.split()[1].keys)
    assert not set(alone.split()[1].keys) & set(reviews.split()[0].keys)


def test_case_markup_and_punctuation_do_not_move_a_review_across(csv_file: Callable[..., Path]):
    plain = csv_file(rows(), name="plain.csv")
    dressed = csv_file([(f"<br /><br />{t.upper()} &amp; ... !", label) for t, label in rows()], name="dressed.csv")

    assert data.load([str(plain)]).keys == data.load([str(dressed)]).keys


def test_the_digest_follows_the_reviews_and_not_their_order(csv_file: Callable[..., Path]):
    forward = data.load([f"x={csv_file(rows(), name='a.csv')}"])
    backward = data.load([f"x={csv_file(rows()[::-1], name='b.csv')}"])
    relabelled = data.load([f"x={csv_file([(rows()[0][0], '1'), *rows()[1:]], name='c.csv')}"])

    assert forward.digest == backward.digest
    assert forward.digest != relabelled.digest


# Sources of one's own


def test_sources_compose(csv_file: Callable[..., Path]):
    own = csv_file([*rows(200), rows()[0]])

    together = data.load(["rotten_tomatoes", f"mine={own}"])

    assert np.unique(together.sources).tolist() == ["mine", "rotten_tomatoes"]
    assert (together.sources == "mine").sum() == 200


def test_a_glob_reads_every_file_and_csv_and_parquet_agree(csv_file: Callable[..., Path], tmp_path: Path):
    csv_file(rows()[:2_000], name="part-1.csv")
    csv_file(rows()[2_000:], name="part-2.csv")
    texts, labels = zip(*rows(), strict=True)
    pq.write_table(pa.table({"text": texts, "label": [int(label) for label in labels]}), tmp_path / "all.parquet")

    from_csv = data.load([f"x={tmp_path}/part-*.csv"])
    from_parquet = data.load([f"x={tmp_path}/all.parquet"])

    assert from_csv.digest == from_parquet.digest


def test_a_compressed_file_is_read(csv_file: Callable[..., Path]):
    plain = csv_file(rows())
    compressed = plain.with_name("reviews.csv.gz")
    compressed.write_bytes(gzip.compress(plain.read_bytes()))

    assert data.load([f"x={compressed}"]).digest == data.load([f"x={plain}"]).digest


def test_labels_may_be_words(csv_file: Callable[..., Path]):
    numbers = csv_file(rows(), name="numbers.csv")
    words = csv_file([(text, "Positive" if label == "1" else " neg ") for text, label in rows()], name="words.csv")

    assert data.load([f"x={numbers}"]).digest == data.load([f"x={words}"]).digest


def test_an_address_is_read(csv_file: Callable[..., Path]):
    folder = csv_file(rows(), name="reviews.csv").parent
    texts, labels = zip(*rows(), strict=True)
    pq.write_table(pa.table({"text": texts, "label": [float(label) for label in labels]}), folder / "reviews.parquet")
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"

        loaded = data.load([f"{address}/reviews.csv"])
        from_parquet = data.load([f"{address}/reviews.parquet"])
        missing = refusal(f"{address}/absent.csv")
        server.shutdown()

    assert loaded.digest == from_parquet.digest == data.load([str(folder / "reviews.csv")]).digest
    assert missing.startswith(f"{address}/absent.csv: no such file, or its server does not answer")


def test_s3_is_read_through_a_real_endpoint(
    csv_file: Callable[..., Path], s3: tuple[Any, dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    client, environment = s3
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client.upload_file(str(csv_file(rows())), "reviews", "2026/november.csv")

    loaded = data.load(["own=s3://reviews/2026/*.csv"])
    missing = refusal("s3://reviews/absent.csv")

    assert len(loaded) == 4_000
    assert missing.startswith("s3://reviews/absent.csv: no such file")


# What is refused: the message names file, column, row and value


def test_a_missing_column_is_named_with_those_there(csv_file: Callable[..., Path]):
    path = csv_file(rows(5), header="review,label")

    assert refusal(path) == f"{path}: no column 'text': its columns are review, label"


def test_an_unknown_label_is_named_with_its_row(csv_file: Callable[..., Path]):
    path = csv_file([*rows(7), ("some text", "meh")])

    assert refusal(path) == f"{path}, row 8: label is 'meh': expected 1 or 0, true or false, positive or negative"


@pytest.mark.parametrize("text", ["", "  ", "<br />", "...!?"])
def test_an_empty_text_is_named_with_its_row(csv_file: Callable[..., Path], text: str):
    path = csv_file([*rows(2), (text, "1")])

    assert refusal(path).startswith(f"{path}, row 3: text is empty or has no word: {text!r}")


def test_conflicting_duplicates_are_named_with_both_rows(csv_file: Callable[..., Path]):
    path = csv_file([("A fine film.", "1"), *rows(2), ("a FINE film", "0")])

    assert refusal(path) == f"{path}, row 4: label is '0', but the same text is '1' in {path}, row 1"


def test_one_class_only_is_refused(csv_file: Callable[..., Path]):
    path = csv_file([(text, "1") for text, _ in rows()])

    assert refusal(path) == "source reviews: its 4000 reviews are all positive: both labels are needed"


def test_one_class_only_in_one_of_two_sources_is_refused(csv_file: Callable[..., Path]):
    path = csv_file([(text, "0") for text, _ in rows(50)])

    assert refusal("rotten_tomatoes", f"mine={path}").startswith("source mine: its 50 reviews are all negative")


def test_too_few_rows_say_how_many_are_needed(csv_file: Callable[..., Path]):
    message = refusal(csv_file(rows(400)))

    assert message.startswith("400 distinct reviews leave ")
    assert message.endswith("at least 600 are needed, about 3000 reviews in all")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no column 'text': its columns are (none)"),
        (b"text,label\na,1\nb,1,2\n", "row 2: 3 fields, the header names 2"),
        (b"text,label\n\xff\xfe,1\n", "line 2: not UTF-8"),
        (b'text,label\n"never closed,1\n', "row 1 (line 2): not CSV"),
        (b"text,label\n" + b"x" * 2**21 + b",1\n", "row 1 (line 2): not CSV: field larger than field limit"),
    ],
)
def test_what_is_no_csv_is_refused_with_its_place(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "broken.csv"
    path.write_bytes(content)

    assert expected in refusal(path)


def test_a_broken_parquet_file_is_refused(tmp_path: Path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 nothing of the kind")

    assert refusal(path).startswith(f"{path}: cannot be read: ArrowInvalid")


def test_a_parquet_text_that_is_no_string_is_named(tmp_path: Path):
    path = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"text": ["fine", None], "label": [1, 0]}), path)

    assert refusal(path) == f"{path}, row 2: text is None: expected a string"


def test_an_absent_file_says_what_a_source_is(tmp_path: Path):
    for name in ("absent.csv", "absent-*.csv"):
        path = tmp_path / name

        assert refusal(f"x={path}") == f"{path}: no such file: a source is imdb, rotten_tomatoes or [name=]path"


def test_two_sources_of_one_name_are_refused(tmp_path: Path):
    assert "source a is named twice" in refusal(tmp_path / "x" / "a.csv", tmp_path / "y" / "a.csv")


@pytest.mark.parametrize("source", ["part-*.csv", "imdb=own.csv", "my reviews.csv"])
def test_a_path_that_makes_no_name_needs_one(source: str):
    assert "give it one, NAME=" in refusal(source)


def test_a_file_with_a_header_alone_is_refused(csv_file: Callable[..., Path]):
    assert refusal(csv_file([])) == "the sources hold no reviews"


def test_a_source_is_recorded_so_that_it_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    assert data.absolute("imdb") == "imdb"
    assert data.absolute("own.csv") == f"own={tmp_path}/own.csv"
    assert data.absolute("own=s3://bucket/x-*.csv") == "own=s3://bucket/x-*.csv"


def test_no_source_is_refused():
    assert refusal("").startswith("no source is named")
