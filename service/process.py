"""The service as a child process on loopback: started, waited for, asked, stopped."""

import errno
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError


class ServerError(RuntimeError):
    """The server did not start, stopped by itself, or serves something else."""


def serve_command(bundle: Path, *, port: int, host: str = "127.0.0.1", workers: int = 1) -> list[str]:
    """The command that serves a bundle fetched from the registry, in a folder named NUMBER-SHA256."""
    version = bundle.name.partition("-")[0]
    words = ["--bundle", bundle, "--version", version, "--host", host, "--port", port, "--workers", workers]
    # -P: modules come from the environment, never from the folder one happens to be in
    return [sys.executable, "-P", "-m", "service.serve", *map(str, words)]


def is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens there already. Raises OSError if the host is not an address of this machine."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
        return False


class Server:
    """Starts at once; ready when `wait_until_ready` returns."""

    def __init__(self, bundle: Path, port: int, log: Path, workers: int = 1) -> None:
        self.bundle, self.url, self.log = bundle, f"http://127.0.0.1:{port}", log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                serve_command(bundle, port=port, workers=workers), stdout=output, stderr=output
            )

    def wait_until_ready(self, scorer_sha256: str, timeout_s: float = 60) -> None:
        """Return when it serves that scorer; raise ServerError when it stopped, serves another, or takes too long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerError(f"the server stopped at once:\n{self.log.read_text()[-2000:]}")
            try:
                served = self.call("/model")["scorer_sha256"]
            except HTTPError as error:
                raise ServerError(f"{self.url}/model answers {error.code} {error.reason}: see {self.log}") from error
            except OSError:
                time.sleep(0.05)
                continue
            if served == scorer_sha256:
                return
            raise ServerError(f"{self.url} serves scorer {served}, expected is {scorer_sha256}")
        raise ServerError(f"the server was not ready within {timeout_s:.0f} s: see {self.log}")

    def predict(self, text: str) -> dict[str, Any]:
        return self.call("/predict", {"text": text})

    def call(self, path: str, body: Any = None) -> Any:
        """The JSON answer to a GET, or to a POST of a JSON body. Raises OSError, of which HTTPError is one."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})  # noqa: S310
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy reaches our own loopback
        with direct.open(request, timeout=10) as response:
            return json.load(response)

    def wait(self) -> None:
        if code := self.process.wait():
            raise ServerError(f"the server stopped with exit code {code}: see {self.log}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
