"""From start to stop: ready when it can answer, and gone when everything is answered."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle import SELFCHECK
from service.process import Server, ServerError, is_taken
from training.registry import Version

BODY = json.dumps({"text": "A quiet, moving film."}).encode()
REQUEST = (
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    + BODY
)


async def ask_until_refused(port: int, outcomes: Counter[str]) -> None:
    """One client: sends the next request when the last is answered, on the same connection while that is offered."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            outcomes["refused before it was accepted"] += 1
            return
        offered = True
        while offered:
            try:
                writer.write(REQUEST)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                answer = json.loads(await reader.readexactly(length))
                outcomes["answered" if answer.get("label") == "positive" else "answered otherwise"] += 1
                offered = b"connection: close" not in head.lower()
            except (ConnectionError, asyncio.IncompleteReadError):
                outcomes["lost"] += 1
                offered = False
        writer.close()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("turn", range(3))
def test_nothing_accepted_is_lost_when_it_is_told_to_stop_under_load(
    fetched: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path, workers: int, turn: int
):
    port = free_port()
    server = Server(fetched, port, tmp_path / "log", workers)
    server.wait_until_ready(champion.scorer_sha256)
    outcomes: Counter[str] = Counter()

    async def load() -> None:
        clients = [asyncio.create_task(ask_until_refused(port, outcomes)) for _ in range(32)]
        await asyncio.sleep(0.7 + turn * 0.05)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*clients), timeout=30)

    asyncio.run(load())

    assert server.process.wait(timeout=20) == 0
    assert outcomes["answered"] > 500
    assert outcomes["lost"] == outcomes["answered otherwise"] == 0
    assert outcomes["refused before it was accepted"] == 32
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_it_stops_cleanly(
    fetched: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path, stop: signal.Signals, workers: int
):
    server = Server(fetched, free_port(), tmp_path / "log", workers)
    server.wait_until_ready(champion.scorer_sha256)
    assert server.predict("fine")["model_version"] == str(champion.number)

    server.process.send_signal(stop)

    assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.log.read_text()
    assert not is_taken(int(server.url.rpartition(":")[2]))


def test_a_stream_under_way_is_finished_before_it_stops(
    fetched: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path
):
    port = free_port()
    server = Server(fetched, port, tmp_path / "log")
    server.wait_until_ready(champion.scorer_sha256)

    async def converse() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        lines = 0
        for i in range(10):
            writer.write(b"%x\r\n%s\n\r\n" % (len(BODY) + 1, BODY))
            while b"label" not in await reader.readline():
                pass
            lines += 1
            if i == 3:
                server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")
        return lines

    assert asyncio.run(converse()) == 10
    assert server.process.wait(timeout=20) == 0


def test_it_is_never_ready_with_a_scorer_that_answers_otherwise(fetched: Path, tmp_path: Path):
    """The self-check is answered before the port is opened."""
    altered = tmp_path / "bundle"
    shutil.copytree(fetched, altered)
    first, *rest = (altered / SELFCHECK).read_text().splitlines()
    review = json.loads(first)
    review["positive"] = 1 - review["positive"]
    (altered / SELFCHECK).write_text("\n".join([json.dumps(review), *rest]) + "\n")

    command = [sys.executable, "-P", "-m", "service.serve", "--bundle", altered, "--version", "1", "--port", "3999"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert result.returncode == 1
    assert f"Error: {SELFCHECK} line 1 records" in result.stderr


def test_a_key_that_is_no_digest_stops_it_in_one_line(fetched: Path, free_port: Callable[[], int]):
    command = [sys.executable, "-P", "-m", "service.serve", "--bundle", fetched, "--version", "1"]

    result = subprocess.run(
        [*command, "--port", str(free_port())],
        env={**os.environ, "API_KEYS_SHA256": "secret"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr.startswith("Error: API_KEYS_SHA256: expected is the sha256 of each key")
    assert "secret" not in result.stderr


def test_a_server_that_refuses_us_is_no_server_to_wait_for(
    fetched: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As when API keys are asked for: that is said at once, not after a minute."""
    monkeypatch.setenv("API_KEYS_SHA256", "0" * 64)
    server = Server(fetched, free_port(), tmp_path / "log")
    try:
        with pytest.raises(ServerError, match="/model answers 401 Unauthorized"):
            server.wait_until_ready(champion.scorer_sha256)
    finally:
        server.stop()


def test_a_bundle_that_must_not_be_served_stops_it_in_one_line(tmp_path: Path, free_port: Callable[[], int]):
    server = Server(tmp_path, free_port(), tmp_path / "log")

    assert server.process.wait(timeout=20) == 1
    assert server.log.read_text().startswith(f"Error: {tmp_path}: no scorer.safetensors")
    assert len(server.log.read_text().splitlines()) == 1


def test_a_taken_port_stops_it_in_one_line(fetched: Path, free_port: Callable[[], int], tmp_path: Path):
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        server = Server(fetched, port, tmp_path / "log")

        assert server.process.wait(timeout=20) == 1

    assert f"port {port} is taken" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
