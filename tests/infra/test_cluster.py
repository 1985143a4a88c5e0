"""The wait for the API server, against a real HTTPS server and a stand-in for the AWS command line."""

import base64
import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pulumi
import pytest
from conftest import ANSWERS, config_of, outputs_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from monitor import run

from infra.cloud.cluster import wait_for_api


class ApiServer(HTTPServer):
    """Answers with 401 until the access entry has arrived, as EKS does."""

    refusals = 0
    asked: list[str]


class Answer(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.path} {self.headers['authorization']}")
        self.send_response(401 if len(self.server.asked) <= self.server.refusals else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """An API server with a certificate of its own, and an `aws` that knows where it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "pair.pem").write_bytes(certificate + key.private_bytes(serialization.Encoding.PEM, *private))
    server = ApiServer(("127.0.0.1", 0), Answer)
    server.asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    described = {
        "endpoint": f"https://localhost:{server.server_port}",
        "certificateAuthority": {"data": base64.b64encode(certificate).decode()},
    }
    stand_in(
        tmp_path / "bin" / "aws",
        {"describe-cluster": {"cluster": described}, "get-token": {"status": {"token": "k8s-token"}}},
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    yield server
    server.shutdown()


def stand_in(path: Path, answers: dict[str, object]) -> None:
    cases = "\n".join(f"*' {command} '*) echo '{json.dumps(answer)}';;" for command, answer in answers.items())
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\n*) echo "no such command: $*" >&2; exit 252;;\nesac\n')
    path.chmod(0o755)


def test_it_returns_once_the_server_knows_us(api: ApiServer):
    api.refusals = 2

    wait_for_api("sentiment-dev", "eu-west-1", timeout_s=1)

    assert api.asked == ["/apis/rbac.authorization.k8s.io/v1/clusterroles?limit=1 Bearer k8s-token"] * 3


def test_it_says_who_and_where_to_be_when_the_server_never_does(api: ApiServer):
    api.refusals = 1_000

    with pytest.raises(pulumi.RunError, match=r"did not let us in within 0 s .*401.*aws.admin_role .*public_cidrs"):
        wait_for_api("sentiment-dev", "eu-west-1", timeout_s=0.2)


def test_it_says_what_the_aws_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stand_in(tmp_path / "bin" / "aws", {})
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    with pytest.raises(pulumi.RunError, match=r"`aws eks describe-cluster .*failed: no such command"):
        wait_for_api("sentiment-dev", "eu-west-1")


def test_an_update_waits_before_anything_uses_the_cluster(api: ApiServer):
    graph = run("dev", config_of("dev"), preview=False, outputs=outputs_of, answers=ANSWERS, run_hooks=True)

    assert graph.exit_code == 0, graph.messages
    assert len(api.asked) == 1


def test_an_update_ends_where_the_cluster_stays_closed():
    """The hook's failure is the update's: no provider is made that would remember the cluster as unreachable."""
    graph = run(
        "dev",
        config_of("dev"),
        preview=False,
        outputs=outputs_of,
        answers=ANSWERS,
        run_hooks=True,
        env={"PATH": "/nonexistent"},
    )

    assert graph.exit_code != 0
    assert graph.all("pulumi:providers:kubernetes") == []
