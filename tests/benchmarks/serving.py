"""Measure the service beside its peers, in one run: `make benchmark` prints a table and writes a picture.

Ratios are what counts: every figure of ours stands beside a peer's, measured in turn in the same minutes, on the same
real reviews. One worker each, the load from wrk on loopback, nothing else running if you can help it.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from service.bundle import MAX_CHARACTERS

HERE = Path(__file__).parent
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow starts uvicorn by its name
OURS, PEER, MLFLOW, LIMIT = "ours", "FastAPI + joblib", "mlflow models serve", "bare Starlette + scorer"
CLIENTS = (1, 16, 64)
FLAT_REQUESTS = 200_000


@dataclass
class Model:
    """One trained model in the forms that the servers want."""

    folder: Path
    texts: dict[str, list[str]]  # "short" and "long" reviews of the holdout
    pipeline: Any

    @property
    def bundle(self) -> Path:
        return self.folder / "candidate" / "bundle"


@dataclass
class Served:
    name: str
    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/predict"
    body: Callable[[str], dict[str, Any]] = lambda text: {"text": text}

    @contextmanager
    def running(self) -> Iterator[tuple[int, float]]:
        """Process id of the started server, and the seconds it took to its first answer."""
        started = time.perf_counter()
        process = subprocess.Popen(
            self.command,
            env={**os.environ, "PATH": PATH, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not self._answers():
                if process.poll() is not None or time.perf_counter() - started > 120:
                    raise click.ClickException(f"{self.name} does not start: {' '.join(self.command)}")
                time.sleep(0.01)
            yield process.pid, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()

    def _answers(self) -> bool:
        import urllib.request

        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.path}",
            json.dumps(self.body("fine")).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False


def train(folder: Path) -> Model:
    """The default model, and one file for each way to serve it."""
    import joblib
    import mlflow

    from training import data, gate, model, train

    sources = ("imdb", "rotten_tomatoes")
    reviews = data.load(sources)
    training, holdout = reviews.split()
    candidate = train.train(reviews, sources, model.Params(), folder / "candidate")
    gate.compare(candidate, holdout, None, gate.Settings())
    pipeline = model.build_pipeline(model.Params()).fit(training.texts, training.labels)
    joblib.dump(pipeline, folder / "model.joblib")
    mlflow.sklearn.save_model(
        pipeline,
        folder / "mlflow",
        serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_CLOUDPICKLE,  # the default loads for 4 s
        pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"],
    )
    lengths = {"short": "rotten_tomatoes", "long": "imdb"}
    texts = {
        name: [text for text in holdout.where(holdout.sources == source).texts if len(text) <= MAX_CHARACTERS]
        for name, source in lengths.items()
    }
    return Model(folder, texts, pipeline)


def servers(model: Model) -> list[Served]:
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "--app-dir", str(HERE), "--no-access-log", "--port"]
    ports = [free_port() for _ in range(4)]
    serve = ["-m", "service.serve", "--bundle", str(model.bundle), "--version", "1", "--port", str(ports[0])]
    scorer = {"PEER_MODEL": str(model.bundle / "scorer.safetensors")}
    joblib = {"PEER_MODEL": str(model.folder / "model.joblib")}
    return [
        Served(OURS, [sys.executable, "-P", *serve], ports[0]),
        Served(PEER, [*uvicorn, str(ports[1]), "peers:fastapi_joblib"], ports[1], joblib),
        Served(
            MLFLOW,
            [str(Path(sys.executable).parent / "mlflow"), "models", "serve", "--env-manager", "local", "--model-uri",
             str(model.folder / "mlflow"), "--port", str(ports[2])],
            ports[2],
            path="/invocations",
            body=lambda text: {"inputs": [text]},
        ),
        Served(LIMIT, [*uvicorn, str(ports[3]), "peers:bare_starlette"], ports[3], scorer),
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(pid: int) -> list[int]:
    """The process and everything it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(grandchild for child in children for grandchild in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    ticks = [Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split()[11:13] for p in family(pid)]
    return sum(int(user) + int(system) for user, system in ticks) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    return (
        sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in family(pid))
        * os.sysconf("SC_PAGE_SIZE")
        / 2**20
    )


def load(server: Served, pid: int, bodies: Path, clients: int, seconds: float) -> dict[str, float]:
    """Requests a second, latencies in ms, errors, and CPU microseconds a request."""
    before = cpu_seconds(pid)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "-s", str(HERE / "load.lua")]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}{server.path}"],
        env={**os.environ, "BODIES": str(bodies)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    result = json.loads(output.splitlines()[-1])
    return {
        "rps": result["requests"] / result["seconds"],
        "cpu_us": (cpu_seconds(pid) - before) / result["requests"] * 1e6,
        **{key: result[key] for key in ("p50_ms", "p99_ms", "errors")},
    }


def measure_http(model: Model, rounds: int, seconds: int) -> dict[str, Any]:
    """Start, memory and load of all servers, interleaved; medians over the rounds."""
    starts: dict[str, list[float]] = {}
    everyone = servers(model)
    for _ in range(rounds):
        for server in everyone:
            with server.running() as (_, ready_s):
                starts.setdefault(server.name, []).append(ready_s)
    measured: dict[str, Any] = {name: {"start_s": statistics.median(times)} for name, times in starts.items()}
    with ExitStack() as stack:
        pids = {server.name: stack.enter_context(server.running())[0] for server in everyone}
        for name, pid in pids.items():
            measured[name]["memory_before_mib"] = resident_mib(pid)
        for length in model.texts:
            for clients in CLIENTS:
                runs: dict[str, list[dict[str, float]]] = {}
                for _ in range(rounds):
                    for server in everyone:
                        bodies = model.folder / f"{length}-{everyone.index(server)}"
                        bodies.write_text("".join(json.dumps(server.body(t)) + "\n" for t in model.texts[length][:300]))
                        runs.setdefault(server.name, []).append(
                            load(server, pids[server.name], bodies, clients, seconds)
                        )
                for name, results in runs.items():
                    medians = {key: statistics.median(r[key] for r in results) for key in results[0]}
                    measured[name][f"{length} c={clients}"] = medians
                    say(f"{length} c={clients}", name, medians)
        for name, pid in pids.items():
            measured[name]["memory_after_mib"] = resident_mib(pid)
        measured[OURS]["flat"] = flat(everyone[0], pids[OURS], model.folder / "short-0")
    return measured


def flat(server: Served, pid: int, bodies: Path) -> dict[str, float]:
    """Memory over FLAT_REQUESTS more requests."""
    before, done = resident_mib(pid), 0.0
    while done < FLAT_REQUESTS:
        done += load(server, pid, bodies, 16, 4)["rps"] * 4
    return {"requests": done, "before_mib": before, "after_mib": resident_mib(pid)}


def measure_in_process(model: Model) -> dict[str, Any]:
    """CPU microseconds a text, in turn, and the batch command against one predict_proba of the same texts."""
    from service.scorer import Scorer

    scorer = Scorer.read(model.bundle / "scorer.safetensors")
    measured: dict[str, Any] = {}
    for length, texts in model.texts.items():
        rounds = [
            (cpu_us(lambda t: model.pipeline.predict_proba([t]), texts[:200]), cpu_us(scorer.score, texts[:200]))
            for _ in range(5)
        ]
        theirs, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        measured[f"one {length} text"] = {"sklearn_us": theirs, "ours_us": ours, "ratio": theirs / ours}
    measured["batch"] = measure_batch(model)
    return measured


def cpu_us(call: Callable[[str], object], texts: list[str]) -> float:
    started = time.process_time()
    for text in texts:
        call(text)
    return (time.process_time() - started) / len(texts) * 1e6


def measure_batch(model: Model) -> dict[str, Any]:
    """Texts a second of the whole machine: the batch command against predict_proba, on 40,000 long reviews."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = (model.texts["long"] * 9)[:40_000]
    pq.write_table(pa.table({"text": texts}), model.folder / "reviews.parquet")
    score = [sys.executable, "-P", "-m", "service.score", "--bundle", str(model.bundle), "--version", "1", "--json"]
    ours, theirs = [], []
    for turn in range(2):
        output = model.folder / f"scored-{turn}"
        result = subprocess.run(
            [*score, str(model.folder / "reviews.parquet"), str(output)], capture_output=True, text=True, check=True
        )
        ours.append(json.loads(result.stdout.splitlines()[-1])["seconds"])
        started = time.perf_counter()
        expected = model.pipeline.predict_proba(texts)[:, 1]
        theirs.append(time.perf_counter() - started)
    parts = sorted(output.glob("*.parquet"))
    found = np.concatenate([pq.read_table(part)["positive"].to_numpy() for part in parts])
    return {
        "ours_per_s": len(texts) / min(ours),
        "sklearn_per_s": len(texts) / min(theirs),
        "ratio": min(theirs) / min(ours),
        "largest_difference": float(np.abs(found - expected).max()),
    }


def say(what: str, name: str, figures: dict[str, float]) -> None:
    click.echo(f"{what:<12} {name:<24} " + "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()), err=True)


@dataclass
class Claim:
    what: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        holds = self.value >= self.at_least if self.at_least is not None else self.value <= (self.at_most or 0)
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{'reached' if holds else 'MISSED':<8} {self.what:<46} {self.value:>10.3g}  ({bound})"


def claims(http: dict[str, Any], alone: dict[str, Any]) -> list[Claim]:
    """What the project promises of its service, beside what was measured."""
    ours, peer, mlflow, limit = (http[name] for name in (OURS, PEER, MLFLOW, LIMIT))
    rps = ours["short c=16"]["rps"]
    grown = ours["flat"]["after_mib"] - ours["flat"]["before_mib"]
    errors = sum(run.get("errors", 0) for run in ours.values() if isinstance(run, dict))
    return [
        Claim("requests a second, times FastAPI + joblib", rps / peer["short c=16"]["rps"], at_least=4),
        Claim("requests a second, times mlflow models serve", rps / mlflow["short c=16"]["rps"], at_least=12),
        Claim("requests a second, share of bare Starlette", rps / limit["short c=16"]["rps"], at_least=0.4),
        Claim(
            "p99 at c=1, share of the peer's", ours["short c=1"]["p99_ms"] / peer["short c=1"]["p99_ms"], at_most=0.5
        ),
        Claim("one short text, times scikit-learn", alone["one short text"]["ratio"], at_least=25),
        Claim("one long text, times scikit-learn", alone["one long text"]["ratio"], at_least=4),
        Claim("batch per machine, times scikit-learn", alone["batch"]["ratio"], at_least=2),
        Claim("largest difference from scikit-learn", alone["batch"]["largest_difference"], at_most=1e-9),
        Claim("start to first answer, share of the peer's", ours["start_s"] / peer["start_s"], at_most=1),
        Claim("memory of the worker, MiB", ours["memory_after_mib"], at_most=150),
        Claim("growth over 200,000 requests, MiB", grown, at_most=2),
        Claim("errors", errors, at_most=0),
    ]


def table(http: dict[str, Any]) -> Iterator[str]:
    heads = ["req/s", "p50 ms", "p99 ms", "CPU us", "errors"]
    yield f"{'server':<24} {'start s':>8} {'MiB':>6}   {'load':<12}" + "".join(f"{head:>9}" for head in heads)
    for name, figures in http.items():
        about = f"{name:<24} {figures['start_s']:>8.2f} {figures['memory_after_mib']:>6.0f}"
        for run, measured in figures.items():
            if " c=" in run:
                values = [measured[key] for key in ("rps", "p50_ms", "p99_ms", "cpu_us", "errors")]
                cells = (f"{value:>9,.{digits}f}" for value, digits in zip(values, (0, 2, 2, 0, 0), strict=True))
                yield f"{about:<40}   {run:<12}{''.join(cells)}"
                about = ""


def draw(http: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    names = list(http)
    for axis, (title, value) in zip(
        axes,
        {
            "requests a second, short text, c = 16": lambda m: m["short c=16"]["rps"],
            "p99 in ms, short text, c = 16": lambda m: m["short c=16"]["p99_ms"],
            "memory after load, MiB": lambda m: m["memory_after_mib"],
        }.items(),
        strict=True,
    ):
        bars = axis.barh(names, [value(http[name]) for name in names], color=["#2456c6", *["#9aa3b5"] * 3])
        axis.bar_label(bars, fmt="{:,.1f}", padding=3)
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.savefig(path, dpi=120)


@click.command(context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=3, help="of each measurement; medians are reported")
@click.option("--seconds", type=click.IntRange(1), default=3, help="of each load")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".sentiment/benchmark"))
def main(rounds: int, seconds: int, folder: Path) -> None:
    """Measure the service beside its peers: ten minutes with the defaults."""
    if not shutil.which("wrk"):
        raise click.ClickException("wrk makes the load and is not here: apt-get install wrk")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    click.echo("training the model that all of them serve", err=True)
    model = train(folder)
    http, alone = measure_http(model, rounds, seconds), measure_in_process(model)
    (folder / "benchmark.json").write_text(json.dumps({"http": http, "in_process": alone}, indent=1))
    draw(http, folder / "benchmark.png")
    click.echo("\n".join(table(http)))
    click.echo(json.dumps(alone, indent=1))
    click.echo("\n".join(map(str, claims(http, alone))))


if __name__ == "__main__":
    main()
