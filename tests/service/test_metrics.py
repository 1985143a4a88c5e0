"""What Prometheus sees."""

import os
import re
import signal
import socket
import time
import urllib.request
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.bundle import Bundle
from service.process import Server
from training.registry import Version


def samples(text: str) -> dict[str, float]:
    """Value of each series, named as in a query."""
    return {
        sample.name + "".join(f'{{{k}="{v}"}}' for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_names_are_those_that_rules_and_dashboards_ask_for(in_process: Callable[..., TestClient]):
    client = in_process()
    client.post("/predict", json={"text": "fine"})

    names = {re.sub(r"\{.*", "", name) for name in samples(client.get("/metrics").text)}

    assert {
        "sentiment_requests_arrived_total",
        "sentiment_requests_total",
        "sentiment_request_seconds_bucket",
        "sentiment_requests_in_flight",
        "sentiment_score_bucket",
        "sentiment_words_bucket",
        "sentiment_oov_share_bucket",
        "sentiment_model_info",
        "process_resident_memory_bytes",
    } <= names
    assert not {name for name in names if name.endswith("_created")}


def test_the_model_says_which_it_is(in_process: Callable[..., TestClient], bundle: Bundle):
    (family,) = [
        family
        for family in text_string_to_metric_families(in_process().get("/metrics").text)
        if family.name == "sentiment_model_info"
    ]

    lineage = bundle.gate.challenger
    expected = {"version": "1", "scorer_sha256": lineage.scorer_sha256, "git_sha": lineage.git_sha}
    assert [(sample.labels, sample.value) for sample in family.samples] == [(expected, 1)]


def test_histograms_count_as_the_profile_does(in_process: Callable[..., TestClient], bundle: Bundle):
    """Same edges, closed above: live counts can be laid beside the profile's."""
    client = in_process()
    texts = [review.text for review in bundle.selfcheck[:300]]
    client.post("/predict_batch", json={"texts": texts})
    found = samples(client.get("/metrics").text)

    for name, edges in bundle.profile.edges:
        values = [bundle.scorer.score(text) for text in texts]
        value_of = {"score": "positive", "words": "words", "oov_share": "oov_share"}[name]
        buckets = [bisect_left(edges, getattr(value, value_of)) for value in values]
        for i, edge in enumerate(edges):
            assert found[f'sentiment_{name}_bucket{{le="{float(edge)}"}}'] == sum(bucket <= i for bucket in buckets)
        assert found[f"sentiment_{name}_count"] == len(texts)


def test_every_result_is_counted_by_its_code(in_process: Callable[..., TestClient]):
    client = in_process()
    client.post("/predict", json={"text": "fine"})
    client.post("/predict", json={"text": 5})
    client.post("/predict", content=b"x", headers={"content-type": "text/plain"})
    client.get("/predict")
    client.get("/nowhere")

    found = samples(client.get("/metrics").text)

    assert {code: found[f'sentiment_requests_total{{code="{code}"}}'] for code in (200, 400, 404, 405, 415)} == {
        **dict.fromkeys((200, 400, 404, 405, 415), 1)
    }
    assert found["sentiment_requests_arrived_total"] == 5
    assert found["sentiment_request_seconds_count"] == 5
    assert found["sentiment_requests_in_flight"] == 0


def test_probes_and_scrapes_are_no_requests(in_process: Callable[..., TestClient]):
    client = in_process()
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path)

    assert samples(client.get("/metrics").text)["sentiment_requests_arrived_total"] == 0


def test_unknown_paths_make_no_series(in_process: Callable[..., TestClient]):
    client = in_process()
    client.get("/nowhere")
    before = set(samples(client.get("/metrics").text))
    for i in range(100):
        client.get(f"/nowhere/{i}")

    assert set(samples(client.get("/metrics").text)) == before


def test_a_request_that_is_never_answered_shows(listening: int):
    """Arrived but not answered: what a hanging pod looks like from outside."""
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
        )
        deadline = time.monotonic() + 5
        found = {"sentiment_requests_arrived_total": 0.0}
        while not found["sentiment_requests_arrived_total"] and time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{listening}/metrics", timeout=5) as response:
                found = samples(response.read().decode())

    assert found["sentiment_requests_arrived_total"] == 1
    assert found["sentiment_requests_in_flight"] == 1
    assert sum(value for name, value in found.items() if name.startswith("sentiment_requests_total")) == 0


def test_a_client_that_leaves_is_counted_as_499(listening: int):
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
        )
        time.sleep(0.1)
    deadline = time.monotonic() + 5
    found: dict[str, float] = {}
    while 'sentiment_requests_total{code="499"}' not in found and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{listening}/metrics", timeout=5) as response:
            found = samples(response.read().decode())

    assert found['sentiment_requests_total{code="499"}'] == 1
    assert found["sentiment_requests_in_flight"] == 0


@pytest.mark.slow
def test_processes_that_share_a_port_add_up(
    fetched: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = Server(fetched, free_port(), tmp_path / "log", workers=2)
    try:
        server.wait_until_ready(champion.scorer_sha256)
        before = scrape(server)
        for _ in range(200):
            server.predict("fine")
        with suppress(OSError):
            server.call("/predict", {"text": 5})
        found = scrape(server)
    finally:
        server.stop()

    assert found['sentiment_requests_total{code="200"}'] - before['sentiment_requests_total{code="200"}'] == 200
    assert found['sentiment_requests_total{code="400"}'] == 1
    assert found["sentiment_score_count"] == 200
    assert found["sentiment_requests_in_flight"] == 0
    assert [value for name, value in found.items() if name.startswith("sentiment_model_info")] == [1]
    assert list(tmp_path.glob("metrics-*")) == [], "it leaves nothing behind"


@pytest.mark.slow
def test_what_a_killed_process_had_in_flight_is_forgotten(
    fetched: Path, champion: Version, free_port: Callable[[], int], tmp_path: Path
):
    server = Server(fetched, free_port(), tmp_path / "log", workers=2)
    port = int(server.url.rpartition(":")[2])
    try:
        server.wait_until_ready(champion.scorer_sha256)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
            client.sendall(b"content-length: 9\r\n\r\n")
            time.sleep(0.3)
            assert scrape(server)["sentiment_requests_in_flight"] == 1
            for worker in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes():
                    os.kill(int(worker), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError, KeyError):
                if scrape(server)["sentiment_requests_in_flight"] == 0:
                    break
            time.sleep(0.2)

        assert scrape(server)["sentiment_requests_in_flight"] == 0
        assert scrape(server)["sentiment_requests_arrived_total"] >= 1, "what was counted stays"
    finally:
        server.stop()


def scrape(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as response:
        return samples(response.read().decode())
