"""Lines in, lines out."""

import http.client
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from service.bundle import Bundle
from service.process import Server
from service.schema import MAX_TEXT_BYTES
from service.stream import Lines


@pytest.fixture
def converse(server: Server) -> Callable[[Iterator[bytes] | bytes], list[dict]]:
    """Sends a body, in pieces if it is an iterator, and gives the lines of the answer."""

    def send(body: Iterator[bytes] | bytes) -> list[dict]:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=30)
        connection.request("POST", "/stream", body, {"content-type": "application/x-ndjson"})
        response = connection.getresponse()
        assert response.status == 200
        lines = response.read().decode().splitlines()
        connection.close()
        return [json.loads(line) for line in lines]

    return send


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def test_each_line_is_answered_in_order_as_predict_does(converse: Callable, server: Server, bundle: Bundle):
    texts = [review.text for review in bundle.selfcheck[:300]]

    answers = converse(b"".join(map(line, texts)))

    assert answers == server.call("/predict_batch", {"texts": texts})


def test_a_bad_line_is_an_error_at_its_place_and_the_stream_goes_on(converse: Callable):
    lines = [
        b'{"text": 5}',
        b"not json",
        b"",
        b'{"text": "' + b"x" * MAX_TEXT_BYTES + b'"}',
        b'{"text": "\xff"}',
        b"{}",
    ]

    answers = converse(line("fine") + b"\n".join(lines) + b"\n" + line("fine"))

    assert [sorted(answer)[0] for answer in answers] == ["label", *["error"] * 6, "label"]
    assert "too long" in answers[4]["error"]


@pytest.mark.parametrize("body", [b'{"text": "fine"}', b'{"text": "fine"}\n'])
def test_the_last_line_needs_no_end(converse: Callable, body: bytes):
    assert len(converse(body)) == 1


def test_nothing_in_is_nothing_out(converse: Callable):
    assert converse(b"") == []


def test_lines_are_the_same_however_the_body_is_cut():
    rng = random.Random(0)
    lines = [
        bytes(rng.choices(b"abc", k=rng.choice([0, 1, 10, MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1]))) for _ in range(40)
    ]
    body = b"\n".join(lines)
    expected = [None if len(found) > MAX_TEXT_BYTES else found for found in lines]

    for _ in range(30):
        cuts = sorted(rng.choices(range(len(body) + 1), k=rng.choice([0, 1, 50])))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        cutter = Lines()
        found = [cut for i, piece in enumerate(pieces) for cut in cutter.cut(piece, last=i == len(pieces) - 1)]

        assert found == (expected[:-1] if lines[-1] == b"" else expected)


def test_a_line_without_end_is_not_kept():
    cutter = Lines()

    for _ in range(1_000):
        assert list(cutter.cut(b"x" * 100_000, last=False)) == []

        assert len(cutter._rest) <= MAX_TEXT_BYTES
    assert list(cutter.cut(b"x\nfine\n", last=True)) == [None, b"fine"]


def test_a_line_that_is_too_long_and_never_ends_is_an_error_at_the_end():
    cutter = Lines()

    assert list(cutter.cut(b"x" * (MAX_TEXT_BYTES + 1), last=False)) == []
    assert list(cutter.cut(b"", last=True)) == [None]


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="memory is read from /proc: run the tests in a Linux container")
def test_a_long_stream_takes_no_more_memory_than_a_short_one(converse: Callable, server: Server, bundle: Bundle):
    block = b"".join(line(review.text) for review in bundle.selfcheck)
    converse(block)
    before = resident_mib(server.process.pid)

    answers = converse(block for _ in range(40))

    assert len(answers) == 40 * len(bundle.selfcheck)
    assert resident_mib(server.process.pid) < before + 5


def test_a_client_that_reads_nothing_is_not_read_from(server: Server):
    """Back-pressure: with nobody taking the answers, the service stops taking lines long before memory would tell."""
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(1)
        client.sendall(b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n")
        client.sendall(b"transfer-encoding: chunked\r\n\r\n")
        block = line("fine") * 4_000
        sent = 0
        with suppress(TimeoutError):
            while sent < 2**30:
                sent += client.send(b"%x\r\n%s\r\n" % (len(block), block))

    assert sent < 50 * 2**20


def test_others_are_answered_while_a_stream_runs(server: Server, converse: Callable, bundle: Bundle):
    block = b"".join(line(review.text) for review in bundle.selfcheck) * 5
    streaming = threading.Thread(target=converse, args=[block])
    streaming.start()
    answered = 0
    while streaming.is_alive():
        server.predict("fine")
        answered += 1

    assert answered > 20
