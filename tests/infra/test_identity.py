"""Who may act from GitHub, on what. The policies go through a real parser, and through a real decision."""

import fnmatch
import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import ACCOUNT, REGION
from iam import allowed
from monitor import Graph
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from moto.iam.policy_validation import IAMPolicyDocumentValidator, IAMTrustPolicyDocumentValidator
from policy_sentry.querying.actions import get_actions_for_service

CLOUDY = ["dev", "staging", "prod"]
KINDS = {"observe", "release"}
ISSUER = "token.actions.githubusercontent.com"

Built = Callable[..., Graph]


def statements_of(text: str) -> list[dict[str, Any]]:
    return json.loads(text)["Statement"]


def policies(graph: Graph) -> Iterator[tuple[str, str]]:
    for resource in graph.resources.values():
        if resource.type == "aws:iam/rolePolicy:RolePolicy":
            yield resource.name, resource.inputs["policy"]


def trusts(graph: Graph) -> dict[str, str]:
    return {role.name: role.inputs["assumeRolePolicy"] for role in graph.all("iam/role:Role")}


def rights(graph: Graph, kind: str) -> list[dict[str, Any]]:
    return statements_of(dict(policies(graph))[kind])


# As IAM reads them


@pytest.mark.parametrize("stack", CLOUDY)
def test_every_policy_is_one_that_iam_parses(stack: str, built: Built):
    graph = built(stack)

    for _, policy in policies(graph):
        IAMPolicyDocumentValidator(policy).validate()
    for trust in trusts(graph).values():
        IAMTrustPolicyDocumentValidator(trust).validate()


@pytest.mark.parametrize("stack", CLOUDY)
def test_every_action_exists(stack: str, built: Built):
    """A misspelt action grants nothing, and says nothing."""
    named = {action for _, policy in policies(built(stack)) for s in statements_of(policy) for action in s["Action"]}
    existing = {
        action for service in {name.split(":")[0] for name in named} for action in get_actions_for_service(service)
    }

    assert named - existing == set()


@pytest.mark.parametrize("stack", CLOUDY)
def test_no_policy_allows_by_wildcard(stack: str, built: Built):
    wild = {"ec2:DescribeAvailabilityZones", "ecr:GetAuthorizationToken"}  # AWS knows no resource to name for these

    for _, policy in policies(built(stack)):
        for statement in statements_of(policy):
            assert not [action for action in statement["Action"] if "*" in action]
            assert "*" not in statement["Resource"] or set(statement["Action"]) <= wild


@pytest.mark.parametrize("stack", CLOUDY)
def test_every_role_is_under_the_boundary(stack: str, built: Built):
    boundaries = {role.inputs["permissionsBoundary"] for role in built(stack).all("iam/role:Role")}

    assert boundaries == {f"arn:aws:iam::{ACCOUNT}:policy/sentiment-boundary"}


# Who


@pytest.mark.parametrize("stack", CLOUDY)
def test_each_environment_has_its_roles_and_one_has_the_registrys(stack: str, built: Built):
    """And dev, whose secrets are nobody's secret, shows its previews to pull requests."""
    extra = {"produce", "preview"} if stack == "dev" else set()

    assert built(stack).outputs["roles"].keys() == KINDS | extra


@pytest.mark.parametrize("stack", CLOUDY)
def test_trust_compares_whole_claims_of_one_repository(stack: str, built: Built):
    for kind in built(stack).outputs["roles"]:
        (statement,) = statements_of(trusts(built(stack))[kind])
        (operator,) = statement["Condition"]
        claims = statement["Condition"][operator]

        assert operator == "StringEquals"
        assert statement["Principal"] == {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"}
        assert claims[f"{ISSUER}:aud"] == "sts.amazonaws.com"
        assert claims[f"{ISSUER}:repository_id"] == "42"
        assert claims[f"{ISSUER}:sub"].startswith("repo:acme@41/reviews@42:")
        assert "*" not in json.dumps(claims)


def test_a_release_comes_from_two_workflows_on_main_in_its_protected_environment(built: Built):
    (statement,) = statements_of(trusts(built("prod"))["release"])

    assert statement["Condition"]["StringEquals"] == {
        f"{ISSUER}:aud": "sts.amazonaws.com",
        f"{ISSUER}:sub": "repo:acme@41/reviews@42:environment:prod-release",
        f"{ISSUER}:repository_id": "42",
        f"{ISSUER}:ref": "refs/heads/main",
        f"{ISSUER}:job_workflow_ref": [
            "acme/reviews/.github/workflows/_rollout.yml@refs/heads/main",
            "acme/reviews/.github/workflows/rollback.yml@refs/heads/main",
        ],
    }


def test_images_and_versions_come_from_two_workflows_on_main(built: Built):
    (statement,) = statements_of(trusts(built("dev"))["produce"])
    claims = statement["Condition"]["StringEquals"]

    assert claims[f"{ISSUER}:sub"] == "repo:acme@41/reviews@42:ref:refs/heads/main"
    assert claims[f"{ISSUER}:ref"] == "refs/heads/main"
    assert claims[f"{ISSUER}:job_workflow_ref"] == [
        "acme/reviews/.github/workflows/train.yml@refs/heads/main",
        "acme/reviews/.github/workflows/deliver.yml@refs/heads/main",
    ]


def test_only_the_preview_role_trusts_pull_requests(built: Built):
    trusting = {name for stack in CLOUDY for name, text in trusts(built(stack)).items() if "pull_request" in text}

    assert trusting == {"preview"}


@pytest.mark.parametrize("stack", CLOUDY)
def test_in_the_cluster_each_is_a_group_of_its_own_and_no_more(stack: str, built: Built):
    """Broad access policies of EKS read Secrets and open shells: only people and the platform role have one."""
    graph = built(stack)
    groups = {entry.name: entry.inputs.get("kubernetesGroups") for entry in graph.all("AccessEntry")}
    associated = {resource.inputs["principalArn"] for resource in graph.all("AccessPolicyAssociation")}

    assert {kind: groups[kind] for kind in graph.outputs["roles"]} == {
        kind: [f"github:{kind}"] for kind in graph.outputs["roles"]
    }
    assert associated == {
        f"arn:aws:iam::{ACCOUNT}:role/admin",
        f"arn:aws:iam::{ACCOUNT}:role/platform-sentiment-{stack}",
    }


# What


@pytest.mark.parametrize("kind", ["observe", "release", "produce", "preview"])
def test_no_role_touches_network_cluster_database_or_identities(kind: str, built: Built):
    services = ("ec2", "eks", "rds", "iam", "elasticloadbalancing", "logs", "cloudformation")
    read = {"ec2:DescribeAvailabilityZones", "eks:DescribeCluster"}
    allowed = {action for statement in rights(built("dev"), kind) for action in statement["Action"]}

    assert {action for action in allowed if action.startswith(services)} <= read


@pytest.mark.parametrize("kind", ["observe", "preview"])
def test_who_only_looks_writes_nothing(kind: str, built: Built):
    allowed = {action for statement in rights(built("dev"), kind) for action in statement["Action"]}

    verbs = {action.split(":")[1] for action in allowed}

    assert [verb for verb in verbs if not verb.startswith(("Get", "List", "Describe", "BatchGet", "Decrypt"))] == []


def test_state_of_another_environment_stays_closed_but_for_the_registrys_outputs(built: Built):
    files = [
        resource.partition(f"sentiment-state-{ACCOUNT}/")[2]
        for statement in rights(built("prod"), "release")
        if "s3:GetObject" in statement["Action"]
        for resource in statement["Resource"]
    ]
    others = [".pulumi/stacks/sentiment/staging.json", ".pulumi/history/sentiment/dev/1.json", "releases/dev.json"]
    readable = {file for file in others if any(fnmatch.fnmatch(file, pattern) for pattern in files)}

    assert readable == set()
    assert any(fnmatch.fnmatch(".pulumi/stacks/sentiment/dev.json", pattern) for pattern in files)


def test_a_stack_reads_with_its_own_key_and_the_registrys(built: Built):
    (keys,) = [s["Condition"] for s in rights(built("prod"), "release") if s["Action"] == ["kms:Decrypt"]]

    assert keys == {
        "ForAnyValue:StringEquals": {"kms:ResourceAliases": ["alias/sentiment-dev", "alias/sentiment-prod"]}
    }


@pytest.mark.parametrize(
    "path",
    [
        "stacks/sentiment/dev.json",
        "stacks/sentiment/dev.json.bak",
        "history/sentiment/dev/dev-1.history.json",
        "backups/sentiment/dev/dev.1.json",
        "locks/organization/sentiment/dev/0b1c.json",
    ],
)
def test_release_writes_what_an_up_writes(path: str, built: Built):
    """The paths are those of Pulumi's own backend for buckets."""
    object_ = f"arn:aws:s3:::sentiment-state-{ACCOUNT}/.pulumi/{path}"

    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert allowed(rights(built("dev"), "release"), action, object_)
        assert not allowed(rights(built("dev"), "release"), action, object_.replace("/dev", "/prod"))


@pytest.mark.parametrize("kind", ["observe", "release", "produce"])
def test_who_works_with_images_sees_them_and_one_may_push(kind: str, built: Built):
    own = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/sentiment"

    assert allowed(rights(built("dev"), kind), "ecr:DescribeImages", own)
    assert allowed(rights(built("dev"), kind), "ecr:PutImage", own) == (kind == "produce")
    assert not allowed(rights(built("dev"), kind), "ecr:PutImage", own.replace("sentiment", "other"))


def test_mlflows_bucket_lets_encrypted_connections_pass_and_no_others(built: Built):
    policy = statements_of(built("dev").one("BucketPolicy").inputs["policy"])
    bucket = f"arn:aws:s3:::sentiment-dev-artifacts-{ACCOUNT}"
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}

    for thing in (bucket, f"{bucket}/a"):
        assert allowed([everything, *policy], "s3:GetObject", thing, {"aws:SecureTransport": "true"})
        assert not allowed([everything, *policy], "s3:GetObject", thing, {"aws:SecureTransport": "false"})


# As AWS decides


@pytest.fixture
def as_role(built: Built) -> Iterator[Callable[[str], Callable[[str], Any]]]:
    """Become a role of dev in a pretended account that asks for permission from then on."""
    graph = built("dev")
    with mock_aws():
        iam = boto3.client("iam", region_name=REGION)
        boto3.client("s3", region_name=REGION).create_bucket(
            Bucket=f"sentiment-state-{ACCOUNT}", CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        boto3.client("ecr", region_name=REGION).create_repository(repositoryName="sentiment")
        trust = json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]})  # fmt: skip
        for name, policy in policies(graph):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
            iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy)

        def become(kind: str) -> Callable[[str], Any]:
            sts = boto3.client("sts", region_name=REGION)
            got = sts.assume_role(RoleArn=f"arn:aws:iam::{ACCOUNT}:role/{kind}", RoleSessionName="test")["Credentials"]
            keys = {
                "aws_access_key_id": got["AccessKeyId"],
                "aws_secret_access_key": got["SecretAccessKey"],
                "aws_session_token": got["SessionToken"],
            }
            return lambda service: boto3.client(service, region_name=REGION, **keys)

        yield become


def refused(call: Callable[..., Any], **words: Any) -> bool:
    """Whether IAM refuses the call. What fails for another reason was allowed."""
    try:
        set_initial_no_auth_action_count(0)(call)(**words)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False


def test_release_moves_its_pointer_and_not_another_environments(as_role: Callable[[str], Any]):
    s3 = as_role("release")("s3")
    bucket = f"sentiment-state-{ACCOUNT}"

    assert not refused(s3.put_object, Bucket=bucket, Key="releases/dev.json", Body=b"{}")
    assert not refused(s3.get_object, Bucket=bucket, Key="releases/dev.json")
    assert refused(s3.put_object, Bucket=bucket, Key="releases/prod.json", Body=b"{}")
    assert refused(s3.delete_object, Bucket=bucket, Key="releases/dev.json")


def test_release_changes_neither_images_nor_the_network(as_role: Callable[[str], Any]):
    client = as_role("release")

    assert refused(client("ecr").delete_repository, repositoryName="sentiment")
    assert not refused(client("ec2").describe_availability_zones)
    assert refused(client("ec2").delete_vpc, VpcId="vpc-1")
    assert refused(client("iam").create_role, RoleName="x", AssumeRolePolicyDocument="{}")


def test_observe_reads_the_pointer_and_writes_none(as_role: Callable[[str], Any]):
    s3 = as_role("observe")("s3")
    bucket = f"sentiment-state-{ACCOUNT}"

    assert not refused(s3.get_object, Bucket=bucket, Key="releases/dev.json")
    assert refused(s3.put_object, Bucket=bucket, Key="releases/dev.json", Body=b"{}")
    assert refused(s3.get_object, Bucket=bucket, Key=".pulumi/stacks/sentiment/dev.json")
