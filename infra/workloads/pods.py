"""What every pod of ours has in common: nobody's root, nothing to write on, no more rights than it needs."""

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi_kubernetes.core import v1 as core
from pulumi_kubernetes.networking import v1 as networking

DNS_PORT = 53
TMP = "/tmp"  # noqa: S108 - in a container: a volume of its own, since the root is read-only


def namespace(name: str, opts: pulumi.ResourceOptions) -> core.Namespace:
    """A namespace that admits only pods which keep to the standard `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "kubernetes.io/metadata.name": name}
    return core.Namespace(name, metadata={"name": name, "labels": labels}, opts=opts)


def pod_security(user: int) -> core.PodSecurityContextArgs:
    return core.PodSecurityContextArgs(
        run_as_non_root=True,
        run_as_user=user,
        run_as_group=user,
        fs_group=user,
        seccomp_profile=core.SeccompProfileArgs(type="RuntimeDefault"),
    )


def container_security() -> core.SecurityContextArgs:
    return core.SecurityContextArgs(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=core.CapabilitiesArgs(drop=["ALL"]),
    )


def resources(cpu: str, memory: str) -> core.ResourceRequirementsArgs:
    """Memory is given whole and no more; processor time is a share of what is there."""
    return core.ResourceRequirementsArgs(requests={"cpu": cpu, "memory": memory}, limits={"memory": memory})


def secret_env(name: str, secret: pulumi.Input[str], key: str) -> core.EnvVarArgs:
    source = core.SecretKeySelectorArgs(name=secret, key=key)
    return core.EnvVarArgs(name=name, value_from=core.EnvVarSourceArgs(secret_key_ref=source))


def to_dns(services_cidr: str | None) -> networking.NetworkPolicyEgressRuleArgs:
    """The way to name resolution. On EKS Auto Mode it runs on the node, behind the services' .10 address; elsewhere in
    pods of kube-system."""
    peer = networking.NetworkPolicyPeerArgs(
        namespace_selector=kubernetes.meta.v1.LabelSelectorArgs(
            match_labels={"kubernetes.io/metadata.name": "kube-system"}
        )
    )
    if services_cidr:
        block = networking.IPBlockArgs(cidr=services_cidr.replace(".0.0/16", ".0.10/32"))
        peer = networking.NetworkPolicyPeerArgs(ip_block=block)
    return _way(peer, DNS_PORT, "UDP", "TCP")


def to_block(cidr: str, port: int) -> networking.NetworkPolicyEgressRuleArgs:
    return _way(networking.NetworkPolicyPeerArgs(ip_block=networking.IPBlockArgs(cidr=cidr)), port, "TCP")


def to_pods(labels: dict[str, str], port: int) -> networking.NetworkPolicyEgressRuleArgs:
    """Pods of the same namespace."""
    selector = kubernetes.meta.v1.LabelSelectorArgs(match_labels=labels)
    return _way(networking.NetworkPolicyPeerArgs(pod_selector=selector), port, "TCP")


def _way(peer: networking.NetworkPolicyPeerArgs, port: int, *protocols: str) -> networking.NetworkPolicyEgressRuleArgs:
    ports = [networking.NetworkPolicyPortArgs(port=port, protocol=protocol) for protocol in protocols]
    return networking.NetworkPolicyEgressRuleArgs(to=[peer], ports=ports)
