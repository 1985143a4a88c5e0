"""The command line: the lifecycle of a model, in order. The one composition root: imports lazily, nothing imports it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the gate rejected the model, 130 interrupted.
"""

import json
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.clock import Clock

if TYPE_CHECKING:
    from service.bundle import GateRecord
    from service.scorer import Scorer
    from training.candidate import Candidate
    from training.data import Reviews
    from training.registry import Version

STATE = Path(".sentiment")  # results that are not the registry's: the candidate, fetched versions, the server's log
SOURCES = ("imdb", "rotten_tomatoes")
REJECTED = 3
LOG = STATE / "serve.log"
EXAMPLE = "A quiet, moving film that I will not forget."

_candidate = click.option(
    "--candidate",
    "folder",
    type=click.Path(path_type=Path),
    default=STATE / "candidate",
    help="where the trained model is",
)
_sources = click.option(
    "--source",
    "sources",
    multiple=True,
    default=SOURCES,
    metavar="SOURCE",
    help="imdb, rotten_tomatoes, or [NAME=]PATH: CSV or Parquet with the columns text and label; a path, glob or URL, "
    "s3:// included. Repeat for several",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="report as one line of JSON, the last one printed")
_version = click.option("--version", "number", type=click.IntRange(1), help="a registered version")
_alias = click.option("--alias", default="champion", help="the version with this alias, unless --version is given")
_port = click.option("--port", type=click.IntRange(1, 65535), default=3000)


class InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The lifecycle's order, which is the order of this file."""
        return list(self.commands)


class Elsewhere(click.Command):
    """A command that lives beside what it drives, as `command`: its module is imported when somebody uses it."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, short_help=summary)
        self.module = module

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        return self.load().make_context(*args, **options)

    def load(self) -> click.Command:
        return import_module(self.module).command


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120},
)
def cli() -> None:
    """Push a better model; it is judged, shipped as a canary, and serves all traffic, or none.

    The registry is MLflow: mlflow.db in this folder, or wherever MLFLOW_TRACKING_URI says.

    \b
    Start with:        sentiment demo
    Then, by hand:     sentiment train && sentiment gate && sentiment register && sentiment promote
    """


@cli.command()
@click.option("--retrain", is_flag=True, help="train, judge and promote a new version although there is a champion")
@click.option("--once", is_flag=True, help="make one prediction, print a line of JSON and stop")
@_port
def demo(*, retrain: bool, once: bool, port: int) -> None:
    """From nothing to a served model, in one command.

    Trains, judges, registers, promotes and serves. A second run finds the champion and serves it in seconds. Ctrl-C
    ends everything it started.
    """
    from service.process import Server, is_taken

    os.environ.pop("API_KEYS_SHA256", None)  # the demo is for whoever started it, on loopback
    if is_taken(port):
        raise click.ClickException(f"port {port} is taken: stop what listens there, or choose another with --port")

    clock = Clock()
    # The bundle served last is very likely still the champion: it starts while MLflow is asked.
    latest = STATE / "latest"
    server = Server(latest.resolve(), port, LOG) if latest.is_dir() and not retrain else None
    try:
        from training import registry

        with clock.step("find the champion"):
            champion = None if retrain else registry.find(registry.CHAMPION)
        if champion is None:
            champion = _new_champion(clock)
        with clock.step("serve", f"version {champion.number}"):
            bundle = registry.fetch(champion, STATE / "versions")
            if server is None or server.bundle != bundle.resolve():
                if server:
                    server.stop()
                server = Server(bundle.resolve(), port, LOG)
            server.wait_until_ready(champion.scorer_sha256)
            latest.unlink(missing_ok=True)
            latest.symlink_to(bundle.resolve())
        with clock.step("ask it"):
            answer = server.predict(EXAMPLE)

        if once:
            report = {"version": champion.number, "label": answer["label"], "positive": answer["positive"]}
            click.echo(json.dumps({**report, "accuracy": champion.accuracy_by_source, "seconds": clock.seconds}))
        else:
            body = json.dumps({"text": EXAMPLE})
            click.echo(f"\ncurl -H 'content-type: application/json' -d '{body}' http://localhost:{port}/predict")
            click.echo(f"{json.dumps(answer)}\n\nServing on http://localhost:{port}, log in {LOG}. Ctrl-C stops it.")
            with suppress(KeyboardInterrupt):
                server.wait()
    finally:
        if server:
            server.stop()


def _new_champion(clock: Clock) -> "Version":
    """Train, judge, register and promote: a pipeline's steps, without the canary that a cluster adds."""
    with clock.step("load the libraries"):
        from training import data, model, registry, train

    with clock.step("read the reviews"):
        reviews = data.load(SOURCES)
    with clock.step("train", _sizes(reviews)):
        candidate = train.train(reviews, SOURCES, model.Params(), STATE / "candidate")
    with clock.step("judge"):
        record = _judge(candidate, reviews)
    if record.verdict != "passed":
        registry.log(candidate)
        _reject(record)
    with clock.step("register"):
        version = registry.register(candidate)
    with clock.step("promote"):
        return registry.promote(version.number)


@cli.command()
@_sources
@_candidate
@_as_json
def train(*, sources: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Train a candidate, on disk: needs no registry."""
    clock = Clock()
    with clock.step("load the libraries"):
        from training import data, model
        from training import train as training

    with clock.step("read the reviews"):
        reviews = data.load(sources)
    with clock.step("train", _sizes(reviews)):
        candidate = training.train(reviews, [data.absolute(s) for s in sources], model.Params(), folder)
    here = "" if folder == STATE / "candidate" else f" --candidate {folder}"
    text = f"{folder}: scorer {candidate.record.lineage.scorer_sha256}, next: sentiment gate{here}"
    _report(candidate.record.model_dump(mode="json"), text, as_json=as_json)


@cli.command()
@_candidate
@_version
@click.option("--alias", help="the version with this alias")
@click.option("--source", "sources", multiple=True, metavar="SOURCE", help="as in `train`; the model's own by default")
@_as_json
def evaluate(*, folder: Path, number: int | None, alias: str | None, sources: tuple[str, ...], as_json: bool) -> None:
    """Measure the candidate, or a version, on the holdout."""
    from dataclasses import asdict

    from training import data, registry, tables
    from training import evaluate as evaluation
    from training.candidate import Candidate

    if number and alias:
        raise click.UsageError("--version and --alias both name a version: give one")
    if number or alias:
        version = _chosen(number, alias or registry.CHAMPION)
        scorer, own_sources = _scorer_of(version), version.sources
    else:
        candidate = Candidate.read(folder)
        scorer, own_sources = candidate.scorer(), candidate.record.sources
    holdout = data.load(sources or own_sources).split()[1]
    metrics = evaluation.measure_by_source(holdout, evaluation.score(scorer, holdout))
    _report({name: asdict(m) for name, m in metrics.items()}, tables.of_measures(metrics), as_json=as_json)


@cli.command()
@_candidate
@click.option("--without", multiple=True, metavar="NAME", help="a source of the champion's that no longer counts")
@_as_json
def gate(*, folder: Path, without: tuple[str, ...], as_json: bool) -> None:
    """Judge the candidate against the champion.

    Both score the holdout of all sources that either of them was trained on, and the run is logged with its report,
    whatever the verdict. Margins and floors are in training/gate.py. Exit code 0: passed, 3: rejected.
    """
    from training import data, registry, tables
    from training.candidate import Candidate

    candidate = Candidate.read(folder)
    reviews = data.load(candidate.record.sources)
    if reviews.digest != candidate.record.lineage.data_digest:
        raise click.ClickException(f"{folder}: the reviews of {candidate.record.sources} changed since: train again")
    record = _judge(candidate, reviews, without)
    registry.log(candidate)
    against = f"version {record.champion_version}" if record.champion_version else "the floors: there is no champion"
    text = f"{tables.of_gate(record)}\n{record.verdict} against {against}; picture in {candidate.report}"
    _report(record.model_dump(mode="json"), text, as_json=as_json)
    if record.verdict != "passed":
        _reject(record)


@cli.command()
@_candidate
@_as_json
def register(*, folder: Path, as_json: bool) -> None:
    """Register a candidate that passed, as @challenger.

    Run again after a failure, it goes on where it was: the same candidate never becomes two versions.
    """
    from training import registry
    from training.candidate import Candidate

    version = registry.register(Candidate.read(folder))
    _report(_described(version), f"version {version.number} is @challenger, next: sentiment promote", as_json=as_json)


@cli.command()
@_version
@_as_json
def promote(*, number: int | None, as_json: bool) -> None:
    """Make a version the champion: the challenger by default."""
    from training import registry

    version = registry.promote(_chosen(number, registry.CHALLENGER).number)
    _report(_described(version), f"version {version.number} is @champion, next: sentiment serve", as_json=as_json)


@cli.command()
@_as_json
def models(*, as_json: bool) -> None:
    """List the registered versions."""
    from training import registry, tables

    versions = registry.versions()
    text = tables.of_versions(versions) if versions else "no versions yet: `sentiment demo` makes the first"
    _report([_described(version) for version in versions], text, as_json=as_json)


@cli.command()
@_version
@_alias
@click.option("--host", default="127.0.0.1", help="0.0.0.0 listens on every address")
@_port
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="processes that share the port")
def serve(*, number: int | None, alias: str, host: str, port: int, workers: int) -> None:
    """Serve a version over HTTP until told to stop."""
    from service.process import serve_command
    from training import registry

    version = _chosen(number, alias)
    bundle = registry.fetch(version, STATE / "versions")
    click.echo(f"starting version {version.number} on http://{host}:{port}", err=True)
    # The server replaces this process: it gets the signals itself, and none of MLflow's memory.
    command = serve_command(bundle, host=host, port=port, workers=workers)
    os.execv(command[0], command)


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@_version
@_alias
@click.argument("words", metavar="INPUT... OUTPUT", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def score(ctx: click.Context, *, number: int | None, alias: str, words: tuple[str, ...]) -> None:
    """Score files instead of requests: CSV, Parquet, JSON lines."""
    from service.score import main as command

    if {"-h", "--help"} & set(words):
        params = [p for p in [*ctx.command.params, *command.params] if p.name not in {"words", "bundle", "version"}]
        complete = click.Command("score", params=params, help=command.help, context_settings=cli.context_settings)
        complete.main(["--help"], prog_name="sentiment score")
    command.make_context("sentiment score", ["--bundle", ".", "--version", "?", *words])  # a wrong use shows here
    from training import registry

    version = _chosen(number, alias)
    bundle = registry.fetch(version, STATE / "versions")
    start = [sys.executable, "-P", "-m", "service.score", "--bundle", str(bundle), "--version", str(version.number)]
    os.execv(sys.executable, [*start, *words])


@cli.command()
@_version
@_alias
@click.option("--target", type=click.Choice(["online", "batch"]), default="online", help="answers requests, or files")
@click.option("--base", help="another base image than python:3.11-slim, best by its digest")
@click.option("--push", "repository", metavar="REPOSITORY", help="image repository to push to, unless it has the image")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="bill of materials, CycloneDX")
@_as_json
def image(*, number: int | None, alias: str, as_json: bool, base: str | None, **options: Any) -> None:
    """Build the container image of a version, with docker or podman.

    Its tag names the version and a hash of everything else of ours in it: what the image repository has under that tag
    is neither built nor pushed again.
    """
    from dataclasses import asdict

    from service.build import BASE, build
    from training import registry

    version = _chosen(number, alias)
    bundle = registry.fetch(version, STATE / "versions")
    made = build(bundle, version.number, version.scorer_sha256, base=base or BASE, **options)
    use = "--publish 127.0.0.1:3000:3000 {}" if options["target"] == "online" else "--volume $PWD:/data {} INPUT OUTPUT"
    text = f"{made.image}, its packages in {made.sbom}, next: docker run --read-only {use.format(made.image)}"
    _report(asdict(made), text, as_json=as_json)


cli.add_command(Elsewhere("doctor", "infra.doctor", "What this machine and the AWS account still lack, and the fix."))
cli.add_command(Elsewhere("cost", "infra.cost", "What a stack costs a month, and what would lower it."))
cli.add_command(Elsewhere("tracking", "infra.forward", "`exec`: run a command beside a stack's MLflow server."))
cli.add_command(Elsewhere("teardown", "infra.teardown", "What stands in the way of `pulumi destroy`."))


def _judge(candidate: "Candidate", reviews: "Reviews", without: Collection[str] = ()) -> "GateRecord":
    """Gate the candidate on its own sources and on the champion's: leaving one out of the training hides nothing."""
    from training import data, gate, registry

    champion = registry.find(registry.CHAMPION)
    beaten = None
    if champion:
        beaten = (champion.number, _scorer_of(champion))
        known = {*map(data.name_of, candidate.record.sources), *without}
        if more := [source for source in champion.sources if data.name_of(source) not in known]:
            reviews = data.load([*candidate.record.sources, *more])
    return gate.compare(candidate, reviews.split()[1], beaten, gate.Settings())


def _scorer_of(version: "Version") -> "Scorer":
    from service.bundle import SCORER
    from service.scorer import Scorer
    from training import registry

    return Scorer.read(registry.fetch(version, STATE / "versions") / SCORER)


def _reject(record: "GateRecord") -> None:
    for reason in record.reasons:
        click.echo(f"rejected: {reason}", err=True)
    sys.exit(REJECTED)


def _chosen(number: int | None, alias: str) -> "Version":
    from training import registry

    if version := registry.find(number or alias):
        return version
    wanted = f"version {number}" if number else f"version with the alias {alias}"
    where = os.environ.get("MLFLOW_TRACKING_URI") or f"{Path.cwd() / 'mlflow.db'}, this folder's"
    raise click.ClickException(
        f"no {wanted} in the registry ({where}): `sentiment models` lists it, `sentiment demo` fills it"
    )


def _sizes(reviews: "Reviews") -> str:
    training, holdout = reviews.split()
    return f"on {len(training):,} reviews, {len(holdout):,} held out"


def _described(version: "Version") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(version)


def _report(data: Any, text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(data) if as_json else text)


def main() -> None:
    """Run the command. A failure that is ours to explain is one line; a defect keeps its traceback."""
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, signal.default_int_handler)  # end as Ctrl-C does, with everything that was started
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in {"service", "training", "infra"}
        if not (ours or isinstance(error, OSError)):
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
