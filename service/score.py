"""Score files instead of requests: `python -m service.score --bundle FOLDER --version 7 INPUT... OUTPUT`.

The main process cuts inputs into parts of a fixed number of rows; worker processes score them and write a file each. A
file appears whole or not at all, and its name follows from its input and its number: what is there is done. So a killed
run is simply started again, and machines that share the work share nothing but the folder.
"""

import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from service.bundle import SCORER, Bundle
from service.files import at, find, kind_of, named, sweep, write
from service.parts import ADDED, Part, encode, read, sort_out
from service.schema import label_of
from service.scorer import Scorer

RUN = "_run.json"


@dataclass(frozen=True)
class Job:
    """What all parts of a run have in common."""

    bundle: Path
    scorer_sha256: str
    version: str
    column: str
    rows: int  # in a part, at most
    format: str  # input or parquet
    output: str

    def kind_of(self, part: Part) -> str:
        return "parquet" if self.format == "parquet" else kind_of(part.path)

    def file_of(self, part: Part) -> str:
        return f"{part.stem}.{self.kind_of(part)}"


def finish(part: Part, job: Job) -> Counter[str]:
    """Score and write a part. The side file comes first: where the part is, both are complete."""
    kept, texts, rejected = sort_out(part, job.column)
    positives = [score.positive for score in _scorer(job).score_all(texts)]
    columns = [label_of(positive) for positive in positives], positives, [job.version] * len(kept)
    added: dict[str, list[Any]] = dict(zip(ADDED, columns, strict=True))
    if rejected:
        lines = "".join(json.dumps(row, default=str) + "\n" for row in rejected)
        write(job.output, f"{part.stem}.rejected.jsonl", lines.encode())
    write(job.output, job.file_of(part), encode(part, job.kind_of(part), kept, added))
    return Counter(rows=len(part.rows), scored=len(kept), rejected=len(rejected))


@cache
def _scorer(job: Job) -> Scorer:
    scorer = Scorer.read(job.bundle / SCORER)
    if scorer.sha256 != job.scorer_sha256:
        raise ValueError(f"{job.bundle}: its scorer was exchanged during the run")
    return scorer


# The folder OUTPUT


def claim(job: Job, inputs: dict[str, list[Any]]) -> set[str]:
    """Make OUTPUT this run's, and return the names of its files. Raises ClickException if it is another run's."""
    fs, folder = at(job.output)
    if "file" in fs.protocol:
        if Path(folder).is_file():
            raise ValueError("is a file: name a folder, last")
        Path(folder).mkdir(parents=True, exist_ok=True)
        sweep(Path(folder))
    names = {name.rpartition("/")[2] for name in (fs.ls(folder, detail=False) if fs.exists(folder) else ())}
    now = {key: value for key, value in asdict(job).items() if key not in {"bundle", "output"}}
    now |= {f"input {path}": stamp for path, stamp in inputs.items()}
    if RUN not in names:
        if not all(name.startswith((".", "_")) or not name for name in names):
            raise click.ClickException(f"output {job.output}: has files but no {RUN}: give a new folder")
        for path in inputs:  # a fault in the last input must not show hours after the first part
            with named(f"input {path}"), closing(read(path, job.column, 1)) as parts:
                for part in itertools.islice(parts, 1):
                    sort_out(part, job.column)
        with suppress(FileExistsError):  # another shard was faster
            write(job.output, RUN, json.dumps(now, indent=1).encode(), new=True)
    then = json.loads(fs.cat_file(f"{folder}/{RUN}"))
    for key in {**then, **now}:
        if (was := then.get(key, "absent")) != (this := now.get(key, "absent")):
            fix = "give a new folder, or what that run was given"
            raise click.ClickException(f"output {job.output}: is of a run with {key} {was}, not {this}: {fix}")
    return names


# The command


def shard_of(shard: str | None, shards: int | None, index: str | None) -> tuple[int, int]:
    """(i, n), from --shard, or from --shards and JOB_COMPLETION_INDEX; (0, 1) without. Raises UsageError."""
    if not shard and index is None and shards in {None, 1}:
        return 0, 1
    given = shard or f"{index or '?'}/{shards or '?'}"
    match = re.fullmatch(r"(\d+)/(\d+)", given)
    if not match or int(match[1]) >= int(match[2]):
        fix = "give --shard i/n, 0 <= i < n, or set both JOB_COMPLETION_INDEX and SCORE_SHARDS"
        raise click.UsageError(f"shard {given} (of JOB_COMPLETION_INDEX {index}, --shards {shards}): {fix}")
    return int(match[1]), int(match[2])


def run(job: Job, inputs: dict[str, list[Any]], shard: tuple[int, int], processes: int) -> dict[str, float]:
    """Score this shard's parts that are not there yet. Counts are of all its parts, whoever scored them."""
    with named(f"output {job.output}"):
        names = claim(job, inputs)
    started = shown = time.monotonic()
    total = Counter(rows=0, scored=0, rejected=0, resumed=0)
    parts = itertools.chain.from_iterable(read(path, job.column, job.rows) for path in inputs)
    under_way: dict[Future[Counter[str]], str] = {}
    # spawn, not fork: fsspec and pyarrow have threads by now
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _prepare) as pool:
        try:
            for part in itertools.islice(parts, shard[0], None, shard[1]):
                if job.file_of(part) in names:
                    total.update(_counted(part, job, names))
                else:
                    under_way[pool.submit(finish, part, job)] = part.stem
                if len(under_way) > processes:  # one more part than workers is held in memory
                    _collect(under_way, total)
                if time.monotonic() - shown > (0.2 if sys.stderr.isatty() else 10):
                    shown = time.monotonic()
                    report(total, shown - started)
            while under_way:
                _collect(under_way, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is being written is finished: that takes a second or two
            raise
    seconds = time.monotonic() - started
    report(total, seconds, end="\n")
    if total["rejected"]:
        click.echo(f"the rejected rows, with reasons: {job.output}/*.rejected.jsonl", err=True)
    done = {**total, "seconds": round(seconds, 3)}
    with named(f"output {job.output}"):
        write(job.output, "_done-{}-of-{}.json".format(*shard), json.dumps(done).encode())
    return done


def _prepare() -> None:
    """A worker leaves Ctrl-C to the main process, and dies with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main_process = multiprocessing.parent_process()
    assert main_process  # noqa: S101 (for the types: a worker has one)
    threading.Thread(target=lambda: (main_process.join(), os._exit(1)), daemon=True).start()


def _collect(under_way: dict[Future[Counter[str]], str], total: Counter[str]) -> None:
    """Wait for a part, and count it."""
    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
        with named(f"part {under_way.pop(future)}"):
            try:
                total.update(future.result())
            except BrokenProcessPool as error:
                fix = "fewer --rows or --workers need less"
                raise ValueError(f"its worker was killed, perhaps for its memory: {fix}") from error


def _counted(part: Part, job: Job, names: set[str]) -> Counter[str]:
    """The counts of a part that an earlier run finished."""
    fs, folder = at(job.output)
    side = f"{part.stem}.rejected.jsonl"
    rejected = fs.cat_file(f"{folder}/{side}").count(b"\n") if side in names else 0
    rows = len(part.rows)
    return Counter(rows=rows, scored=rows - rejected, rejected=rejected, resumed=rows)


def report(total: Counter[str], seconds: float, end: str = "") -> None:
    """A line on standard error; on a terminal the next one overwrites it."""
    rate = (total["rows"] - total["resumed"]) / seconds
    line = f"{total['rows']:,} rows, {total['rejected']:,} rejected, {rate:,.0f} a second"
    click.echo(line + (end or ("\033[K\r" if sys.stderr.isatty() else "\n")), err=True, nl=False)


def _cores() -> int:
    """How many this process may use: a container's or a taskset's, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command(context_settings={"show_default": True})
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.argument("output")
@click.option("--bundle", type=click.Path(file_okay=False, path_type=Path), required=True, envvar="MODEL_BUNDLE")
@click.option("--version", required=True, envvar="MODEL_VERSION", help="the registered version that the bundle is")
@click.option("--column", default="text", help="the column, or key, that holds the text")
@click.option("--rows", type=click.IntRange(1), default=10_000, help="in a part: the unit of resuming and of memory")
@click.option("--format", type=click.Choice(["input", "parquet"]), default="input", help="of the parts")
@click.option("--workers", type=click.IntRange(1), default=_cores, show_default="the cores it may use")
@click.option("--shard", metavar="I/N", help="score every N-th part, from part I on, counted from 0")
@click.option("--shards", type=click.IntRange(1), envvar="SCORE_SHARDS", help="N; then I is JOB_COMPLETION_INDEX")
@click.option("--json", "as_json", is_flag=True, help="report as one line of JSON, the last one printed")
def main(*, inputs: tuple[str, ...], bundle: Path, workers: int, as_json: bool, **given: Any) -> None:
    """Score INPUT... (files, globs or folders of .csv, .parquet, .jsonl; local or s3://) into the folder OUTPUT.

    The texts are in --column; every row gets the columns label, positive and model_version. OUTPUT gets a file, a part,
    for each --rows rows of an input, named after it. A row that cannot be scored does not fail the run: it stands in a
    file *.rejected.jsonl beside its part, with the reason. _run.json says what was asked, _done-*.json what came of it.
    Gzipped .csv and .jsonl are read as well.

    Started again after whatever stopped it, it goes on. Machines that share OUTPUT divide the work: `--shard 0/3`,
    `--shard 1/3`, `--shard 2/3`; in an indexed Kubernetes Job, which sets JOB_COMPLETION_INDEX, SCORE_SHARDS=3.
    """
    shard = shard_of(given.pop("shard"), given.pop("shards"), os.environ.get("JOB_COMPLETION_INDEX"))
    try:
        scorer_sha256 = Bundle.read(bundle).scorer.sha256
    except (ValueError, OSError) as error:
        raise click.ClickException(f"bundle {error}") from error
    job = Job(bundle=bundle.resolve(), scorer_sha256=scorer_sha256, **given)
    done = run(job, find(inputs, job.output), shard, workers)
    if as_json:
        click.echo(json.dumps(done))


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    main()
