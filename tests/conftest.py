"""Real parts, made once: the real reviews, a model trained on them as the product does it, a registry that holds it."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.bundle import Bundle
from service.process import Server
from training import data, gate, model, registry, train
from training.candidate import Candidate
from training.data import Reviews
from training.registry import Version

for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
    del os.environ[name]  # whoever has a real registry in the environment must not find the tests in it

SOURCES = ("imdb", "rotten_tomatoes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:  # noqa: ARG001
    """On a laptop a test may skip for want of a tool; CI installs the tools, so there a skip is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def reviews() -> Reviews:
    return data.load(SOURCES)


@pytest.fixture(scope="session")
def holdout(reviews: Reviews) -> Reviews:
    return reviews.split()[1]


@pytest.fixture(scope="session")
def candidate(reviews: Reviews, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """Trained with the defaults, and passed by the gate as the first model. Tests that change it copy it."""
    trained = train.train(reviews, SOURCES, model.Params(), tmp_path_factory.mktemp("work") / "candidate")
    gate.compare(trained, reviews.split()[1], None, gate.Settings())
    return trained


@pytest.fixture
def copy(candidate: Candidate, tmp_path: Path) -> Candidate:
    """The passed candidate, as if no registry had seen it."""
    folder = shutil.copytree(candidate.folder, tmp_path / "candidate")
    (folder / "run_id").unlink(missing_ok=True)
    return Candidate(folder, candidate.record)


@pytest.fixture(scope="session")
def bundle(candidate: Candidate) -> Bundle:
    return Bundle.read(candidate.bundle)


@pytest.fixture(scope="session")
def home(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory whose registry, the default one, holds the candidate as its first champion."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        registry.promote(registry.register(candidate).number)
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.fixture(scope="session")
def champion(home: Path) -> Version:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        found = registry.find(registry.CHAMPION)
    assert found
    return found


@pytest.fixture(scope="session")
def fetched(home: Path, champion: Version) -> Path:
    """The champion's bundle, as fetched from the registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return registry.fetch(champion, home / "versions")


@pytest.fixture(scope="session")
def server(fetched: Path, champion: Version, free_port: Callable[[], int]) -> Iterator[Server]:
    """The service as a process of its own, serving the champion."""
    running = Server(fetched, free_port(), fetched.with_suffix(".log"))
    running.wait_until_ready(champion.scorer_sha256)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Finds a loopback port that nothing listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def s3() -> Iterator[tuple[Any, dict[str, str]]]:
    """A client, and the environment in which s3://reviews is there."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.Session().client("s3")
    client.create_bucket(Bucket="reviews")
    yield client, environment
    server.stop()
