"""Serve a bundle folder: `python -m service.serve --bundle FOLDER --version 7`, in the image and on a laptop."""

import os
import re
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.process import is_taken

if TYPE_CHECKING:
    from service.asgi import Application

KEYS = "API_KEYS_SHA256"


@click.command(context_settings={"show_default": True})
@click.option("--bundle", type=click.Path(file_okay=False, path_type=Path), required=True, envvar="MODEL_BUNDLE")
@click.option("--version", required=True, envvar="MODEL_VERSION", help="the registered version that the bundle is")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=click.IntRange(1, 65535), default=3000)
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="processes that share the port")
def main(bundle: Path, version: str, host: str, port: int, workers: int) -> None:
    """Serve a bundle over HTTP until told to stop.

    API keys are asked for if the environment has API_KEYS_SHA256: the sha256 of each key, in hex, separated by spaces
    or commas. Several are valid at once, so that a key can be replaced without a gap. To make one:

    \b
        key=$(openssl rand -base64 32); printf %s "$key" | sha256sum
    """
    try:
        if is_taken(port, host):
            raise click.ClickException(f"port {port} is taken: stop what listens there, or choose another with --port")
    except OSError as error:
        raise click.ClickException(f"host {host} is no address of this machine: {error}") from error
    os.environ |= {"MODEL_BUNDLE": str(bundle.resolve()), "MODEL_VERSION": version}
    with ExitStack() as stack:
        if workers > 1:  # they add up their metrics in a folder; prometheus_client reads its name when it is imported
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="metrics-"))

        import uvicorn

        from service.app import load
        from service.connection import Connection, Workers

        try:
            load()
            key_digests()
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        for stop in (signal.SIGINT, signal.SIGTERM):
            # uvicorn drains, then raises the signal again: by then there is nothing left to interrupt
            signal.signal(stop, lambda *_: None)
        config = uvicorn.Config(
            "service.serve:create",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            http=Connection,
            ws="none",
            timeout_graceful_shutdown=25,  # seconds; Kubernetes kills after 30 unless told otherwise
            access_log=False,
            log_level="warning",
            server_header=False,
        )
        if workers > 1:
            Workers(config, sockets=[config.bind_socket()]).run()
        else:
            uvicorn.Server(config).run()


def create() -> "Application":
    """The ASGI application of one worker process."""
    from bentoml._internal.log import configure_server_logging

    from service.app import Sentiment
    from service.asgi import Application

    configure_server_logging()
    return Application(Sentiment, key_digests())


def key_digests() -> frozenset[bytes]:
    """The sha256 of each API key. Raises ValueError if one is no such thing."""
    words = re.split(r"[\s,]+", os.environ.get(KEYS, "").strip())
    if any(not re.fullmatch(r"[0-9a-fA-F]{64}", word) for word in words if word):
        raise ValueError(f"{KEYS}: expected is the sha256 of each key, 64 hex digits: the key itself must not be there")
    return frozenset(bytes.fromhex(word) for word in words if word)


if __name__ == "__main__":
    main()
