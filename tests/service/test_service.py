"""The service as a process, over HTTP."""

import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle import Bundle
from service.process import Server, is_taken
from training import registry
from training.registry import Version


def post(server: Server, body: bytes, content_type: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(f"{server.url}/predict", body, {"content-type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_review_gets_a_label_a_probability_and_the_version(server: Server, champion: Version):
    praise = server.predict("A wonderful, moving film.")
    blame = server.predict("A dull waste of time.")

    assert praise == {"label": "positive", "positive": praise["positive"], "model_version": str(champion.number)}
    assert praise["positive"] > 0.9
    assert blame["label"] == "negative"
    assert blame["positive"] < 0.1


def test_it_answers_the_selfcheck_as_registered(server: Server, bundle: Bundle):
    for review in bundle.selfcheck[:200]:
        answer = server.predict(review.text)

        assert answer["positive"] == pytest.approx(review.positive, abs=1e-9)


def test_the_model_says_where_it_comes_from(server: Server, champion: Version):
    tags = champion.tags

    assert server.call("/model") == {
        "model_version": str(champion.number),
        **{key: tags[key] for key in ("scorer_sha256", "git_sha", "data_digest", "trained_at")},
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs.json"])
def test_what_operators_need_is_there(server: Server, path: str):
    with urllib.request.urlopen(server.url + path, timeout=10) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "好きな映画", "\u0000", "<br />", "a\ud83d\ude00b"], ids=lambda t: ascii(t[:8])
)
def test_any_text_within_the_limits_is_answered(server: Server, text: str):
    status, body = post(server, json.dumps({"text": text}).encode())

    assert status == 200
    assert 0 <= json.loads(body)["positive"] <= 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"text": ""}', "the text is empty"),
        (b'{"text": " \\n "}', "the text is empty"),
        (b"{}", "Field required"),
        (b'{"text": 5}', "should be a valid string"),
        (b'{"text": null}', "should be a valid string"),
        (b'{"text": ["a"]}', "should be a valid string"),
        (json.dumps({"text": "x" * 10_001}).encode(), "at most 10000 characters"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
        (b'{"text": ', "Invalid JSON"),
        (b'{"text": "\xff"}', "Invalid JSON"),
        (b'{"text": "\\ud800"}', "Invalid JSON"),
        (b"", "Field required"),
    ],
)
def test_bad_input_is_refused_with_the_reason(server: Server, body: bytes, reason: str):
    status, answer = post(server, body)

    assert 400 <= status < 500
    assert reason in answer


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_other_content_types_are_no_error_of_ours(server: Server, content_type: str):
    status, _ = post(server, b"text=fine", content_type)

    assert 400 <= status < 500


def test_the_log_holds_neither_tracebacks_nor_reviews(server: Server):
    post(server, b'{"text": 5}')
    post(server, b'{"text": "a private review"}')

    log = server.log.read_text()

    assert "Traceback" not in log
    assert "private" not in log


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_it_stops_cleanly(
    home: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path, stop: signal.Signals, workers: int
):
    bundle = registry.fetch(champion, home / "versions")
    server = Server(bundle, free_port(), tmp_path / "log", workers)
    server.wait_until_ready(champion.scorer_sha256)
    assert server.predict("fine")["model_version"] == str(champion.number)

    server.process.send_signal(stop)

    assert server.process.wait(timeout=20) == 0
    assert "Traceback" not in server.log.read_text()
    assert not is_taken(int(server.url.rpartition(":")[2]))


def test_a_bundle_that_must_not_be_served_stops_it_in_one_line(tmp_path: Path, free_port: Callable[[], int]):
    server = Server(tmp_path, free_port(), tmp_path / "log")

    assert server.process.wait(timeout=20) == 1
    assert server.log.read_text().startswith(f"Error: {tmp_path}: no scorer.safetensors")
    assert len(server.log.read_text().splitlines()) == 1


def test_a_taken_port_stops_it_in_one_line(home: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path):
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        server = Server(registry.fetch(champion, home / "versions"), port, tmp_path / "log")

        assert server.process.wait(timeout=20) == 1

    assert f"port {port} is taken" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
