"""A Postgres in the cluster, for the stack without AWS. One replica, one volume: for trying out, not for keeping."""

from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_kubernetes.apps import v1 as apps
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta

from infra.workloads.pods import TMP, container_security, pod_security, resources, secret_env

IMAGE = "docker.io/library/postgres:17-alpine"
USER = 70  # postgres, in the alpine image
LABELS = {"app.kubernetes.io/name": "postgres"}


@dataclass(frozen=True, kw_only=True)
class PostgresArgs:
    namespace: pulumi.Input[str]
    storage_gib: int


class Postgres(pulumi.ComponentResource):
    """`host` answers on 5432 to the user and for the database `mlflow`."""

    host: pulumi.Output[str]
    password: pulumi.Output[str]
    ready: pulumi.Resource

    def __init__(self, name: str, args: PostgresArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:workloads:Postgres", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        metadata = meta.ObjectMetaArgs(name=name, namespace=args.namespace, labels=LABELS)
        self.password = random.RandomPassword(name, length=32, special=False, opts=child).result
        secret = core.Secret(name, metadata=metadata, string_data={"password": self.password}, opts=child)
        service = core.Service(
            name,
            metadata=metadata,
            spec=core.ServiceSpecArgs(
                cluster_ip="None", selector=LABELS, ports=[core.ServicePortArgs(name="postgres", port=5432)]
            ),
            opts=child,
        )
        ready = core.ProbeArgs(
            exec_=core.ExecActionArgs(command=["pg_isready", "--username", "mlflow"]), period_seconds=5
        )
        container = core.ContainerArgs(
            name="postgres",
            image=IMAGE,
            env=[
                core.EnvVarArgs(name="POSTGRES_USER", value="mlflow"),
                core.EnvVarArgs(name="PGDATA", value="/data/pgdata"),
                secret_env("POSTGRES_PASSWORD", secret.metadata.name.apply(str), "password"),
            ],
            ports=[core.ContainerPortArgs(name="postgres", container_port=5432)],
            readiness_probe=ready,
            liveness_probe=ready,
            resources=resources("100m", "256Mi"),
            security_context=container_security(),
            volume_mounts=[
                core.VolumeMountArgs(name="data", mount_path="/data"),
                core.VolumeMountArgs(name="run", mount_path="/var/run/postgresql"),
                core.VolumeMountArgs(name="tmp", mount_path=TMP),
            ],
        )
        claim = core.PersistentVolumeClaimArgs(
            metadata=meta.ObjectMetaArgs(name="data"),
            spec=core.PersistentVolumeClaimSpecArgs(
                access_modes=["ReadWriteOnce"],
                resources=core.VolumeResourceRequirementsArgs(requests={"storage": f"{args.storage_gib}Gi"}),
            ),
        )
        self.ready = apps.StatefulSet(
            name,
            metadata=metadata,
            spec=apps.StatefulSetSpecArgs(
                service_name=service.metadata.name.apply(str),
                replicas=1,
                selector=meta.LabelSelectorArgs(match_labels=LABELS),
                template=core.PodTemplateSpecArgs(
                    metadata=meta.ObjectMetaArgs(labels=LABELS),
                    spec=core.PodSpecArgs(
                        automount_service_account_token=False,
                        security_context=pod_security(USER),
                        containers=[container],
                        volumes=[
                            core.VolumeArgs(name="run", empty_dir=core.EmptyDirVolumeSourceArgs()),
                            core.VolumeArgs(name="tmp", empty_dir=core.EmptyDirVolumeSourceArgs()),
                        ],
                    ),
                ),
                volume_claim_templates=[claim],
            ),
            opts=child,
        )
        self.host = service.metadata.name.apply(str)
        self.register_outputs({})
