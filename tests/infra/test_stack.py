"""The environments as a whole: what there is, and what holds for all of it."""

import ipaddress
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ACCOUNT, ANSWERS, FILES, ROOT, config_of, outputs_of
from monitor import Graph, Resource, Secret, run

STACKS = list(FILES)
CLOUDY = ["dev", "staging", "prod"]
GRAPHS = Path(__file__).parent / "graphs"

Built = Callable[..., Graph]


def of_aws(graph: Graph) -> list[Resource]:
    return [resource for resource in graph.resources.values() if resource.custom and resource.type.startswith("aws:")]


# What there is


@pytest.mark.parametrize("stack", STACKS)
def test_the_graph_is_the_one_on_record(stack: str, built: Built):
    """Read the difference, and if it is meant: UPDATE_GRAPHS=1 pytest tests/infra/test_stack.py."""
    record = GRAPHS / f"{stack}.txt"
    tree = built(stack).tree()

    if os.environ.get("UPDATE_GRAPHS"):
        record.write_text(tree)

    assert tree == record.read_text()


@pytest.mark.parametrize("stack", STACKS)
def test_a_preview_registers_what_the_update_makes(stack: str, built: Built):
    """Nothing depends on a value that is unknown beforehand: what a person approves is what happens."""
    assert built(stack, preview=True).resources.keys() == built(stack).resources.keys()


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("preview", [True, False])
def test_the_program_runs_as_pulumi_runs_it(stack: str, *, preview: bool, built: Built):
    graph = built(stack, preview)

    assert (graph.exit_code, graph.refused, graph.messages) == (0, [], [])


@pytest.mark.parametrize("stack", STACKS)
def test_a_graph_builds_within_five_seconds_cold(stack: str):
    started = time.monotonic()

    run(stack, config_of(stack), preview=True, outputs=outputs_of, answers=ANSWERS)

    assert time.monotonic() - started < 5


def test_a_stack_without_aws_asks_nothing_of_it(built: Built):
    graph = built("local")

    assert of_aws(graph) == []
    assert graph.one("pulumi:providers:kubernetes").inputs.keys() == {"enableServerSideApply"}, "kubectl's own context"


def test_one_stack_owns_registry_and_images_and_the_others_read_its_outputs(built: Built):
    repository = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/sentiment"
    owners = [stack for stack in CLOUDY if built(stack).all("ecr/repository:Repository")]

    assert owners == ["dev"]
    assert [built(stack).outputs["image_repository"] for stack in CLOUDY] == [repository] * 3


def test_every_output_is_in_the_readme_and_every_one_there_exists(built: Built):
    table = (ROOT / "README.md").read_text().partition("| output |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))

    assert documented == {name for stack in STACKS for name in built(stack).outputs}


def test_a_fault_in_the_settings_is_one_line_of_pulumis_log():
    config = config_of("dev", network={"zonse": 2})

    graph = run("dev", config, preview=True, outputs=outputs_of, answers=ANSWERS)

    (message, _) = graph.messages
    assert message.startswith("network.zonse is no setting: did you mean zones?, in Pulumi.dev.yaml")
    assert "Traceback" not in message
    assert graph.exit_code == 1


def test_a_region_with_too_few_zones_is_told_by_name():
    config = config_of("prod")
    answers = {**ANSWERS, "aws:index/getAvailabilityZones:getAvailabilityZones": {"names": ["us-west-1a"], "id": "x"}}

    graph = run("prod", config, preview=True, outputs=outputs_of, answers=answers)

    assert "network.zones is more than eu-west-1 offers: us-west-1a" in "".join(graph.messages)


# What holds for everything


@pytest.mark.parametrize("stack", STACKS)
def test_every_resource_has_its_component_for_a_parent(stack: str, built: Built):
    """So that `pulumi up --target` reaches a part as a whole, and the tree can be read."""
    graph = built(stack)
    orphans = [r.name for r in graph.resources.values() if r.custom and "pulumi:Stack" in r.parent]

    assert [name for name in orphans if name not in {"aws", "cluster"}] == []


@pytest.mark.parametrize("stack", CLOUDY)
def test_every_resource_is_tagged_and_pinned_to_its_account(stack: str, built: Built):
    graph = built(stack)
    provider = graph.one("pulumi:providers:aws")

    assert {resource.provider.rpartition("::")[0] for resource in of_aws(graph)} == {provider.urn}
    assert json.loads(provider.inputs["defaultTags"]) == {"tags": {"project": "sentiment", "stack": stack}}
    assert json.loads(provider.inputs["allowedAccountIds"]) == [ACCOUNT]


@pytest.mark.parametrize("stack", CLOUDY)
def test_names_carry_the_stack_so_that_environments_share_an_account(stack: str, built: Built):
    keys = ("name", "identifier", "bucket", "roleName")
    names = {
        str(resource.inputs[key])
        for resource in of_aws(built(stack))
        for key in keys
        if resource.type.split("/")[0] != "aws:ecr"
        and key in resource.inputs
        and resource.inputs[key] != "artifacts-id"
    }
    own = re.compile(rf"(/aws/eks/)?sentiment-{stack}(-.*|/cluster)?")

    assert [name for name in names if not own.fullmatch(name) and not name.endswith("-id")] == []


def test_no_bucket_is_public_and_each_is_encrypted_and_versioned(built: Built):
    graph = built("dev")
    for bucket in graph.all("s3/bucket:Bucket"):
        block = graph.one("BucketPublicAccessBlock", bucket.name).inputs
        policy = json.loads(graph.one("BucketPolicy", bucket.name).inputs["policy"])

        assert [block[key] for key in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls")] == [True] * 3
        assert block["restrictPublicBuckets"]
        assert {statement["Effect"] for statement in policy["Statement"]} == {"Deny"}
        assert graph.one("BucketVersioning", bucket.name).inputs["versioningConfiguration"] == {"status": "Enabled"}
        assert graph.one("BucketServerSideEncryptionConfiguration", bucket.name)


def test_the_database_is_encrypted_and_reached_by_the_clusters_pods_alone(built: Built):
    graph = built("dev")
    database = graph.one("rds/instance:Instance").inputs
    rule = graph.one("SecurityGroupIngressRule", "database").inputs

    assert (database["storageEncrypted"], database["publiclyAccessible"]) == (True, False)
    assert (rule["referencedSecurityGroupId"], rule["fromPort"], rule["toPort"]) == ("sg-cluster", 5432, 5432)
    assert database["vpcSecurityGroupIds"] == [rule["securityGroupId"]]


def test_passwords_travel_as_secrets(built: Built):
    graph = built("dev")

    assert isinstance(graph.one("rds/instance:Instance").inputs["password"], Secret)
    assert not any(isinstance(value, Secret) for value in graph.outputs.values())


@pytest.mark.parametrize("stack", CLOUDY)
def test_no_security_group_is_open_to_the_internet(stack: str, built: Built):
    graph = built(stack)
    rules = graph.all("SecurityGroupIngressRule")

    assert [r.name for r in rules if r.inputs.get("cidrIpv4") in ("0.0.0.0/0", "::/0")] == []
    assert [g.name for g in graph.all("ec2/securityGroup:SecurityGroup") if g.inputs.get("ingress")] == []
    assert {k: v for k, v in graph.one("DefaultSecurityGroup").inputs.items() if k != "vpcId"} == {
        "ingress": [],
        "egress": [],
    }


@pytest.mark.parametrize("stack", CLOUDY)
def test_the_cluster_endpoint_is_as_open_as_the_stacks_file_says_and_the_file_says_why(stack: str, built: Built):
    stated = config_of(stack)["sentiment:cluster"]["public_cidrs"]
    lines = FILES[stack].read_text().splitlines()
    (at,) = [i for i, line in enumerate(lines) if "public_cidrs:" in line]

    assert built(stack).one("eks/cluster:Cluster").inputs["vpcConfig"]["publicAccessCidrs"] == stated
    assert "#" in lines[at] + lines[at - 1]


@pytest.mark.parametrize("stack", CLOUDY)
def test_subnets_lie_in_the_vpc_and_beside_each_other(stack: str, built: Built):
    graph = built(stack)
    vpc = ipaddress.ip_network(graph.one("ec2/vpc:Vpc").inputs["cidrBlock"])
    nets = [ipaddress.ip_network(subnet.inputs["cidrBlock"]) for subnet in graph.all("ec2/subnet:Subnet")]

    assert all(net.subnet_of(vpc) for net in nets)  # type: ignore[arg-type]
    assert not any(a.overlaps(b) for i, a in enumerate(nets) for b in nets[:i])


def test_what_holds_data_is_protected_where_the_stack_says_so(build: Built):
    tracked = {"enabled": True, "stack": None}
    graph = build("prod", tracking=tracked)
    kept = {"cluster", "artifacts", "database", "service", "secrets"}

    assert {resource.name for resource in graph.resources.values() if resource.protect} == kept
    assert graph.one("eks/cluster:Cluster").inputs["deletionProtection"] is True
    assert graph.one("rds/instance:Instance").inputs["deletionProtection"] is True
    assert graph.one("ecr/repository:Repository").inputs["forceDelete"] is False
    assert graph.one("s3/bucket:Bucket").inputs["forceDestroy"] is False


def test_nothing_is_protected_where_environments_come_and_go(built: Built):
    graph = built("dev")

    assert [resource.name for resource in graph.resources.values() if resource.protect] == []
    assert graph.one("eks/cluster:Cluster").inputs["deletionProtection"] is False
    assert graph.one("rds/instance:Instance").inputs["deletionProtection"] is False
    assert graph.one("ecr/repository:Repository").inputs["forceDelete"] is True
    assert graph.one("s3/bucket:Bucket").inputs["forceDestroy"] is True


# Every setting arrives


def zones_of(graph: Graph) -> list[str]:
    private = sorted(
        (s.name, s.inputs["availabilityZone"]) for s in graph.all("ec2/subnet:Subnet") if "private" in s.name
    )
    return [zone for _, zone in private]


EFFECTS: dict[tuple[str, ...], tuple[Any, Callable[[Graph], Any], Any]] = {
    ("aws", "region"): ("eu-north-1", lambda g: g.one("pulumi:providers:aws").inputs["region"], "eu-north-1"),
    ("aws", "admin_role"): (
        "arn:aws:iam::999999999999:role/other",
        lambda g: g.one("AccessEntry", "admin-0").inputs["principalArn"],
        "arn:aws:iam::999999999999:role/other",
    ),
    ("github", "repository"): ("b/c", lambda g: re.findall(r"repo:(\w+)@\d+/(\w+)@", trust(g)), [("b", "c")]),
    ("github", "owner_id"): ("7", lambda g: re.findall(r"repo:\w+@(\d+)/", trust(g)), ["7"]),
    ("github", "repository_id"): ("8", lambda g: re.findall(r"repo:\w+@\d+/\w+@(\d+)", trust(g)), ["8"]),
    ("github", "preview"): (
        False,
        lambda g: [role.name for role in g.all("iam/role:Role") if "preview" in role.name],
        [],
    ),
    ("network", "cidr"): ("10.9.0.0/16", lambda g: g.one("ec2/vpc:Vpc").inputs["cidrBlock"], "10.9.0.0/16"),
    ("network", "zones"): (3, zones_of, ["eu-west-1a", "eu-west-1b", "eu-west-1c"]),
    ("network", "nat"): ("per-zone", lambda g: len(g.all("NatGateway")), 3),
    ("cluster", "version"): ("1.35", lambda g: g.one("eks/cluster:Cluster").inputs["version"], "1.35"),
    ("cluster", "public_cidrs"): (
        ["192.0.2.0/24"],
        lambda g: g.one("eks/cluster:Cluster").inputs["vpcConfig"]["publicAccessCidrs"],
        ["192.0.2.0/24"],
    ),
    ("cluster", "system_pool"): (
        True,
        lambda g: g.one("eks/cluster:Cluster").inputs["computeConfig"]["nodePools"],
        ["general-purpose", "system"],
    ),
    ("cluster", "log_days"): (7, lambda g: g.one("LogGroup").inputs["retentionInDays"], 7),
    ("cluster", "secrets_key"): (
        True,
        lambda g: g.one("eks/cluster:Cluster").inputs.get("encryptionConfig", {}).get("resources"),
        ["secrets"],
    ),
    ("tracking", "image"): (
        "registry.example/mlflow:v4.0.0",
        lambda g: g.one("apps/v1:Deployment").inputs["spec"]["template"]["spec"]["containers"][0]["image"],
        "registry.example/mlflow:v4.0.0",
    ),
    ("tracking", "replicas"): (2, lambda g: g.one("apps/v1:Deployment").inputs["spec"]["replicas"], 2),
    ("tracking", "database_class"): ("db.m7g.large", lambda g: database(g)["instanceClass"], "db.m7g.large"),
    ("tracking", "database_gib"): (
        30,
        lambda g: (database(g)["allocatedStorage"], database(g)["maxAllocatedStorage"]),
        (30, 150),
    ),
    ("tracking", "database_standby"): (True, lambda g: database(g)["multiAz"], True),
    ("tracking", "backup_days"): (3, lambda g: database(g)["backupRetentionPeriod"], 3),
    ("tracking", "final_snapshot"): (True, lambda g: database(g)["skipFinalSnapshot"], False),
    ("budget", "monthly_usd"): (9, lambda g: g.one("budgets/budget:Budget").inputs["limitAmount"], "9"),
    ("budget", "email"): (
        "a@b.c",
        lambda g: g.one("budgets/budget:Budget").inputs["notifications"][0]["subscriberEmailAddresses"],
        ["a@b.c"],
    ),
}
ELSEWHERE = {  # tested above, or by what reads them
    ("cluster", "endpoint"),
    ("tracking", "enabled"),
    ("tracking", "stack"),
    ("github", "runner"),
}


def database(graph: Graph) -> dict[str, Any]:
    return graph.one("rds/instance:Instance").inputs


def trust(graph: Graph) -> str:
    return graph.one("iam/role:Role", "release").inputs["assumeRolePolicy"]


@pytest.fixture(scope="module")
def changed(build: Built) -> Graph:
    """`dev` with every setting changed."""
    sections: dict[str, dict[str, Any]] = {}
    for (section, key), (value, _, _) in EFFECTS.items():
        sections.setdefault(section, {})[key] = value
    return build("dev", **sections)


@pytest.mark.parametrize("key", EFFECTS, ids=".".join)
def test_a_setting_reaches_what_it_sets(key: tuple[str, str], changed: Graph, built: Built):
    _, found, expected = EFFECTS[key]

    assert found(changed) == expected
    assert found(built("dev")) != expected, "or the test would pass with the default"


def test_no_setting_is_without_such_a_test():
    from infra.settings import SECTIONS

    every = {(name, key) for name, section in SECTIONS.items() for key in section.model_fields}

    assert every == EFFECTS.keys() | ELSEWHERE


def test_a_private_endpoint_is_reached_from_inside_alone(build: Built):
    graph = build("dev", cluster={"endpoint": "private", "public_cidrs": []}, github={"runner": "inside"})
    config = graph.one("eks/cluster:Cluster").inputs["vpcConfig"]

    assert (config["endpointPublicAccess"], config["endpointPrivateAccess"]) == (False, True)
    assert "publicAccessCidrs" not in config


def test_without_nat_the_nodes_reach_aws_by_endpoints_before_the_cluster_is_made(build: Built):
    graph = build("dev", network={"nat": "none"})
    endpoints = {e.inputs["serviceName"].partition("eu-west-1.")[2]: e for e in graph.all("VpcEndpoint")}

    assert graph.all("NatGateway") + graph.all("ec2/eip:Eip") == []
    assert endpoints.keys() >= {"s3", "sts", "ecr.api", "ecr.dkr", "ec2", "eks", "eks-auth", "elasticloadbalancing"}
    assert {endpoint.urn for endpoint in endpoints.values()} - {endpoints["s3"].urn} <= graph.behind(
        graph.one("eks/cluster:Cluster")
    )


def test_without_github_only_people_deploy():
    config = config_of("dev")
    del config["sentiment:github"]

    graph = run("dev", config, preview=False, outputs=outputs_of, answers=ANSWERS)

    assert graph.exit_code == 0
    assert len(graph.all("AccessEntry")) == 1
    assert "roles" not in graph.outputs
