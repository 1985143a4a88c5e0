"""The MLflow server's users. Never the admin's password for a job: who trains or releases makes no users."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_kubernetes.batch import v1 as batch
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.meta import v1 as meta

from infra.workloads.names import TRACKING_USERS
from infra.workloads.pods import TMP, container_security, pod_security, resources, secret_env

LABELS = {"app.kubernetes.io/name": "tracking-users"}
# Makes the users, or gives them the password that the stack has; harmless when run again.
MAKE_USERS = """
import json, os
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
for name, password in json.loads(os.environ["USERS"]).items():
    try:
        client.create_user(name, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_user_password(name, password)
    print(name, "is there")
"""


@dataclass(frozen=True, kw_only=True)
class UsersArgs:
    """`server`: its address inside the cluster."""

    namespace: pulumi.Input[str]
    image: str
    server: str
    admin_password: pulumi.Input[str]
    after: Sequence[pulumi.Resource]


class Users(pulumi.ComponentResource):
    """A secret for each, `tracking-NAME` with username and password, so that a role can be let into one of them."""

    def __init__(self, name: str, args: UsersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:workloads:Users", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)

        def secret(of: str, data: dict[str, pulumi.Input[str]]) -> pulumi.Output[str]:
            metadata = meta.ObjectMetaArgs(name=f"tracking-{of}", namespace=args.namespace, labels=LABELS)
            return core.Secret(f"tracking-{of}", metadata=metadata, string_data=data, opts=child).metadata.name.apply(
                str
            )

        passwords = {
            user: random.RandomPassword(user, length=32, special=False, opts=child).result for user in TRACKING_USERS
        }
        for user, password in passwords.items():
            secret(user, {"username": user, "password": password})
        everybody = secret("users", {"admin": args.admin_password, "users": pulumi.Output.json_dumps(passwords)})
        plain = {"MLFLOW_TRACKING_URI": args.server, "MLFLOW_TRACKING_USERNAME": "admin", "HOME": TMP}
        container = core.ContainerArgs(
            name="users",
            image=args.image,
            command=["python", "-c", MAKE_USERS],
            env=[
                *[core.EnvVarArgs(name=key, value=value) for key, value in plain.items()],
                secret_env("MLFLOW_TRACKING_PASSWORD", everybody, "admin"),
                secret_env("USERS", everybody, "users"),
            ],
            resources=resources("100m", "512Mi"),
            security_context=container_security(),
            volume_mounts=[core.VolumeMountArgs(name="tmp", mount_path=TMP)],
        )
        batch.Job(
            "users",
            metadata=meta.ObjectMetaArgs(namespace=args.namespace, labels=LABELS),
            spec=batch.JobSpecArgs(
                backoff_limit=6,
                template=core.PodTemplateSpecArgs(
                    metadata=meta.ObjectMetaArgs(labels=LABELS),
                    spec=core.PodSpecArgs(
                        restart_policy="Never",
                        automount_service_account_token=False,
                        enable_service_links=False,
                        security_context=pod_security(1000),
                        containers=[container],
                        volumes=[core.VolumeArgs(name="tmp", empty_dir=core.EmptyDirVolumeSourceArgs())],
                    ),
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.register_outputs({})
