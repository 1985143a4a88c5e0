"""Files wherever fsspec knows: found, under one name each, and written whole or not at all. Knows nothing of rows."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_SUFFIXES |= {f"{suffix}.gz": kind for suffix, kind in _SUFFIXES.items() if kind != "parquet"}


def find(inputs: tuple[str, ...], output: str) -> dict[str, list[Any]]:
    """The files that paths, globs and folders name, those in OUTPUT excepted: their sizes, and ETags or times."""
    found, ours = {}, f"{_name(*at(output))}/"
    for given in inputs:
        with named(f"input {given}"):
            fs, path = at(given)
            try:  # brackets may be a pattern, or part of a name
                paths = [path] if fs.isfile(path) else fs.expand_path(path, recursive=True)
            except FileNotFoundError:
                paths = []
            infos = {_name(fs, path): fs.info(path) for path in paths if kind_of(path)}
        files = {name: info for name, info in infos.items() if info["type"] == "file" and not name.startswith(ours)}
        if not files:
            raise click.ClickException(f"input {given}: no such file, or none that ends in {', '.join(_SUFFIXES)}")
        found |= {name: [info["size"], info.get("ETag") or info.get("mtime")] for name, info in files.items()}
    return dict(sorted(found.items()))


def _name(fs: Any, path: str) -> str:
    """The one name of a file, however it was spelt."""
    return os.path.realpath(path) if "file" in fs.protocol else fs.unstrip_protocol(path)


def write(output: str, name: str, content: bytes, *, new: bool = False) -> None:
    """Write a file whole or not at all. Raises FileExistsError if it should be `new` and is there."""
    fs, folder = at(output)
    if "file" not in fs.protocol:  # a bucket shows an object when it is complete
        fs.pipe_file(f"{folder}/{name}", content, mode="create" if new else "overwrite")
        return
    temporary = Path(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        (os.link if new else os.replace)(temporary, Path(folder, name))
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written an hour ago or earlier: nobody is at it any more."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - 3_600:
                path.unlink()


def at(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def kind_of(path: str) -> str:
    return next((kind for suffix, kind in _SUFFIXES.items() if path.lower().endswith(suffix)), "")


@contextmanager
def named(what: str) -> Iterator[None]:
    """Whatever a file system, a format or a network raises becomes one line that names `what`."""
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise click.ClickException(f"{what}: {kind}{' '.join(str(error).split())}") from error
