"""The AWS half of a stack, as a picture: what workloads stand on. Knows nothing of workloads."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from infra.cloud.budget import Budget, BudgetArgs
from infra.cloud.cluster import Cluster, ClusterArgs
from infra.cloud.environment import Environment
from infra.cloud.identity import Identity, IdentityArgs
from infra.cloud.images import Images, ImagesArgs
from infra.cloud.network import Network, NetworkArgs
from infra.cloud.storage import Storage, StorageArgs
from infra.settings import Aws, StackSettings


@dataclass(frozen=True, kw_only=True)
class Ground:
    """`storage`: of the MLflow server, in the stack that runs it."""

    cluster: kubernetes.Provider
    storage: Storage | None


def lay(settings: StackSettings, where: Aws) -> Ground:
    """Everything of a stack that AWS runs. The README lists its outputs."""
    tracking = settings.tracking
    env = Environment.of(settings, where)
    provider = aws.Provider(
        "aws",
        region=env.region,
        allowed_account_ids=[env.account],  # whoever is logged in elsewhere changes nothing there
        default_tags=aws.ProviderDefaultTagsArgs(tags={"project": env.project, "stack": env.stack}),
    )
    inside = pulumi.ResourceOptions(providers=[provider])

    network = Network("network", NetworkArgs(environment=env, settings=settings.network), inside)
    cluster = Cluster(
        "cluster",
        ClusterArgs(
            environment=env,
            inside=settings.network.cidr,
            after=network.ready,
            subnet_ids=network.private_subnet_ids,
            admins=list(dict.fromkeys([where.admin_role, *([env.platform_role] if settings.github else [])])),
            settings=settings.cluster,
        ),
        inside,
    )
    storage = None
    if tracking.enabled:
        images = Images("images", ImagesArgs(environment=env), inside)
        storage = Storage(
            "storage",
            StorageArgs(
                environment=env,
                vpc_id=network.vpc_id,
                subnet_ids=network.private_subnet_ids,
                client_security_group_id=cluster.security_group_id,
                cluster_name=cluster.name,
                settings=tracking,
            ),
            inside,
        )
        pulumi.export("artifacts", storage.bucket)
        pulumi.export("image_repository", images.repository)
    else:
        registry = pulumi.StackReference(f"organization/{env.project}/{env.registry}")
        pulumi.export("image_repository", registry.require_output("image_repository"))
    if settings.github:
        identity = Identity(
            "identity",
            IdentityArgs(environment=env, github=settings.github, cluster_name=cluster.name),
            inside,
        )
        pulumi.export("roles", identity.roles)
    if settings.budget:
        Budget("budget", BudgetArgs(environment=env, settings=settings.budget), inside)
    pulumi.export("cluster", cluster.name)
    pulumi.export("region", env.region)
    return Ground(cluster=cluster.provider, storage=storage)
