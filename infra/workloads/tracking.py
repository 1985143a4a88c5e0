"""The MLflow server: runs, versions, artifacts, behind a password. Knows nothing of what is trained or served."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_kubernetes.apps import v1 as apps
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta
from pulumi_kubernetes.networking import v1 as networking
from pulumi_kubernetes.policy import v1 as policy

from infra.settings import Tracking as Settings
from infra.workloads.names import TRACKING as NAME
from infra.workloads.names import TRACKING_PORT as PORT
from infra.workloads.pods import (
    TMP,
    container_security,
    namespace,
    pod_security,
    resources,
    secret_env,
    to_dns,
    to_pods,
)
from infra.workloads.postgres import LABELS as POSTGRES
from infra.workloads.postgres import Postgres, PostgresArgs
from infra.workloads.users import LABELS as USERS
from infra.workloads.users import Users, UsersArgs

USER = 1000
LABELS = {"app.kubernetes.io/name": NAME}
STORE = "postgresql+psycopg2://"  # where and as whom: the PG* variables, so that no argument holds a secret
# Its own table of users lies in the same database: a file would differ between replicas, and be lost with the pod.
AUTH = f"""[mlflow]
default_permission = EDIT
database_uri = {STORE}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """What the server keeps its things in. `artifacts`: s3://BUCKET, or a folder, which is then a volume.

    `reaches`: what it may talk to. `after`: what has to be there before a pod starts.
    """

    database_host: pulumi.Input[str]
    database_password: pulumi.Input[str]
    database_tls: bool
    artifacts: pulumi.Input[str]
    volume_gib: int | None = None
    region: str | None = None
    reaches: Sequence[networking.NetworkPolicyEgressRuleArgs]
    after: Sequence[pulumi.Resource]


@dataclass(frozen=True, kw_only=True)
class TrackingArgs:
    """`stores`: of the cloud; without them there is a Postgres of its own, and a volume."""

    settings: Settings
    stores: Stores | None


class Tracking(pulumi.ComponentResource):
    """Reached as http://tracking.tracking:5000 inside the cluster, and by a port-forward from elsewhere."""

    def __init__(self, name: str, args: TrackingArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:workloads:Tracking", name, {}, opts)
        self._child = pulumi.ResourceOptions(parent=self)
        self._home = namespace(NAME, self._child).metadata.name.apply(str)
        self._image = args.settings.image
        self._meta = meta.ObjectMetaArgs(name=NAME, namespace=self._home, labels=LABELS)
        stores = args.stores or self._own_stores(args.settings)
        admin, sessions = [
            random.RandomPassword(of, length=32, special=False, opts=self._child) for of in ("admin", "sessions")
        ]
        secret = core.Secret(
            NAME,
            metadata=self._meta,
            string_data={
                "database": stores.database_password,
                "admin": admin.result,
                "sessions": sessions.result,
            },
            opts=self._child,
        ).metadata.name.apply(str)
        config = core.ConfigMap(NAME, metadata=self._meta, data={"auth.ini": AUTH}, opts=self._child)
        account = core.ServiceAccount(
            NAME, metadata=self._meta, automount_service_account_token=False, opts=self._child
        )
        volumes = [core.VolumeArgs(name="tmp", empty_dir=core.EmptyDirVolumeSourceArgs(size_limit="1Gi"))]
        mounts = [core.VolumeMountArgs(name="tmp", mount_path=TMP)]
        if stores.volume_gib:
            claim = core.PersistentVolumeClaim(
                NAME,
                metadata=meta.ObjectMetaArgs(
                    name=NAME,
                    namespace=self._home,
                    labels=LABELS,
                    # Many clusters bind a volume only once a pod wants it: to wait for that here would be for ever.
                    annotations={"pulumi.com/skipAwait": "true"},
                ),
                spec=core.PersistentVolumeClaimSpecArgs(
                    access_modes=["ReadWriteOnce"],
                    resources=core.VolumeResourceRequirementsArgs(requests={"storage": f"{stores.volume_gib}Gi"}),
                ),
                opts=self._child,
            )
            source = core.PersistentVolumeClaimVolumeSourceArgs(claim_name=claim.metadata.name.apply(str))
            volumes.append(core.VolumeArgs(name="artifacts", persistent_volume_claim=source))
            mounts.append(core.VolumeMountArgs(name="artifacts", mount_path="/artifacts"))
        volumes.append(
            core.VolumeArgs(
                name="config", config_map=core.ConfigMapVolumeSourceArgs(name=config.metadata.name.apply(str))
            )
        )
        mounts.append(core.VolumeMountArgs(name="config", mount_path="/etc/mlflow", read_only=True))
        server = self._server(stores, secret, mounts)
        deployment = apps.Deployment(
            NAME,
            metadata=self._meta,
            spec=apps.DeploymentSpecArgs(
                replicas=args.settings.replicas,
                selector=meta.LabelSelectorArgs(match_labels=LABELS),
                # A volume of one node cannot be in the old pod and the new one at once.
                strategy=apps.DeploymentStrategyArgs(type="Recreate" if stores.volume_gib else "RollingUpdate"),
                template=core.PodTemplateSpecArgs(
                    metadata=meta.ObjectMetaArgs(labels=LABELS),
                    spec=core.PodSpecArgs(
                        service_account_name=account.metadata.name.apply(str),
                        automount_service_account_token=False,
                        enable_service_links=False,  # they would set variables of our names
                        security_context=pod_security(USER),
                        init_containers=[
                            core.ContainerArgs(
                                name="upgrade",
                                image=self._image,
                                command=["mlflow", "db", "upgrade", STORE],
                                env=server.env,
                                resources=server.resources,
                                security_context=container_security(),
                                volume_mounts=mounts,
                            )
                        ],
                        containers=[server],
                        volumes=volumes,
                    ),
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(stores.after)),
        )
        ports = [core.ServicePortArgs(name="http", port=PORT, target_port="http")]
        service = core.Service(
            NAME, metadata=self._meta, spec=core.ServiceSpecArgs(selector=LABELS, ports=ports), opts=self._child
        )
        policy.PodDisruptionBudget(
            NAME,
            metadata=self._meta,
            spec=policy.PodDisruptionBudgetSpecArgs(
                max_unavailable=1, selector=meta.LabelSelectorArgs(match_labels=LABELS)
            ),
            opts=self._child,
        )
        self._policy(stores)
        Users(
            "users",
            UsersArgs(
                namespace=self._home,
                image=self._image,
                server=f"http://{NAME}:{PORT}",
                admin_password=admin.result,
                after=[deployment, service],
            ),
            self._child,
        )
        self.register_outputs({})

    def _own_stores(self, settings: Settings) -> Stores:
        postgres = Postgres(
            "postgres", PostgresArgs(namespace=self._home, storage_gib=settings.database_gib), self._child
        )
        return Stores(
            database_host=postgres.host,
            database_password=postgres.password,
            database_tls=False,
            artifacts="/artifacts",
            volume_gib=settings.database_gib,
            reaches=[to_dns(None), to_pods(POSTGRES, 5432)],
            after=[postgres.ready],
        )

    def _server(
        self, stores: Stores, secret: pulumi.Output[str], mounts: list[core.VolumeMountArgs]
    ) -> core.ContainerArgs:
        # Whoever asks under another name is refused. Pods use the Service's names, a port-forward uses localhost.
        hosts = [
            NAME,
            f"{NAME}.{NAME}",
            f"{NAME}.{NAME}.svc",
            f"{NAME}.{NAME}.svc.cluster.local",
            "localhost",
            "127.0.0.1",
        ]
        plain = {
            "PGHOST": stores.database_host,
            "PGUSER": "mlflow",
            "PGDATABASE": "mlflow",
            "PGSSLMODE": "require" if stores.database_tls else "disable",
            "MLFLOW_AUTH_CONFIG_PATH": "/etc/mlflow/auth.ini",
            "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{host}:*" for host in hosts),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its queue is a file, which replicas do not share
            "HOME": TMP,
            **({"AWS_REGION": stores.region} if stores.region else {}),
        }
        probe = core.HTTPGetActionArgs(
            path="/health", port="http", http_headers=[core.HTTPHeaderArgs(name="Host", value=f"localhost:{PORT}")]
        )
        return core.ContainerArgs(
            name=NAME,
            image=self._image,
            command=["mlflow", "server", "--app-name", "basic-auth", "--host", "0.0.0.0", "--port", str(PORT)],  # noqa: S104
            args=["--workers", "2", "--backend-store-uri", STORE, "--artifacts-destination", stores.artifacts],
            env=[
                *[core.EnvVarArgs(name=name, value=value) for name, value in plain.items()],
                secret_env("PGPASSWORD", secret, "database"),
                secret_env("MLFLOW_AUTH_ADMIN_PASSWORD", secret, "admin"),
                secret_env("MLFLOW_FLASK_SERVER_SECRET_KEY", secret, "sessions"),
            ],
            ports=[core.ContainerPortArgs(name="http", container_port=PORT)],
            startup_probe=core.ProbeArgs(http_get=probe, period_seconds=5, failure_threshold=36),
            readiness_probe=core.ProbeArgs(http_get=probe, period_seconds=5, timeout_seconds=3),
            liveness_probe=core.ProbeArgs(http_get=probe, period_seconds=10, timeout_seconds=5, failure_threshold=6),
            resources=resources("250m", "1536Mi"),
            security_context=container_security(),
            volume_mounts=mounts,
        )

    def _policy(self, stores: Stores) -> None:
        """Nobody in the cluster talks to it but the Job that makes its users; a port-forward comes from the node."""
        peer = networking.NetworkPolicyPeerArgs(pod_selector=meta.LabelSelectorArgs(match_labels=USERS))
        networking.NetworkPolicy(
            NAME,
            metadata=self._meta,
            spec=networking.NetworkPolicySpecArgs(
                pod_selector=meta.LabelSelectorArgs(match_labels=LABELS),
                policy_types=["Ingress", "Egress"],
                ingress=[
                    networking.NetworkPolicyIngressRuleArgs(
                        from_=[peer], ports=[networking.NetworkPolicyPortArgs(port=PORT, protocol="TCP")]
                    )
                ],
                egress=list(stores.reaches),
            ),
            opts=self._child,
        )
