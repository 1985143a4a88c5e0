"""An engine for tests: Pulumi's own gRPC services, strict, with real unknowns in a preview. No plugin, no cloud.

`run` starts a program as `pulumi up` starts it, in a process of its own, and returns what it registered: every resource
with inputs, parent, dependencies, provider, protection and ignored changes. What the real engine or a real provider
would refuse is refused here: two resources of one URN, a parent or dependency that nobody registered, a question to AWS
that no test answers, a resource of a cloud without a provider of ours. In a preview, what only AWS can know is unknown.
Not seen: whether a provider takes the values. The snapshots in graphs/ show those to the reader.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import (
    callback_pb2,
    callback_pb2_grpc,
    engine_pb2,
    engine_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # how an unknown string travels
SIGNATURE, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
LAUNCHER = Path(__file__).with_name("launcher.py")
ROOT = Path(__file__).parent.parent.parent

Outputs = Callable[[str, str, Mapping[str, Any]], Mapping[str, Any]]
"""What AWS would know of a resource, from its type, name and inputs."""


class Secret(str):
    """A string that was marked as a secret on its way to the engine."""

    __slots__ = ()


@dataclass(frozen=True)
class Resource:
    urn: str
    type: str
    name: str
    parent: str
    custom: bool
    inputs: dict[str, Any]
    dependencies: frozenset[str]
    provider: str
    protect: bool
    ignore_changes: tuple[str, ...]
    after_create: tuple[str, ...]


@dataclass
class Graph:
    """What a run registered, in the order of registration."""

    resources: dict[str, Resource] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    invokes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    exit_code: int = -1

    def all(self, kind: str) -> list[Resource]:
        """The resources whose type ends so: `ec2/vpc:Vpc`."""
        return [resource for resource in self.resources.values() if resource.type.endswith(kind)]

    def one(self, kind: str, name: str | None = None) -> Resource:
        (found,) = [resource for resource in self.all(kind) if name in (None, resource.name)]
        return found

    def tree(self) -> str:
        """The graph for people: each resource under its parent, what it waits for (+), ignores (~), and is told (:)."""
        below: dict[str, list[Resource]] = {}
        for resource in self.resources.values():
            below.setdefault(resource.parent, []).append(resource)

        def lines(parent: str, depth: int) -> Iterator[str]:
            for resource in sorted(below.get(parent, []), key=lambda child: (child.type, child.name)):
                kind = resource.type.split(":")[-1]
                needs = [self.resources[d] for d in resource.dependencies if d in self.resources]
                waits = sorted(f"{need.type.rpartition(':')[2]}.{need.name}" for need in needs)
                own = "  " * depth
                yield f"{own}{kind} {resource.name}" + "  ! protected" * resource.protect
                for mark, words in (("+", waits), ("~", resource.ignore_changes), ("after:", resource.after_create)):
                    if words:
                        yield f"{own}    {mark} {' '.join(words)}"
                for name, value in sorted(resource.inputs.items()):
                    yield f"{own}    {name}: {shown(value)}"
                yield from lines(resource.urn, depth + 1)

        asked = [f"asks {token} {shown(arguments)}" for token, arguments in self.invokes]
        (root,) = [urn for urn, resource in self.resources.items() if resource.type == "pulumi:pulumi:Stack"]
        return "\n".join([*lines(root, 0), *asked]) + "\n"

    def behind(self, resource: Resource) -> set[str]:
        """URNs of everything that must be there before the resource is made, its ancestors' dependencies excepted."""
        seen: set[str] = set()
        waiting = [*resource.dependencies, resource.provider.rpartition("::")[0]]
        while waiting:
            urn = waiting.pop()
            if urn and urn not in seen and urn in self.resources:
                seen.add(urn)
                waiting += [*self.resources[urn].dependencies, self.resources[urn].provider.rpartition("::")[0]]
        return seen


def plain(value: Any) -> Any:
    """A message's value as Python has it, secrets as Secret."""
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET:
            return marked(plain(value["value"]))
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def marked(value: Any) -> Any:
    """Every string of a secret is one."""
    if isinstance(value, dict):
        return {name: marked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner) for inner in value]
    return Secret(value if isinstance(value, str) else json.dumps(value))


def shown(value: Any) -> str:
    """A value on one line; documents in JSON are shown as what they say, secrets as what they are."""
    if isinstance(value, Secret):
        return "(secret)"
    if isinstance(value, dict):
        value = {name: shown(inner) if isinstance(inner, Secret) else inner for name, inner in value.items()}
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value) if value.startswith("{") else value
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    def __init__(self, *, preview: bool, outputs: Outputs, answers: Mapping[str, Any], run_hooks: bool) -> None:
        self.graph = Graph()
        self.preview, self.known, self.answers, self.run_hooks = preview, outputs, answers, run_hooks
        self.hooks: dict[str, callback_pb2.Callback] = {}
        self.lock = threading.Lock()

    def refuse(self, context: grpc.ServicerContext, code: grpc.StatusCode, why: str) -> None:
        self.graph.refused.append(why)
        context.abort(code, why)

    def must_have_provider(self, token: str, provider: str, context: grpc.ServicerContext) -> None:
        """As with pulumi:disable-default-providers: what concerns a cloud names a provider of ours, of that cloud."""
        cloud = token.partition(":")[0]
        own = self.graph.resources.get(provider.rpartition("::")[0])
        if cloud in ("aws", "kubernetes") and not (own and own.type == f"pulumi:providers:{cloud}"):
            self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"{token} has no provider of ours")

    def GetDeploymentInfo(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask SupportsFeature")

    def SupportsFeature(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        # Not outputValues: inputs then arrive as plain values, with their dependencies beside them.
        return resource_pb2.SupportsFeatureResponse(hasSupport=request.id != "outputValues")

    def RegisterPackage(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        return resource_pb2.RegisterPackageResponse(ref=request.name)

    def RegisterResourceHook(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        self.hooks[request.name] = request.callback
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.tok not in self.answers:
            self.refuse(context, grpc.StatusCode.NOT_FOUND, f"no test answers {request.tok}")
        self.must_have_provider(request.tok, request.provider, context)
        self.graph.invokes.append((request.tok, plain(json_format.MessageToDict(request.args))))
        return resource_pb2.ResourceInvokeResponse(**{"return": _struct(self.answers[request.tok])})

    ResourceInvoke = Invoke

    def ReadResource(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if request.name not in self.answers:
            self.refuse(context, grpc.StatusCode.NOT_FOUND, f"no test knows {request.type} {request.name}")
        values = {"name": request.name, "outputs": self.answers[request.name], "secretOutputNames": []}
        return resource_pb2.ReadResourceResponse(urn=f"read::{request.name}", properties=_struct(values))

    def RegisterResource(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        kinds = request.parent.split("::")[2] + "$" if request.parent and "pulumi:Stack" not in request.parent else ""
        urn = f"urn:pulumi:stack::project::{kinds}{request.type}::{request.name}"
        inputs = plain(json_format.MessageToDict(request.object))
        with self.lock:
            if urn in self.graph.resources:
                self.refuse(context, grpc.StatusCode.ALREADY_EXISTS, f"two resources are {urn}")
            named = {request.parent, *request.dependencies} - {""}
            named |= {need for needs in request.propertyDependencies.values() for need in needs.urns}
            if strangers := {name for name in named if name not in self.graph.resources and "read::" not in name}:
                self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"{urn} leans on {strangers}, nobody's")
            if request.custom:
                self.must_have_provider(request.type, request.provider, context)
            self.graph.resources[urn] = Resource(
                urn=urn,
                type=request.type,
                name=request.name,
                parent=request.parent,
                custom=request.custom,
                inputs=inputs,
                dependencies=frozenset(request.dependencies),
                provider=request.provider,
                protect=request.protect,
                ignore_changes=tuple(request.ignoreChanges),
                after_create=tuple(request.hooks.after_create),
            )
        made = struct_pb2.Struct()
        made.CopyFrom(request.object)
        known = self.known(request.type, request.name, inputs) if request.custom else {}
        made.update(dict.fromkeys(known, UNKNOWN) if self.preview else dict(known))
        number = f"{request.name}-id" if request.custom and not self.preview else ""
        response = resource_pb2.RegisterResourceResponse(urn=urn, id=number, object=made)
        if not self.preview and self.run_hooks:
            for hook in request.hooks.after_create:
                self._call(hook, urn, number, request, context)
        return response

    def _call(self, hook: str, urn: str, number: str, request: Any, context: grpc.ServicerContext) -> None:
        callback = self.hooks[hook]
        asked = resource_pb2.ResourceHookRequest(urn=urn, id=number, name=request.name, type=request.type)
        message = callback_pb2.CallbackInvokeRequest(token=callback.token, request=asked.SerializeToString())
        with grpc.insecure_channel(callback.target) as channel:
            answer = callback_pb2_grpc.CallbacksStub(channel).Invoke(message)
        result = resource_pb2.ResourceHookResponse.FromString(answer.response)
        if result.error:
            self.refuse(context, grpc.StatusCode.ABORTED, f"hook {hook}: {result.error}")

    def RegisterResourceOutputs(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        if "pulumi:Stack" in request.urn:
            self.graph.outputs |= plain(json_format.MessageToDict(request.outputs))
        return empty_pb2.Empty()

    def SignalAndWaitForShutdown(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        return empty_pb2.Empty()


class Engine(engine_pb2_grpc.EngineServicer):
    """Takes the program's log, and says which resource is the root."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.root = ""

    def Log(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        if request.severity >= engine_pb2.WARNING:
            self.graph.messages.append(request.message)
        return empty_pb2.Empty()

    def GetRootResource(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        return engine_pb2.GetRootResourceResponse(urn=self.root)

    def SetRootResource(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        self.root = request.urn
        return engine_pb2.SetRootResourceResponse()


@contextmanager
def served(monitor: Monitor) -> Iterator[str]:
    """Both services on a loopback port."""
    server = grpc.server(futures.ThreadPoolExecutor(32))
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, server)
    engine_pb2_grpc.add_EngineServicer_to_server(Engine(monitor.graph), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


def run(
    stack: str,
    config: Mapping[str, Any],
    *,
    preview: bool,
    outputs: Outputs,
    answers: Mapping[str, Any],
    project: str = "sentiment",
    program: Path = ROOT / "infra",
    env: Mapping[str, str] | None = None,
    run_hooks: bool = False,
) -> Graph:
    """Run a program against a fresh engine. `config`: sections of settings, as a stack's file has them."""
    monitor = Monitor(preview=preview, outputs=outputs, answers=answers, run_hooks=run_hooks)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    with served(monitor) as address:
        done = subprocess.run(
            [sys.executable, LAUNCHER, address, project, stack, "preview" if preview else "up", program],
            env={**os.environ, **(env or {}), "PULUMI_CONFIG": json.dumps(texts)},
            cwd=program,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    monitor.graph.exit_code = done.returncode
    monitor.graph.messages += [done.stderr] if done.returncode else []
    return monitor.graph
