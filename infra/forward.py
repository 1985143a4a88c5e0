"""A way to the MLflow server of a stack for one command: a port-forward that lives as long as the command does."""

import base64
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, cast

import click

from infra.settings import StackSettings, read
from infra.workloads.names import TRACKING, TRACKING_PORT, TRACKING_USERS


def _run(words: list[str], environment: dict[str, str]) -> str:
    try:
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise click.ClickException(f"{words[0]} is not installed: `sentiment doctor` says how") from None
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"`{' '.join(words)}` failed: {' '.join(error.stderr.split())}") from error


@contextmanager
def _kubectl(settings: StackSettings) -> Generator[dict[str, str]]:
    """An environment in which kubectl means the cluster of the stack's registry, whatever context is current."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if settings.aws:
            environment["KUBECONFIG"] = f"{folder}/kubeconfig"
            cluster = f"{settings.project}-{settings.registry}"
            _run(["aws", "eks", "update-kubeconfig", "--name", cluster, "--region", settings.aws.region], environment)
        yield environment


@contextmanager
def reached(settings: StackSettings, user: str) -> Generator[dict[str, str]]:
    """An environment in which MLflow's clients find the server, as a user. The password is nowhere else."""
    with _kubectl(settings) as environment:
        secret = ["kubectl", "--namespace", TRACKING, "get", "secret", f"{TRACKING}-{user}", "--output", "json"]
        known = {
            key: base64.b64decode(text).decode() for key, text in json.loads(_run(secret, environment))["data"].items()
        }
        words = ["kubectl", "--namespace", TRACKING, "port-forward", f"service/{TRACKING}", f":{TRACKING_PORT}"]
        with subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as forward:
            output = cast("IO[str]", forward.stdout)
            first = output.readline()
            if not (found := re.search(r"127\.0\.0\.1:(\d+)", first)):
                raise click.ClickException(f"`{' '.join(words)}` failed: {' '.join((first + output.read()).split())}")
            threading.Thread(target=output.read, daemon=True).start()  # it says a line for each connection
            try:
                yield {
                    **os.environ,
                    "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{found[1]}",
                    "MLFLOW_TRACKING_USERNAME": known["username"],
                    "MLFLOW_TRACKING_PASSWORD": known["password"],
                }
            finally:
                forward.terminate()


@click.group("tracking")
def command() -> None:
    """The MLflow server of a stack."""


@command.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--stack", default="dev", help="the stack, as in Pulumi.<stack>.yaml; its registry's server is meant")
@click.option("--user", type=click.Choice(TRACKING_USERS), default=TRACKING_USERS[0], help="as whom")
@click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(*, stack: str, user: str, words: tuple[str, ...]) -> None:
    """Run a command that needs the registry, such as `sentiment models`; its exit code is this one's.

    \b
    sentiment tracking exec --stack dev -- sentiment models
    """
    with reached(read(stack), user) as environment:
        try:
            done = subprocess.run(words, env=environment, check=False)
        except OSError as error:
            raise click.ClickException(f"{words[0]} cannot be run: {error.strerror}") from error
    raise SystemExit(done.returncode)
