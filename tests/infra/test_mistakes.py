"""The mistakes that break a first `pulumi up` or `pulumi destroy`, in the order in which they would strike.

Serving, MLflow's server and the load balancer have theirs beside their own tests.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import ACCOUNT, ROOT, config_of
from monitor import UNKNOWN, Graph, Resource

from infra.settings import SettingsError, load
from service.containers import PLATFORM

CLOUDY = ["dev", "staging", "prod"]

Built = Callable[..., Graph]


def cluster_of(graph: Graph) -> dict[str, Any]:
    return graph.one("eks/cluster:Cluster").inputs


def before(graph: Graph, first: Resource, then: Resource) -> bool:
    return first.urn in graph.behind(then)


def test_absolute_imports_work_where_infra_is_first_on_the_path():
    """Mistake 1. Pulumi runs infra/__main__.py with infra/ on the path, not the repository."""
    code = "import sys; sys.path[0] = 'infra'; import infra.stack; print(infra.stack.__file__)"

    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert found.strip() == str(ROOT / "infra/stack.py")


@pytest.mark.parametrize("stack", CLOUDY)
def test_subjects_have_the_numbers_that_github_puts_into_them(stack: str, built: Built):
    """Mistake 2: the form without numbers, which repositories made since July 2026 no longer send."""
    trust = built(stack).one("iam/role:Role", "release").inputs["assumeRolePolicy"]

    assert f"repo:acme@41/reviews@42:environment:{stack}-release" in trust
    assert "repo:acme/reviews:" not in trust


@pytest.mark.parametrize("stack", CLOUDY)
def test_access_is_by_entries_alone_and_each_principal_has_one(stack: str, built: Built):
    """Mistake 3: the creator's own admin permission beside an access entry for the same role."""
    graph = built(stack)
    principals = [entry.inputs["principalArn"] for entry in graph.all("AccessEntry")]

    assert cluster_of(graph)["accessConfig"] == {
        "authenticationMode": "API",
        "bootstrapClusterCreatorAdminPermissions": False,
    }
    assert len(principals) == len(set(principals))


def test_the_platform_role_as_admin_role_is_one_principal(build: Built):
    """Mistake 3 again, by way of the settings."""
    platform = f"arn:aws:iam::{ACCOUNT}:role/platform-sentiment-dev"

    graph = build("dev", aws={"admin_role": platform})

    assert [e.inputs["principalArn"] for e in graph.all("AccessEntry") if e.name.startswith("admin")] == [platform]


def test_a_session_is_no_principal():
    """Mistake 4."""
    config = {key: json.dumps(value) for key, value in config_of("dev").items()}
    aws = {"region": "eu-west-1", "admin_role": f"arn:aws:sts::{ACCOUNT}:assumed-role/admin/me"}

    with pytest.raises(SettingsError, match=r"aws.admin_role is .*the ARN of the IAM role"):
        load("sentiment", "dev", {**config, "sentiment:aws": json.dumps(aws)})


@pytest.mark.parametrize("stack", CLOUDY)
def test_the_wait_for_access_comes_after_every_admin_has_it(stack: str, built: Built):
    """Mistake 5: a provider configured before access has propagated. See test_cluster.py for the wait itself."""
    graph = built(stack)
    hooks = {a.name: a.after_create for a in graph.all("AccessPolicyAssociation")}

    assert hooks == {"admin-0": (), "admin-1": ("wait-for-cluster",)}
    assert before(graph, *[graph.one("AccessPolicyAssociation", f"admin-{i}") for i in (0, 1)])


@pytest.mark.parametrize("stack", CLOUDY)
def test_the_provider_leans_on_the_access_that_it_needs(stack: str, built: Built):
    """Mistake 6: a destroy would take the access away first, and then stand before a closed door."""
    graph = built(stack)
    provider = graph.one("pulumi:providers:kubernetes")

    assert all(before(graph, association, provider) for association in graph.all("AccessPolicyAssociation"))
    assert before(graph, graph.one("eks/cluster:Cluster"), provider)


def test_an_unknown_kubeconfig_replaces_nothing(built: Built):
    """Mistake 6, its other half: a provider without an identifier takes every new kubeconfig for a new cluster."""
    provider = built("dev", preview=True).one("pulumi:providers:kubernetes").inputs

    assert provider["clusterIdentifier"] == UNKNOWN
    assert built("dev").one("pulumi:providers:kubernetes").inputs["clusterIdentifier"] == "https://cluster.example"


def test_the_kubeconfig_holds_no_token(built: Built):
    provider = built("dev").one("pulumi:providers:kubernetes").inputs
    (user,) = json.loads(provider["kubeconfig"])["users"]

    assert user["user"].keys() == {"exec"}
    assert user["user"]["exec"]["args"][:2] == ["eks", "get-token"]


@pytest.mark.parametrize(("role", "service"), [("cluster", "eks"), ("tracking", "pods.eks")])
def test_eks_may_tag_the_sessions_that_it_opens(role: str, service: str, built: Built):
    """Mistake 7."""
    (statement,) = json.loads(built("dev").one("iam/role:Role", role).inputs["assumeRolePolicy"])["Statement"]

    assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}
    assert statement["Action"] == ["sts:AssumeRole", "sts:TagSession"]


@pytest.mark.parametrize("stack", CLOUDY)
def test_auto_mode_is_all_three_switches(stack: str, built: Built):
    """Mistake 8, and what Auto Mode replaces is not installed beside it."""
    cluster = cluster_of(built(stack))

    assert cluster["computeConfig"]["enabled"] is True
    assert cluster["kubernetesNetworkConfig"]["elasticLoadBalancing"] == {"enabled": True}
    assert cluster["storageConfig"] == {"blockStorage": {"enabled": True}}
    assert cluster["bootstrapSelfManagedAddons"] is False


@pytest.mark.parametrize("stack", CLOUDY)
def test_an_add_on_has_nodes_to_run_on(stack: str, built: Built):
    """Mistake 9: it would hang for twenty minutes. No setting leaves the list of pools empty."""
    graph = built(stack)

    assert cluster_of(graph)["computeConfig"]["nodePools"]
    assert before(graph, graph.one("eks/cluster:Cluster"), graph.one("eks/addon:Addon"))


@pytest.mark.parametrize("stack", CLOUDY)
def test_nodes_live_in_private_subnets_alone_and_these_lead_out_first(stack: str, built: Built):
    """Mistake 10."""
    graph = built(stack)
    private = {f"{subnet.name}-id" for subnet in graph.all("ec2/subnet:Subnet") if subnet.name.startswith("private")}

    assert set(cluster_of(graph)["vpcConfig"]["subnetIds"]) == private
    assert all(
        before(graph, r, graph.one("eks/cluster:Cluster")) for r in graph.all("ec2/route:Route") if "private" in r.name
    )


@pytest.mark.parametrize("stack", CLOUDY)
def test_load_balancers_find_their_subnets_by_tag(stack: str, built: Built):
    """Mistake 11."""
    for subnet in built(stack).all("ec2/subnet:Subnet"):
        role = "elb" if subnet.name.startswith("public") else "internal-elb"

        assert subnet.inputs["tags"][f"kubernetes.io/role/{role}"] == "1"


def test_zones_without_control_planes_are_not_even_offered(built: Built):
    """Mistake 12. By id: the same name is another zone in another account. Local and wavelength zones neither."""
    ((_, asked),) = built("dev").invokes

    assert set(asked["excludeZoneIds"]) == {"use1-az3", "usw1-az2", "cac1-az3"}
    assert asked["filters"] == [{"name": "opt-in-status", "values": ["opt-in-not-required"]}]


def test_a_zone_that_opens_later_moves_no_subnet(built: Built):
    graph = built("dev")

    assert {subnet.ignore_changes for subnet in graph.all("ec2/subnet:Subnet")} == {("availabilityZone",)}


@pytest.mark.parametrize("stack", CLOUDY)
def test_the_log_group_is_there_before_the_cluster_writes_to_it(stack: str, built: Built):
    """Mistake 13."""
    graph = built(stack)
    logs = graph.one("LogGroup")

    assert logs.inputs["name"] == f"/aws/eks/sentiment-{stack}/cluster"
    assert before(graph, logs, graph.one("eks/cluster:Cluster"))


def test_an_unquoted_version_is_refused():
    """Mistake 14: YAML reads 1.30 as 1.3."""
    config = {key: json.dumps(value) for key, value in config_of("dev", cluster={"version": 1.30}).items()}

    with pytest.raises(SettingsError, match=r"cluster.version is 1.3, a number: it has to be in quotes"):
        load("sentiment", "dev", config)


def test_no_setting_says_which_version_serves():
    """Mistakes 15 and 16: a version given with `-c` is reverted by the next `up`, and none exists at the first."""
    config = {key: json.dumps(value) for key, value in config_of("dev").items()}

    with pytest.raises(SettingsError, match="version is no setting"):
        load("sentiment", "dev", {**config, "sentiment:version": "7"})


def test_images_are_for_the_processors_of_the_nodes():
    """Mistake 17: an image from an arm64 laptop does not start."""
    assert PLATFORM == "linux/amd64"


def test_pods_can_wait_for_their_identity(built: Built):
    """Mistake 20. The association is made after the role's rights, and storage hands it on to whoever starts pods."""
    graph = built("dev")
    identity = graph.one("PodIdentityAssociation")

    assert before(graph, graph.one("RolePolicy", "tracking"), identity)
    assert (identity.inputs["namespace"], identity.inputs["serviceAccount"]) == ("tracking", "tracking")


def test_a_last_snapshot_has_a_name_that_no_earlier_one_took(built: Built):
    """Mistake 23. The random part lives as long as the stack, and the next stack draws another."""
    graph = built("dev")
    database = graph.one("rds/instance:Instance")

    assert database.inputs["finalSnapshotIdentifier"] == "sentiment-dev-final-0badcafe"
    assert before(graph, graph.one("RandomId"), database)


@pytest.mark.parametrize("protect", [True, False])
def test_one_setting_opens_and_closes_everything_that_a_destroy_stumbles_over(*, protect: bool, build: Built):
    """Mistakes 24 and 25: `protect: false`, one `up`, and nothing stands in the way."""
    graph = build("dev", protect=protect, github={"preview": False})
    opens = [
        not graph.one("ecr/repository:Repository").inputs["forceDelete"],
        not graph.one("s3/bucket:Bucket").inputs["forceDestroy"],
        graph.one("rds/instance:Instance").inputs["deletionProtection"],
        cluster_of(graph)["deletionProtection"],
        any(resource.protect for resource in graph.resources.values()),
    ]

    assert opens == [protect] * 5
