"""Serve a bundle folder: `python -m service.serve --bundle FOLDER --version 7`, in the image and on a laptop."""

import logging
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.process import is_taken

if TYPE_CHECKING:
    from bentoml._internal.external_typing import ASGIApp


@click.command(context_settings={"show_default": True})
@click.option("--bundle", type=click.Path(file_okay=False, path_type=Path), required=True, envvar="MODEL_BUNDLE")
@click.option("--version", required=True, envvar="MODEL_VERSION", help="the registered version that the bundle is")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=click.IntRange(1, 65535), default=3000)
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="processes that share the port")
def main(bundle: Path, version: str, host: str, port: int, workers: int) -> None:
    """Serve a bundle over HTTP until told to stop."""
    try:
        if is_taken(port, host):
            raise click.ClickException(f"port {port} is taken: stop what listens there, or choose another with --port")
    except OSError as error:
        raise click.ClickException(f"host {host} is no address of this machine: {error}") from error
    os.environ |= {"MODEL_BUNDLE": str(bundle.resolve()), "MODEL_VERSION": version}
    with tempfile.TemporaryDirectory(prefix="metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics  # read when the first metric is made, in every worker

        import uvicorn

        from service.app import load

        try:
            load()
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        for stop in (signal.SIGINT, signal.SIGTERM):
            # uvicorn drains, then raises the signal again: by then there is nothing left to interrupt
            signal.signal(stop, lambda *_: None)
        uvicorn.run(
            "service.serve:create",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            access_log=False,
            log_level="warning",
            server_header=False,
        )


def create() -> "ASGIApp":
    """The ASGI application of one worker process."""
    from bentoml._internal.log import configure_server_logging

    from service.app import Sentiment

    configure_server_logging()
    logging.getLogger("bentoml._internal.server.http_app").addFilter(_is_our_fault)
    return Sentiment.to_asgi()


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Whether a failed request is worth a traceback: a bad one is answered with 4xx and is not news."""
    from bentoml.exceptions import BentoMLException
    from pydantic import ValidationError
    from starlette.requests import ClientDisconnect

    error = record.exc_info[1] if record.exc_info else None
    client_error = isinstance(error, BentoMLException) and error.error_code.value < 500
    return not (client_error or isinstance(error, (ValidationError, ClientDisconnect)))


if __name__ == "__main__":
    main()
