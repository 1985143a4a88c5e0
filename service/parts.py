"""Rows of CSV, JSON lines and Parquet: cut into parts, sorted out, put together again with their scores."""

import csv
import io
import itertools
import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from service.bundle import MAX_CHARACTERS
from service.files import kind_of, named

MAX_LINE = 2**20  # characters: a longer one is not held in memory
ADDED = ("label", "positive", "model_version")


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one input."""

    path: str
    number: int  # in its input, from 0
    first: int  # number of its first row in its input, from 1
    header: list[str]  # empty for JSON lines
    rows: Any  # CSV records or JSON lines as they stand in the file, or an Arrow RecordBatch

    @property
    def stem(self) -> str:
        name = self.path.rpartition("/")[2].partition(".")[0]
        return f"{name}-{sha256(self.path.encode()).hexdigest()[:12]}-{self.number:05d}"


def read(path: str, column: str, rows: int) -> Generator[Part, None, None]:
    """Cut one input. Raises ClickException if it cannot be read or its columns do not fit."""
    import fsspec

    kind = kind_of(path)
    text = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": "" if kind == "csv" else "\n"}
    mode = {"mode": "rb"} if kind == "parquet" else {"mode": "rt", "compression": "infer", **text}
    with named(f"input {path}"), fsspec.open(path, **mode) as stream:
        header, batches = {"csv": _csv, "jsonl": _json_lines, "parquet": _parquet}[kind](stream, rows)
        if kind != "jsonl" and not header:
            raise ValueError("is empty: not even a header is there")
        if kind != "jsonl" and header.count(column) != 1:
            raise ValueError(f"no single column {column!r} among {', '.join(header)}: choose with --column")
        if taken := [name for name in ADDED if name in header]:
            raise ValueError(f"has a column {taken[0]!r} already, which scoring adds: rename it in the file")
        first = 1
        for number, batch in enumerate(batches):
            yield Part(path, number, first, header, batch)
            first += len(batch)


def _csv(stream: Any, rows: int) -> tuple[list[str], Iterator[Any]]:
    records = _csv_records(_lines(stream))
    return _cells(next(records, "")), _cut(records, rows)


def _json_lines(stream: Any, rows: int) -> tuple[list[str], Iterator[Any]]:
    return [], _cut((line for line in _lines(stream) if not line.isspace()), rows)


def _parquet(stream: Any, rows: int) -> tuple[list[str], Iterator[Any]]:
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(stream, buffer_size=2**21)  # read in pieces: a row group is as long as its writer chose
    return file.schema_arrow.names, file.iter_batches(batch_size=rows, use_threads=False)


def _cut(records: Iterator[Any], rows: int) -> Iterator[list[Any]]:
    return iter(lambda: list(itertools.islice(records, rows)), [])


class Cut(str):
    """The beginning of a line that is too long: the rest was not kept."""

    __slots__ = ()


def _lines(stream: Any) -> Iterator[str]:
    """Lines with their ends."""
    while line := stream.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        yield Cut(line[:1_000])
        while len(line) == MAX_LINE and not line.endswith("\n"):
            line = stream.readline(MAX_LINE)


def _csv_records(lines: Iterator[str]) -> Iterator[str]:
    """Records, of several lines where a quoted field breaks them; blank lines are none.

    Of what does not become a record, the first line is taken for one and reading goes on with the second: a quote that
    is never closed costs one row.
    """
    taken: list[str] = []
    again: deque[str] = deque()
    quotes = size = 0
    while True:
        line = again.popleft() if again else next(lines, "")
        taken += [line] if line else []
        quotes, size = quotes + line.count('"'), size + (MAX_LINE if isinstance(line, Cut) else len(line))
        if not taken:
            return
        closed = quotes % 2 == 0 and size < MAX_LINE
        if closed and (len(taken) == 1 or _is_record("".join(taken))):
            if line.strip("\r\n"):
                yield "".join(taken)
        elif closed or not line or size >= MAX_LINE:
            yield taken[0]
            again.extendleft(reversed(taken[1:]))
        else:
            continue
        taken, quotes, size = [], 0, 0


def _is_record(text: str) -> bool:
    try:
        return bool(_cells(text))
    except csv.Error:
        return False


def _cells(record: str) -> list[str]:
    csv.field_size_limit(MAX_LINE)
    return next(csv.reader([record], strict=True), [])


def sort_out(part: Part, column: str) -> tuple[list[int], list[str], list[dict[str, Any]]]:
    """Which rows can be scored, their texts, and what is to be said of each other row."""
    kept, texts, rejected = [], [], []
    for index, record in enumerate(_records(part, column)):
        try:
            texts.append(_text(record, part.header, column))
            kept.append(index)
        except (ValueError, csv.Error, RecursionError) as error:
            content = record if isinstance(record, str) else _shown(part.rows.slice(index, 1))
            reason = "not Unicode" if isinstance(error, UnicodeError) else str(error)
            rejected.append({"input": part.path, "row": part.first + index, "reason": reason, "content": content})
    return kept, texts, rejected


def _records(part: Part, column: str) -> list[Any]:
    """What _text reads: of Parquet bytes, since one text that is not UTF-8 must not spoil the others."""
    if isinstance(part.rows, list):
        return part.rows
    import pyarrow as pa

    try:
        return part.rows[column].cast(pa.large_binary()).to_pylist()
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"column {column!r} holds {part.rows[column].type}, not strings") from error


def _text(record: Any, header: list[str], column: str) -> str:
    """The text to score. Raises ValueError, csv.Error or RecursionError with what is wrong with the row."""
    if type(record) is Cut:
        raise ValueError(f"longer than {MAX_LINE} characters; the content is cut")
    if not isinstance(record, str):
        text = record if record is None else record.decode()
    else:
        record.encode()  # of what was not UTF-8 surrogates are left, which do not encode
        text = _cell(record, header, column) if header else _object(record).get(column)
    if text is None:
        raise ValueError("no text")
    if type(text) is not str:
        raise ValueError(f"the text is {type(text).__name__}, not a string")
    if not text.strip():
        raise ValueError("the text is blank")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the text has {len(text)} characters, at most {MAX_CHARACTERS} are scored")
    text.encode()  # JSON can spell half a surrogate pair, which is no character
    return text


def _cell(record: str, header: list[str], column: str) -> str:
    if len(cells := _cells(record)) != len(header):
        raise ValueError(f"{len(cells)} fields, the header names {len(header)}")
    return cells[header.index(column)]


def _object(line: str) -> dict[str, Any]:
    row = json.loads(line.strip())
    if type(row) is not dict:
        raise ValueError("not a JSON object")
    if taken := [name for name in ADDED if name in row]:
        raise ValueError(f"has {taken[0]!r} already")
    return row


def _shown(row: Any) -> dict[str, Any]:
    """A batch of one row; a value that Python cannot hold, as Arrow prints it."""

    def value(column: Any) -> Any:
        try:
            return column[0].as_py()
        except (ValueError, OverflowError):
            return column.to_string()

    return dict(zip(row.schema.names, map(value, row.columns), strict=True))


def encode(part: Part, kind: str, kept: list[int], added: dict[str, list[Any]]) -> bytes:
    """The file of a part: the rows that were kept, with a column for each of ADDED."""
    if kind == "parquet":
        return _as_parquet(part, kept, added)
    answers = zip(*added.values(), strict=True)
    # records are prolonged, not written anew: what is in them stays as it was
    if kind == "csv":
        lines = [_csv_line([*part.header, *added])]
        lines += (
            part.rows[i].rstrip("\r\n") + "," + _csv_line(answer) for i, answer in zip(kept, answers, strict=True)
        )
    else:
        objects = (json.dumps(dict(zip(added, answer, strict=True))) for answer in answers)
        lines = [f"{part.rows[i].strip()[:-1]}, {more[1:]}\n" for i, more in zip(kept, objects, strict=True)]
    return "".join(lines).encode()


def _csv_line(cells: Iterable[Any]) -> str:
    csv.writer(text := io.StringIO(newline="")).writerow(cells)
    return text.getvalue()


def _as_parquet(part: Part, kept: list[int], added: dict[str, list[Any]]) -> bytes:
    """Columns of Parquet as they were, of CSV as strings; JSON lines, whose keys may differ, in one column `json`."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    if isinstance(part.rows, list):
        names = part.header or ["json"]
        rows = [_cells(part.rows[i]) if part.header else [part.rows[i].strip()] for i in kept]
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], names)
    else:
        runs = [part.rows] if len(kept) == len(part.rows) else [part.rows.slice(i, 1) for i in kept]
        table = pa.Table.from_batches(runs, part.rows.schema)
    for name, kind in zip(ADDED, (pa.string(), pa.float64(), pa.string()), strict=True):
        table = table.append_column(name, pa.array(added[name], kind))
    write_table(table, sink := io.BytesIO())
    return sink.getvalue()
