"""The service in this process: its ASGI application on the real bundle, asked directly or through a real socket."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from training.candidate import Candidate


@pytest.fixture
def in_process(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TestClient]]:
    """Makes started applications, with the given API keys' digests."""
    from service.app import Sentiment, load
    from service.asgi import Application

    monkeypatch.setenv("MODEL_BUNDLE", str(candidate.bundle))
    monkeypatch.setenv("MODEL_VERSION", "1")
    load.cache_clear()
    clients: list[TestClient] = []

    def start(key_digests: frozenset[bytes] = frozenset()) -> TestClient:
        client = TestClient(Application(Sentiment, key_digests), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
    load.cache_clear()


@pytest.fixture
def listening(in_process: Callable[..., TestClient], free_port: Callable[[], int]) -> Iterator[int]:
    """The port of an application in this process, behind uvicorn and our connections."""
    import uvicorn

    from service.connection import Connection

    port, app = free_port(), in_process().app
    config = uvicorn.Config(app, port=port, http=Connection, lifespan="off", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield port
    server.should_exit = True
    thread.join(timeout=10)
