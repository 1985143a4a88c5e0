"""What the service refuses, and that refusing costs it nothing."""

import http.client
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256

import pytest
from starlette.testclient import TestClient

from service import asgi, connection
from service.process import Server
from service.schema import MAX_BODY_BYTES
from service.serve import KEYS, key_digests

FINE = {"text": "fine"}
Start = Callable[..., TestClient]


# API keys


OLD, NEW = "a key of old", "a key of new"
DIGESTS = frozenset(sha256(key.encode()).digest() for key in (OLD, NEW))


@pytest.mark.parametrize("key", [OLD, NEW])
def test_each_configured_key_opens(in_process: Start, key: str):
    client = in_process(DIGESTS)

    assert client.post("/predict", json=FINE, headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert client.get("/model", headers={"authorization": f"bearer {key}"}).status_code == 200


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {OLD}", OLD, f"Bearer {OLD}x", f"Bearer {OLD[:-1]}"],
)
@pytest.mark.parametrize("path", ["/predict", "/stream", "/model", "/docs.json", "/schema.json", "/nowhere"])
def test_without_one_everything_is_closed_and_says_the_same(in_process: Start, path: str, given: str | None):
    headers = {} if given is None else {"authorization": given}

    refused = in_process(DIGESTS).post(path, json=FINE, headers=headers)

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json() == {"error": "an API key is needed, as Authorization: Bearer KEY"}


def test_a_digest_is_no_key(in_process: Start):
    headers = {"authorization": f"Bearer {sha256(OLD.encode()).hexdigest()}"}

    assert in_process(DIGESTS).post("/predict", json=FINE, headers=headers).status_code == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/", "/page.js"])
def test_probes_scrapes_and_the_page_itself_need_none(in_process: Start, path: str):
    assert in_process(DIGESTS).get(path).status_code == 200


def test_every_digest_is_compared(in_process: Start, monkeypatch: pytest.MonkeyPatch):
    """The time taken must not tell which key matched."""
    compared = []
    monkeypatch.setattr(asgi.hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)

    in_process(DIGESTS).get("/model", headers={"authorization": f"Bearer {OLD}"})

    assert set(compared) == DIGESTS


def test_keys_are_configured_by_their_digests(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEYS, f" {sha256(OLD.encode()).hexdigest()},\n{sha256(NEW.encode()).hexdigest().upper()} ")

    assert key_digests() == DIGESTS


@pytest.mark.parametrize("value", [OLD, "abc", sha256(b"x").hexdigest() + ",short"])
def test_a_key_in_the_place_of_its_digest_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv(KEYS, value)

    with pytest.raises(ValueError, match="64 hex digits") as refused:
        key_digests()

    assert value not in str(refused.value)


def test_no_keys_means_none_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEYS, "")

    assert key_digests() == frozenset()


# Bodies


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Server):
    """A client that asks first is not told to go on."""
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST /predict_batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        client.sendall(b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1))

        head = client.recv(2**16)

    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in head


def test_a_body_of_one_piece_has_the_same_limit(in_process: Start):
    refused = in_process().post(
        "/predict", content=iter([b"x" * (MAX_BODY_BYTES + 1)]), headers={"content-type": "application/json"}
    )

    assert refused.status_code == 413


JSON = {"content-type": "application/json"}


def test_a_body_that_does_not_say_its_length_is_cut_off_at_the_limit(server: Server):
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        client.sendall(b"transfer-encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):  # the service has answered and hung up
            for _ in range(MAX_BODY_BYTES // 2**16 + 64):
                client.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
        answer = b""
        with suppress(ConnectionError):
            answer = client.recv(2**16)

    assert answer == b"" or b" 413 " in answer
    assert server.predict("fine")


def test_a_body_that_stalls_is_given_up(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asgi, "READ_TIMEOUT_S", 0.2)
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"
        )
        client.sendall(b'{"te')

        answer = client.recv(2**16)

    assert b" 408 " in answer.splitlines()[0]
    assert b"connection: close" in answer


def test_bodies_together_are_bounded(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asgi, "MAX_BUFFERED_BYTES", 100_000)
    client = http.client.HTTPConnection("127.0.0.1", listening, timeout=10)

    client.request("POST", "/predict", b"x" * 1_000_000, JSON)
    refused = client.getresponse()

    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    client.close()


def test_too_many_requests_at_once_are_told_to_come_back(in_process: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asgi, "MAX_IN_FLIGHT", 0)
    client = in_process()

    refused = client.post("/predict", json=FINE)

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert client.get("/readyz").status_code == 200


# Connections


def test_a_head_that_does_not_end_is_given_up(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        started = time.monotonic()
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\n")

        assert client.recv(2**16) == b""

    assert time.monotonic() - started < 5


def test_a_connection_that_says_nothing_is_given_up(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        assert client.recv(2**16) == b""


def test_the_second_request_of_a_connection_has_the_same_limits(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.5)
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        while not client.recv(2**16).endswith(b"ok\n"):
            pass
        client.sendall(b"GET /livez HTTP/1.1\r\n")

        assert client.recv(2**16) == b""


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_end_is_not_kept(server: Server, start: bytes):
    port = int(server.url.rpartition(":")[2])
    filling = b"a: b\r\n" * 2_000 if start.endswith(b"\n") else b"x" * 10_000
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, suppress(ConnectionError):
        client.sendall(start)
        while sent < 200 * 2**20:
            sent += client.send(filling)

    assert sent < 20 * 2**20
    assert server.predict("fine")


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 2_000, b"x" * 10_000])
def test_trailers_have_the_limit_of_headers(server: Server, trailer: bytes):
    port = int(server.url.rpartition(":")[2])
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, suppress(ConnectionError):
        client.sendall(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: ")
        while sent < 200 * 2**20:
            sent += client.send(trailer)

    assert sent < 20 * 2**20


def test_a_long_stream_may_send_its_chunks_sizes_apart(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 1_000)
    body = b'{"text": "fine"}\n'
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n")
        client.sendall(b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(600):
            client.sendall(b"%x\r\n" % len(body))
            time.sleep(0.001)
            client.sendall(body + b"\r\n")
            time.sleep(0.001)
        client.sendall(b"0\r\n\r\n")
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += client.recv(2**16)

    assert answer.count(b'"label"') == 600


@pytest.mark.parametrize(
    "rest",
    [
        (b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"),
        (b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n", b"x"),
    ],
    ids=["a blank line", "a byte of a body that was refused"],
)
def test_after_an_answer_a_connection_does_not_idle_for_ever(
    listening: int, monkeypatch: pytest.MonkeyPatch, rest: tuple[bytes, bytes]
):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.5)
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as client:
        client.sendall(rest[0])
        time.sleep(0.2)
        client.sendall(rest[1])
        started = time.monotonic()
        drain(client)

    assert time.monotonic() - started < 3


def test_a_client_that_takes_nothing_is_given_up(listening: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "TAKE_TIMEOUT_S", 0.5)
    body = b'{"text": "' + b"fine bad " * 1_000 + b'"}'
    head = b"POST /explain HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", listening))
        client.settimeout(1)
        asked, answered = 0, b""
        with suppress(TimeoutError, ConnectionError):
            for _ in range(400):
                client.sendall(head + body)
                asked += 1
        time.sleep(1.5)
        client.settimeout(3)
        with suppress(ConnectionError):  # it ends, one way or the other, before everything was answered
            while piece := client.recv(2**20):
                answered += piece

    assert answered.count(b"HTTP/1.1 200") < asked


def drain(client: socket.socket) -> None:
    while client.recv(2**20):
        pass


def test_no_answer_sends_a_client_to_a_host_it_named_itself(server: Server):
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /predict/ HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n")

        answer = client.recv(2**16)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"elsewhere" not in answer


def test_an_answer_repeats_nothing_that_could_be_a_header(server: Server):
    port = int(server.url.rpartition(":")[2])
    for path in (b"/%0d%0aset-cookie:a=b", b"/predict?%0d%0aset-cookie:a=b"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ncontent-type: a%0d%0aset-cookie: a=b\r\n\r\n")
            head = client.recv(2**16).partition(b"\r\n\r\n")[0]

        assert b"set-cookie" not in head.lower()


def test_a_request_smuggled_by_two_lengths_is_refused(server: Server):
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        )

        assert b" 400 " in client.recv(2**16).splitlines()[0]


def test_a_review_never_reaches_the_log(server: Server):
    with suppress(OSError):
        server.call("/predict_batch", {"texts": ["a private review", 5]})
    with suppress(OSError):
        server.call("/a-private-path", {"text": "a private review"})

    assert "private" not in server.log.read_text()
