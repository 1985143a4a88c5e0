"""The command line, as people run it: every command as a process, in a folder of its own."""

import csv
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.process import is_taken
from training.data import Reviews

SENTIMENT = str(Path(sys.executable).parent / "sentiment")
COMMANDS = [
    *["demo", "train", "evaluate", "gate", "register", "promote", "models", "serve", "score", "image"],
    *["doctor", "cost", "tracking", "teardown"],
]


def run(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: PLW1510 (callers look at the code)
        [SENTIMENT, *arguments], cwd=cwd, capture_output=True, text=True, **options
    )


def start(*arguments: str, cwd: Path, **options) -> subprocess.Popen[str]:
    """A command that can be interrupted, even where the tests themselves run in the background and ignore SIGINT."""

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [SENTIMENT, *arguments],
        cwd=cwd,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 (this process runs no threads that could matter)
        **options,
    )


def last_json(result: subprocess.CompletedProcess[str]):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def small(reviews: Reviews, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source of 5,000 real reviews: trained on in a second or two."""
    path = tmp_path_factory.mktemp("data") / "small.csv"
    chosen = [i for i in range(len(reviews)) if reviews.sources[i] == "imdb"][::5]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["text", "label"], *([reviews.texts[i], reviews.labels[i]] for i in chosen)])
    return f"small={path}"


# Help


def test_help_lists_the_lifecycle_in_order():
    text = subprocess.run([SENTIMENT, "--help"], capture_output=True, text=True, check=True).stdout

    summaries = text.partition("Commands:\n")[2].splitlines()

    assert [line.split()[0] for line in summaries] == COMMANDS
    assert [line for line in summaries if line.endswith("...")] == [], "a summary is cut"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str):
    text = subprocess.run([SENTIMENT, command, "--help"], capture_output=True, text=True, check=True).stdout

    assert f"Usage: sentiment {command}" in text


# The steps by hand


@pytest.mark.slow
def test_the_steps_by_hand_end_with_a_served_champion(small: str, tmp_path: Path, free_port: Callable[[], int]):
    trained = last_json(run("train", "--source", small, "--json", cwd=tmp_path))
    judged = last_json(run("gate", "--json", cwd=tmp_path))
    registered = last_json(run("register", "--json", cwd=tmp_path))
    again = last_json(run("register", "--json", cwd=tmp_path))
    promoted = last_json(run("promote", "--json", cwd=tmp_path))
    listed = last_json(run("models", "--json", cwd=tmp_path))
    measured = last_json(run("evaluate", "--alias", "champion", "--json", cwd=tmp_path))

    sha256 = trained["lineage"]["scorer_sha256"]
    assert judged["verdict"] == "passed"
    assert judged["challenger"]["scorer_sha256"] == registered["tags"]["scorer_sha256"] == sha256
    assert (registered["number"], registered["aliases"]) == (again["number"], again["aliases"]) == (1, ["challenger"])
    assert promoted["aliases"] == ["champion"]
    assert listed == [promoted]
    assert measured["small"]["accuracy"] == promoted["metrics"]["accuracy.small"]

    port = free_port()
    server = subprocess.Popen([SENTIMENT, "serve", "--port", str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not is_taken(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        answer = subprocess.run(
            ["curl", "-s", f"http://127.0.0.1:{port}/model"], capture_output=True, text=True, check=True
        ).stdout
    finally:
        server.terminate()

    assert json.loads(answer)["scorer_sha256"] == sha256
    assert server.wait(timeout=20) == 0


@pytest.mark.slow
def test_tables_are_for_people(at_home: Path):
    listing = run("models", cwd=at_home).stdout
    measures = run("evaluate", "--version", "1", cwd=at_home).stdout

    assert listing.splitlines()[0].split()[:3] == ["version", "aliases", "gate"]
    assert "@champion  passed" in listing
    assert [line.split()[0] for line in measures.splitlines()] == ["source", "all", "imdb", "rotten_tomatoes"]


@pytest.mark.slow
def test_a_rejected_model_ends_with_code_3_and_is_not_registered(small: str, tmp_path: Path):
    """Labels turned around: worse than the floor, whatever the data."""
    path = Path(small.partition("=")[2])
    flipped = tmp_path / "flipped.csv"
    turned = {"0": "1", "1": "0"}
    with path.open(newline="") as stream, flipped.open("w", newline="") as out:
        rows = list(csv.reader(stream))
        half = [[text, turned[label] if i % 2 else label] for i, (text, label) in enumerate(rows[1:])]
        csv.writer(out).writerows([rows[0], *half])
    run("train", "--source", str(flipped), cwd=tmp_path, check=True)

    gate = run("gate", cwd=tmp_path)
    register = run("register", cwd=tmp_path)

    assert gate.returncode == 3
    assert "rejected: source flipped: accuracy 0." in gate.stderr
    assert register.returncode == 1
    assert "the gate rejected it" in register.stderr
    assert last_json(run("models", "--json", cwd=tmp_path)) == []


# Errors are one line that names the thing, the value and the fix


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--source", "absent.csv"], 1, "Error: absent.csv: no such file: a source is imdb"),
        (["gate"], 1, "Error: .sentiment/candidate: no trained model here: run `sentiment train` first"),
        (["register"], 1, "Error: .sentiment/candidate: no trained model here"),
        (["evaluate", "--version", "1", "--alias", "champion"], 2, "--version and --alias both name a version"),
        (["train", "--candidate", "/usr"], 1, "Error: /usr holds something else than a candidate"),
        (["promote"], 1, "Error: no version with the alias challenger in the registry"),
        (["serve", "--version", "7"], 1, "Error: no version 7 in the registry ("),
        (["serve", "--port", "99999"], 2, "99999 is not in the range 1<=x<=65535"),
        (["models", "--fast"], 2, "No such option"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, arguments: list[str], code: int, message: str):
    result = run(*arguments, cwd=tmp_path)

    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_leaving_out_a_source_of_the_champions_hides_no_loss(small: str, home: Path, tmp_path: Path):
    """The champion knows both corpora: a model of 5,000 imdb reviews must still answer to rotten_tomatoes."""
    ours = shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("versions"))
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{ours}/mlflow.db"}
    run("train", "--source", small, cwd=ours, check=True)

    hidden = run("gate", "--json", cwd=ours, env=environment)
    on_purpose = run("gate", "--json", "--without", "rotten_tomatoes", cwd=ours, env=environment)

    assert hidden.returncode == 3
    assert "source rotten_tomatoes: accuracy 0." in hidden.stderr
    names = {part["name"] for part in json.loads(on_purpose.stdout)["slices"]}
    assert "source rotten_tomatoes" not in names
    assert "source imdb" in names


@pytest.mark.slow
def test_a_registry_that_is_away_is_told(small: str, tmp_path: Path):
    run("train", "--source", small, cwd=tmp_path, check=True)
    environment = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

    result = run("gate", cwd=tmp_path, env=environment)

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: MLflow at http://127.0.0.1:9 does not answer")
    assert (tmp_path / ".sentiment" / "candidate" / "record.json").is_file()


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_next_run_works(small: str, tmp_path: Path):
    """No file may grow past 100 kB: writing the scorer fails as it does on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = run("train", "--source", small, cwd=tmp_path, preexec_fn=limit)

    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("Error: [Errno 27] File too large")
    assert not (tmp_path / ".sentiment" / "candidate").exists()

    assert run("train", "--source", small, cwd=tmp_path).returncode == 0


def test_a_registry_whose_making_was_killed_is_made_by_the_next_run(tmp_path: Path):
    """Killed as soon as its first tables are on disk."""
    first = start("models", cwd=tmp_path, stdout=subprocess.DEVNULL)
    while first.poll() is None and not any(path.stat().st_size for path in tmp_path.glob(".mlflow-*/mlflow.db")):
        time.sleep(0.005)
    first.kill()
    first.wait()

    assert not (tmp_path / "mlflow.db").exists()

    second = run("models", cwd=tmp_path)

    assert second.returncode == 0
    assert "no versions yet" in second.stdout
    assert (tmp_path / "mlflow.db").stat().st_nlink == 1


# The demo


def test_the_demo_needs_its_port(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        result = run("demo", "--once", "--port", str(port), cwd=tmp_path)

    assert result.returncode == 1
    assert result.stderr == f"Error: port {port} is taken: stop what listens there, or choose another with --port\n"


def test_the_demo_goes_from_nothing_to_an_answer_and_then_in_seconds(tmp_path: Path, free_port: Callable[[], int]):
    """Interrupted in the middle of training first: the run after it must not notice."""
    port = str(free_port())
    interrupted = start("demo", "--once", "--port", port, cwd=tmp_path, stderr=subprocess.PIPE)
    assert interrupted.stderr
    seen = ""
    while "train on" not in seen:
        character = interrupted.stderr.read(1)
        assert character, seen
        seen += character
    time.sleep(2)
    interrupted.send_signal(signal.SIGINT)

    assert interrupted.wait(timeout=20) == 130
    assert interrupted.stderr.read().splitlines()[-1] == "interrupted"

    first = run("demo", "--once", "--port", port, cwd=tmp_path)
    second = run("demo", "--once", "--port", port, cwd=tmp_path)

    report, later = last_json(first), last_json(second)
    assert report["version"] == later["version"] == 1
    assert report["label"] == "positive"
    assert report["positive"] == later["positive"] > 0.5
    assert report["accuracy"]["imdb"] >= 0.905
    assert report["accuracy"]["rotten_tomatoes"] >= 0.79
    assert list(report["seconds"])[-2:] == ["serve", "ask it"]
    assert "train" in report["seconds"]
    assert "train" not in later["seconds"]
    assert sum(later["seconds"].values()) < 0.5 * sum(report["seconds"].values())
    assert "Warning" not in first.stderr
    assert not is_taken(int(port))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_stops_the_server(at_home: Path, free_port: Callable[[], int], stop: signal.Signals):
    port = free_port()
    demo = start("demo", "--port", str(port), cwd=at_home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert demo.stdout
    shown = []
    for line in demo.stdout:
        shown.append(line)
        if "Ctrl-C stops it" in line:
            break
    curl = next(line for line in shown if line.startswith("curl "))
    answered = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True).stdout
    printed = next(line for line in shown if line.startswith("{"))

    demo.send_signal(stop)

    assert json.loads(answered) == json.loads(printed)
    assert demo.wait(timeout=20) == 0, "it is how one ends it"
    assert not is_taken(port)
