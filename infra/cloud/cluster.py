"""The EKS cluster, in Auto Mode: AWS runs nodes, load balancers, volumes, pod identity. Knows nothing of workloads."""

import asyncio
import base64
import json
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from infra.cloud.environment import Environment
from infra.cloud.roles import Role, RoleArgs, service_trust
from infra.facts import SERVICES_CIDR
from infra.settings import Cluster as Settings

PROPAGATION_S = 300  # an access entry reaches the API server within a minute as a rule; DNS may take longer


@dataclass(frozen=True, kw_only=True)
class ClusterArgs:
    """`admins`: ARNs of the roles that may do everything in the cluster. Nobody else may, its creator included.

    `after`: what nodes need when they start. `inside`: the network's addresses.
    """

    environment: Environment
    inside: str
    after: Sequence[pulumi.Resource]
    subnet_ids: Sequence[pulumi.Output[str]]
    admins: Sequence[str]
    settings: Settings


class Cluster(pulumi.ComponentResource):
    """`provider` reaches the API server, and is known once the admins' access works."""

    name: pulumi.Output[str]
    security_group_id: pulumi.Output[str]
    provider: kubernetes.Provider

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Cluster", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        env, settings = args.environment, args.settings
        role = Role(
            "cluster",
            RoleArgs(
                environment=env,
                trust=service_trust("eks.amazonaws.com", tags_sessions=True),
                managed=[
                    "AmazonEKSClusterPolicy",
                    "AmazonEKSComputePolicy",
                    "AmazonEKSBlockStoragePolicy",
                    "AmazonEKSLoadBalancingPolicy",
                    "AmazonEKSNetworkingPolicy",
                ],
            ),
            child,
        )
        node_role = Role(
            "node",
            RoleArgs(
                environment=env,
                trust=service_trust("ec2.amazonaws.com"),
                managed=["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"],
            ),
            child,
        )
        logs = aws.cloudwatch.LogGroup(
            "control-plane",  # first: EKS would make one that keeps everything for ever and outlives `pulumi destroy`
            name=f"/aws/eks/{env.name}/cluster",
            retention_in_days=settings.log_days,
            opts=child,
        )
        key = (
            aws.kms.Key(
                "secrets",
                description=f"Kubernetes Secrets of {env.name}",
                enable_key_rotation=True,
                deletion_window_in_days=30,
                opts=pulumi.ResourceOptions(parent=self, protect=env.protect),
            )
            if settings.secrets_key
            else None
        )
        public = settings.endpoint == "public"
        cluster = aws.eks.Cluster(
            "cluster",
            name=env.name,
            version=settings.version,
            role_arn=role.arn,
            bootstrap_self_managed_addons=False,
            access_config=aws.eks.ClusterAccessConfigArgs(
                authentication_mode="API", bootstrap_cluster_creator_admin_permissions=False
            ),
            # Auto Mode is these three switches together; EKS refuses any two of them.
            compute_config=aws.eks.ClusterComputeConfigArgs(
                enabled=True,
                node_pools=["general-purpose", *(["system"] if settings.system_pool else [])],
                node_role_arn=node_role.arn,
            ),
            kubernetes_network_config=aws.eks.ClusterKubernetesNetworkConfigArgs(
                elastic_load_balancing=aws.eks.ClusterKubernetesNetworkConfigElasticLoadBalancingArgs(enabled=True),
                service_ipv4_cidr=SERVICES_CIDR,
            ),
            storage_config=aws.eks.ClusterStorageConfigArgs(
                block_storage=aws.eks.ClusterStorageConfigBlockStorageArgs(enabled=True)
            ),
            vpc_config=aws.eks.ClusterVpcConfigArgs(
                subnet_ids=list(args.subnet_ids),
                endpoint_private_access=True,
                endpoint_public_access=public,
                public_access_cidrs=list(settings.public_cidrs) if public else None,
            ),
            encryption_config=aws.eks.ClusterEncryptionConfigArgs(
                provider=aws.eks.ClusterEncryptionConfigProviderArgs(key_arn=key.arn), resources=["secrets"]
            )
            if key
            else None,
            enabled_cluster_log_types=["api", "audit", "authenticator"],
            upgrade_policy=aws.eks.ClusterUpgradePolicyArgs(support_type="STANDARD"),  # never six times the price
            deletion_protection=env.protect,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[logs, *role.granted, *node_role.granted, *args.after],
                protect=env.protect,
            ),
        )
        access = self._admit(args, cluster)
        if not public:
            aws.vpc.SecurityGroupIngressRule(
                "api-from-inside",
                description="runners and people in the network",
                security_group_id=_security_group(cluster),
                cidr_ipv4=args.inside,
                ip_protocol="tcp",
                from_port=443,
                to_port=443,
                opts=child,
            )
        aws.eks.Addon(
            "metrics-server",  # pod autoscaling reads it; a cluster made through the API has none
            cluster_name=cluster.name,
            addon_name="metrics-server",
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="OVERWRITE",
            opts=child,
        )
        self.name = cluster.name
        self.security_group_id = _security_group(cluster)
        self.provider = kubernetes.Provider(
            "cluster",
            kubeconfig=kubeconfig(cluster, env.region),
            cluster_identifier=cluster.endpoint,  # without it an unknown kubeconfig would replace everything inside
            enable_server_side_apply=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[cluster, *access]),
        )
        self.register_outputs({})

    def _admit(self, args: ClusterArgs, cluster: aws.eks.Cluster) -> list[pulumi.Resource]:
        """Let the admins in, one after the other, and wait after the last: whoever runs this may be any of them."""
        env = args.environment

        async def wait(_: pulumi.ResourceHookArgs) -> None:
            await asyncio.to_thread(wait_for_api, env.name, env.region)  # the program goes on registering

        hook = pulumi.ResourceHook("wait-for-cluster", wait)
        access: list[pulumi.Resource] = []
        for i, principal in enumerate(args.admins):
            entry = aws.eks.AccessEntry(
                f"admin-{i}",
                cluster_name=cluster.name,
                principal_arn=principal,
                opts=pulumi.ResourceOptions(parent=self),
            )
            last = i == len(args.admins) - 1
            association = aws.eks.AccessPolicyAssociation(
                f"admin-{i}",
                cluster_name=cluster.name,
                principal_arn=entry.principal_arn,
                policy_arn=f"arn:{env.partition}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy",
                access_scope=aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster"),
                opts=pulumi.ResourceOptions(
                    parent=self,
                    depends_on=list(access),
                    hooks=pulumi.ResourceHookBinding(after_create=[hook] if last else []),
                ),
            )
            access.append(association)
        return access


def _security_group(cluster: aws.eks.Cluster) -> pulumi.Output[str]:
    """The group that EKS makes, of API server and nodes alike."""
    return cluster.vpc_config.apply(lambda config: str(config.cluster_security_group_id))


def kubeconfig(cluster: aws.eks.Cluster, region: str) -> pulumi.Output[str]:
    """How to reach the cluster: no secret in it, each use asks the AWS command line for a token of its own."""
    token = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "aws",
        "args": ["eks", "get-token", "--cluster-name", cluster.name, "--region", region, "--output", "json"],
        "interactiveMode": "Never",
    }
    server = {"server": cluster.endpoint, "certificate-authority-data": cluster.certificate_authority.data}
    return pulumi.Output.json_dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "eks",
            "clusters": [{"name": "eks", "cluster": server}],
            "contexts": [{"name": "eks", "context": {"cluster": "eks", "user": "eks"}}],
            "users": [{"name": "eks", "user": {"exec": token}}],
        }
    )


def wait_for_api(name: str, region: str, timeout_s: float = PROPAGATION_S) -> None:
    """Wait until the API server lets us do what only an admin may. Raises pulumi.RunError when it does not.

    Access and DNS lag behind the calls that made them, and Pulumi's Kubernetes provider remembers "unreachable" for the
    rest of the run. A caller who is not one of the admins waits in vain: the error says so.
    """
    cluster: dict[str, Any] = _aws("eks", "describe-cluster", "--name", name, "--region", region)["cluster"]
    certificate = base64.b64decode(cluster["certificateAuthority"]["data"]).decode()
    context = ssl.create_default_context(cadata=certificate)
    url = f"{cluster['endpoint']}/apis/rbac.authorization.k8s.io/v1/clusterroles?limit=1"
    deadline = time.monotonic() + timeout_s
    while True:
        token = _aws("eks", "get-token", "--cluster-name", name, "--region", region)["status"]["token"]
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})  # noqa: S310 - from AWS
        try:
            with urllib.request.urlopen(request, timeout=10, context=context):  # noqa: S310
                return
        except OSError as error:  # refused, unknown name, 401, 403: all may pass
            if time.monotonic() > deadline:
                raise pulumi.RunError(
                    f"{cluster['endpoint']} did not let us in within {timeout_s:.0f} s ({error}): `pulumi up` runs as "
                    "aws.admin_role (see `aws sts get-caller-identity`), from a network that cluster.public_cidrs lists"
                ) from error
        time.sleep(min(5, timeout_s / 10))


def _aws(*words: str) -> Any:
    done = subprocess.run(["aws", *words, "--output", "json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise pulumi.RunError(f"`aws {' '.join(words)}` failed: {done.stderr.strip()}")
    return json.loads(done.stdout)
