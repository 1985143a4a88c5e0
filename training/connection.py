"""A connection to MLflow, and everything that can go wrong with it told in one line.

Where it leads follows MLFLOW_TRACKING_URI (and MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), as people expect;
unset, to mlflow.db in the working directory.
"""

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default of 7 with back-off leaves people waiting for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds, each time
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class RegistryError(RuntimeError):
    """The registry refused, did not answer, or holds something that must not be used."""


@contextmanager
def connected(consequence: str = "") -> Iterator["MlflowClient"]:
    """A client, with everything that can go wrong on the way told as one RegistryError."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)

    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if "MLFLOW_TRACKING_URI" in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = _with_driver(os.environ["MLFLOW_TRACKING_URI"])
    uri = mlflow.get_tracking_uri()
    try:
        _ask_database(uri)
        _make_sqlite(uri)
        yield mlflow.MlflowClient()
    except (MlflowException, SQLAlchemyError, RequestException) as error:
        code = getattr(error, "error_code", "")
        if code in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
            said = "refuses the user name or password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        elif isinstance(cause := error.__context__ or error, RequestException):
            said = f"does not answer: {type(cause).__name__}"
        else:
            said = f"failed: {_first_line(error)}"
        message = f"MLflow at {uri} {said}"
        raise RegistryError(_without_passwords(f"{message}; {consequence}" if consequence else message)) from error


@cache
def _ask_database(uri: str) -> None:
    """Connect once to a database that the URI names: MLflow itself would try for 100 s before it says no."""
    if uri.partition(":")[0].startswith(("postgresql", "mysql", "mssql")):
        from sqlalchemy import create_engine

        engine = create_engine(uri, connect_args={"connect_timeout": 10} if uri.startswith("postgresql") else {})
        engine.connect().close()
        engine.dispose()


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).strip().partition("\n")[0][:300]


def _make_sqlite(uri: str) -> None:
    """Make a missing SQLite store beside its place and link it there whole.

    MLflow makes its tables in some fifty steps: killed between two of them, it would leave a file that blocks every
    later run. Of two processes that do this at once, the first one's file is kept.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.name == ":memory:" or path.exists():
        return

    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder, suppress(FileExistsError):
        unfinished = Path(folder) / path.name
        MlflowClient(tracking_uri=f"sqlite:///{unfinished}").search_experiments(max_results=1)
        path.hardlink_to(unfinished)


def _with_driver(uri: str) -> str:
    """Postgres by the driver that is installed: SQLAlchemy's own choice changes with its version."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", uri)


def _without_passwords(text: str) -> str:
    return re.sub(r"password=[^&\s]*", "password=***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text))
