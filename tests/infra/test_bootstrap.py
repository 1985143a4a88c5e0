"""The template as CloudFormation reads it, and its policies as moto's CloudFormation writes them."""

import ast
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import cfnlint.api
import cfnlint.decode
import pytest
from cfnlint.template import Template
from iam import allowed, listed
from moto import mock_aws
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.policy_validation import IAMPolicyDocumentValidator, IAMTrustPolicyDocumentValidator
from policy_sentry.querying.actions import get_actions_for_service

from infra.cloud import identity
from infra.cloud.environment import Environment
from infra.settings import GitHub

TEMPLATE = Path(__file__).parents[2] / "infra/bootstrap.yaml"
ENVIRONMENTS = ["dev", "staging", "prod"]
ROLE, KEY = "arn:aws:iam::123456789012:role/", "arn:aws:kms:eu-west-1:123456789012:key/1"
EC2 = "arn:aws:ec2:eu-west-1:123456789012:"
BALANCER = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/net/x/1"
BUCKET = "sentiment-state-123456789012"
STATE = f"arn:aws:s3:::{BUCKET}"
BOUNDARY = "arn:aws:iam::123456789012:policy/sentiment-boundary"
MANAGED: dict[str, Any] = json.loads(aws_managed_policies_data)
OF_EKS = [f"AmazonEKS{name}Policy" for name in ("Cluster", "Compute", "BlockStorage", "LoadBalancing", "Networking")]
OF_EKS += ["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"]

SERVICES = ["eks.amazonaws.com", "elasticloadbalancing.amazonaws.com", "spot.amazonaws.com"]

READS = ("iam:Get", "iam:List", "iam:Generate", "iam:Simulate")

Policies = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """With its loops unrolled over the default environments."""
    parsed, _ = cfnlint.decode.decode(str(TEMPLATE))
    unrolled = Template(str(TEMPLATE), parsed)
    assert unrolled.transform() == []
    return json.loads(json.dumps(unrolled.template))


@pytest.fixture(scope="module")
def cloud(template: dict[str, Any]) -> Iterator[boto3.Session]:
    """Where the template is deployed."""
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        session = boto3.Session(region_name="eu-west-1")
        deploy(session, template, "sentiment-bootstrap", Repository="octo/review", OwnerId="7", RepositoryId="42")
        yield session


def deploy(session: boto3.Session, template: dict[str, Any], stack: str, **parameters: str) -> None:
    """moto knows no transform, bucket policy, OIDC provider or list as a parameter."""
    known = {name: r for name, r in template["Resources"].items() if name not in ("StatePolicy", "OidcProvider")}
    body = json.dumps({**template, "Resources": known, "Transform": []})
    session.client("cloudformation").create_stack(
        StackName=stack,
        TemplateBody=body.replace('{"Ref": "Environments"}', json.dumps(ENVIRONMENTS)),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
    )


@pytest.fixture(scope="module")
def policies(cloud: boto3.Session) -> Policies:
    """Statements of the boundary and of each environment's platform role."""
    iam = cloud.client("iam")
    boundary = iam.get_policy_version(PolicyArn=BOUNDARY, VersionId="v1")["PolicyVersion"]["Document"]
    found = {"boundary": boundary["Statement"]}
    for environment in ENVIRONMENTS:
        policy = iam.get_role_policy(RoleName=f"platform-sentiment-{environment}", PolicyName="platform")
        found[environment] = ast.literal_eval(policy["PolicyDocument"])["Statement"]  # moto gives Python text
    return found


def platform(environment: str, **keys: str) -> dict[str, str]:
    return {"aws:PrincipalArn": f"{ROLE}platform-sentiment-{environment}"} | keys


def made(environment: str, kind: str = "x") -> dict[str, str]:
    """A role that the program makes."""
    return {"aws:PrincipalArn": f"{ROLE}sentiment-{environment}-{kind}", "aws:PrincipalTag/stack": environment}


def test_cloudformation_accepts_the_template():
    assert [str(match) for match in cfnlint.api.lint(TEMPLATE.read_text(), regions=["eu-west-1"])] == []


def test_iam_accepts_every_policy(policies: Policies, cloud: boto3.Session):
    """Grammar, and the lengths that AWS allows: 6,144 for a managed policy, 10,240 for those inside a role."""
    for name, statements in policies.items():
        text = json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
        IAMPolicyDocumentValidator(text).validate()
        assert len(text) < (6144 if name == "boundary" else 10240)
    for role in cloud.client("iam").list_roles()["Roles"]:
        IAMTrustPolicyDocumentValidator(json.dumps(role["AssumeRolePolicyDocument"])).validate()


def test_every_action_exists(policies: Policies):
    named = {action for statements in policies.values() for s in statements for action in listed(s["Action"])} - {"*"}
    real = {service: get_actions_for_service(service) for service in {action.split(":")[0] for action in named}}

    unknown = [a for a in named if not any(fnmatchcase(r.lower(), a.lower()) for r in real[a.split(":")[0]])]

    assert unknown == []


def test_nothing_is_allowed_everything(policies: Policies):
    allows = {
        a for statements in policies.values() for s in statements if s["Effect"] == "Allow" for a in listed(s["Action"])
    }

    assert {action for action in allows if action in ("*", "iam:*", "sts:*", "kms:*", "organizations:*")} == set()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_platform_role_trusts_one_environment_of_one_repository_on_main(environment: str, cloud: boto3.Session):
    role = cloud.client("iam").get_role(RoleName=f"platform-sentiment-{environment}")["Role"]
    issuer = "token.actions.githubusercontent.com"

    assert role["AssumeRolePolicyDocument"]["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{issuer}"},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {
                "StringEquals": {
                    f"{issuer}:aud": "sts.amazonaws.com",
                    f"{issuer}:ref": "refs/heads/main",
                    f"{issuer}:repository_id": "42",
                    f"{issuer}:sub": f"repo:octo@7/review@42:environment:{environment}-platform",
                }
            },
        }
    ]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_platform_role_changes_only_roles_of_its_environment(environment: str, policies: Policies):
    """Not itself, another platform role, or another environment's, whatever boundary it names."""
    names = [
        "platform-sentiment-dev",
        f"platform-sentiment-{environment}",
        "admin",
        *(f"sentiment-{e}-x" for e in ENVIRONMENTS),
    ]
    writes = [a for a in get_actions_for_service("iam") if not a.startswith(READS)]
    bounded = platform(environment, **{"iam:PermissionsBoundary": BOUNDARY, "iam:PassedToService": "eks.amazonaws.com"})

    changed = {n for n in names for a in writes if allowed(policies[environment], a, ROLE + n, bounded)}

    assert changed == {f"sentiment-{environment}-x"}


def test_platform_role_changes_neither_boundary_nor_trust(policies: Policies):
    provider = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
    writes = [a for a in get_actions_for_service("iam") if not a.startswith(READS)]

    assert [
        a for a in writes for thing in (BOUNDARY, provider) if allowed(policies["dev"], a, thing, platform("dev"))
    ] == []


@pytest.mark.parametrize("action", ["CreateRole", "PutRolePolicy", "AttachRolePolicy", "PutRolePermissionsBoundary"])
def test_roles_gain_rights_only_under_the_boundary(action: str, policies: Policies):
    def may(**boundary: str) -> bool:
        return allowed(policies["dev"], f"iam:{action}", f"{ROLE}sentiment-dev-x", platform("dev", **boundary))

    assert [may(), may(**{"iam:PermissionsBoundary": "other"}), may(**{"iam:PermissionsBoundary": BOUNDARY})] == [
        False,
        False,
        True,
    ]


def test_a_boundary_is_never_taken_off(policies: Policies):
    denied = [
        s for s in policies["dev"] if s["Effect"] == "Deny" and s["Action"] == "iam:DeleteRolePermissionsBoundary"
    ]

    assert [(s["Resource"], "Condition" in s) for s in denied] == [("*", False)]


OWN_STATE = [".pulumi/stacks/sentiment/{}.json", ".pulumi/history/sentiment/{}/1", ".pulumi/backups/sentiment/{}/1"]
OWN_STATE += [".pulumi/locks/organization/sentiment/{}/1.json"]


@pytest.mark.parametrize("path", OWN_STATE)
def test_platform_role_writes_the_state_of_its_environment_alone(path: str, policies: Policies):
    writes = [e for e in ENVIRONMENTS if allowed(policies["prod"], "s3:PutObject", f"{STATE}/{path.format(e)}")]

    assert writes == ["prod"]


def test_platform_role_reads_what_its_program_refers_to(policies: Policies):
    paths = [".pulumi/meta.yaml", ".pulumi/stacks/sentiment/dev.json", "releases/prod.json", "releases/dev.json"]

    assert [p for p in paths if allowed(policies["prod"], "s3:GetObject", f"{STATE}/{p}")] == paths[:3]
    assert [p for p in paths if allowed(policies["prod"], "s3:PutObject", f"{STATE}/{p}")] == []
    assert not allowed(policies["prod"], "s3:DeleteObjectVersion", f"{STATE}/releases/prod.json")


def test_platform_role_uses_its_key_and_decrypts_with_that_of_the_registry(policies: Policies):
    def may(action: str) -> list[str]:
        key = {e: {"kms:ResourceAliases": [f"alias/sentiment-{e}"]} for e in ENVIRONMENTS}
        return [e for e in ENVIRONMENTS if allowed(policies["prod"], action, KEY, key[e])]

    assert (may("kms:Encrypt"), may("kms:Decrypt"), may("kms:ScheduleKeyDeletion")) == (["prod"], ["dev", "prod"], [])


def test_platform_role_touches_no_network_of_another_environment(policies: Policies):
    tags = [{}, *({"aws:ResourceTag/stack": e} for e in ENVIRONMENTS)]

    assert [allowed(policies["dev"], "ec2:DeleteVpc", "*", tag) for tag in tags] == [True, True, False, False]


def test_images_belong_to_the_registrys_environment(policies: Policies):
    images = "arn:aws:ecr:eu-west-1:123456789012:repository/sentiment"

    assert [e for e in ENVIRONMENTS if allowed(policies[e], "ecr:DeleteRepository", images, platform(e))] == ["dev"]


@pytest.mark.parametrize(
    "tags",
    [
        {"aws:ResourceTag/stack": "dev"},
        {"aws:ResourceTag/eks:eks-cluster-name": "sentiment-dev"},
        {},  # such as AWS's images
    ],
)
@pytest.mark.parametrize("name", OF_EKS)
def test_boundary_covers_what_eks_needs(name: str, tags: dict[str, str], policies: Policies):
    """moto ships AWS's own policies. The request is that of dev's cluster."""
    request = made("dev", "cluster") | {
        **tags,
        "aws:PrincipalTag/eks:eks-cluster-name": "sentiment-dev",
        "iam:AWSServiceName": "elasticloadbalancing.amazonaws.com",
        "iam:PassedToService": "ec2.amazonaws.com",
    }
    refused: list[tuple[str, str]] = []
    for statement in MANAGED[name]["Document"]["Statement"]:
        for action in listed(statement["Action"]):
            for pattern in listed(statement["Resource"]):
                resource = (
                    f"{ROLE}sentiment-dev-node"
                    if action == "iam:PassRole"
                    else pattern.replace(":iam::*:", ":iam::123456789012:")
                )
                if not allowed(policies["boundary"], action, resource, request):
                    refused.append((action, resource))

    assert refused == []


def test_boundary_lets_eks_make_the_roles_of_three_services(policies: Policies):
    def may(service: str) -> bool:
        request = made("dev", "cluster") | {"iam:AWSServiceName": service}
        return allowed(policies["boundary"], "iam:CreateServiceLinkedRole", f"{ROLE}aws-service-role/x", request)

    assert [s for s in (*SERVICES, "organizations.amazonaws.com") if may(s)] == SERVICES


def environment_of(stack: str) -> Environment:
    where = {"region": "eu-west-1", "account": "123456789012", "partition": "aws"}
    return Environment(project="sentiment", stack=stack, registry="dev", protect=False, **where)


@pytest.mark.parametrize("stack", ENVIRONMENTS)
def test_boundary_covers_the_roles_of_the_program(stack: str, policies: Policies):
    """Each bears the name and the tag that the program gives it, and meets the keys of its state and the registry's."""
    env, github = (
        environment_of(stack),
        GitHub(repository="octo/review", owner_id="7", repository_id="42", preview=True),
    )
    refused: list[tuple[str, str, str, str]] = []
    for kind, (_, statements) in identity.roles(env, github).items():
        for key in (f"alias/sentiment-{stack}", "alias/sentiment-dev"):
            request = made(stack, kind) | {"kms:ResourceAliases": key}
            asked = [(action, resource) for s in statements for action in s["Action"] for resource in s["Resource"]]
            refused += [(kind, key, *a) for a in asked if not allowed(policies["boundary"], *a, request)]

    assert refused == []


def test_program_and_template_say_the_same_names(template: dict[str, Any], cloud: boto3.Session):
    env, iam = environment_of("dev"), cloud.client("iam")
    buckets = [b["Name"] for b in cloud.client("s3").list_buckets()["Buckets"]]
    aliases = [a["AliasName"] for a in cloud.client("kms").list_aliases()["Aliases"]]

    assert env.boundary == BOUNDARY
    assert env.platform_role == iam.get_role(RoleName="platform-sentiment-dev")["Role"]["Arn"]
    assert [env.state_bucket] == [f"arn:aws:s3:::{name}" for name in buckets]
    assert f"alias/{env.name}" in aliases
    assert template["Resources"]["OidcProvider"]["Properties"]["Url"].endswith(env.oidc_provider.split("/")[-1])


DATABASE = "arn:aws:rds:eu-west-1:123456789012"


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("rds:CreateDBInstance", f"{DATABASE}:db:sentiment-dev"),
        ("rds:CreateDBSubnetGroup", f"{DATABASE}:subgrp:sentiment-dev"),
        ("rds:CreateDBSnapshot", f"{DATABASE}:snapshot:sentiment-dev-final-1a2b"),
        ("s3:CreateBucket", "arn:aws:s3:::sentiment-dev-artifacts-123456789012"),
        ("logs:CreateLogGroup", "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/eks/sentiment-dev/cluster"),
        ("eks:CreateAccessEntry", "arn:aws:eks:eu-west-1:123456789012:cluster/sentiment-dev"),
        ("budgets:ModifyBudget", "arn:aws:budgets::123456789012:budget/sentiment-dev"),
    ],
)
def test_platform_role_makes_what_bears_the_name_of_its_environment(action: str, resource: str, policies: Policies):
    assert [e for e in ENVIRONMENTS if allowed(policies[e], action, resource, platform(e))] == ["dev"]


@pytest.mark.parametrize(
    ("key", "may"),
    [
        ({}, ["kms:TagResource"]),  # new
        ({"aws:ResourceTag/stack": "dev"}, ["kms:TagResource", "kms:PutKeyPolicy"]),
        ({"aws:ResourceTag/stack": "prod"}, []),
        ({"kms:ResourceAliases": "alias/sentiment-dev"}, []),  # of the state
    ],
)
def test_platform_role_takes_over_no_key(key: dict[str, str], may: list[str], policies: Policies):
    """Keys of the program are its own by their tag, which neither the state's nor another environment's is given."""
    request = platform("dev", **{"aws:RequestTag/stack": "dev"}, **key)

    asked = ["kms:TagResource", "kms:PutKeyPolicy"]
    assert [action for action in asked if allowed(policies["dev"], action, KEY, request)] == may


def test_platform_role_gives_an_endpoint_its_private_names(policies: Policies):
    zone = "arn:aws:route53:::hostedzone/Z1"

    assert allowed(policies["dev"], "route53:AssociateVPCWithHostedZone", zone, platform("dev"))


@pytest.mark.parametrize("action", ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "sts:AssumeRole"])
def test_roles_under_the_boundary_make_no_roles(action: str, policies: Policies):
    assert not allowed(policies["boundary"], action, f"{ROLE}sentiment-dev-x", made("dev"))


OF_A_STACK: list[tuple[str, str, dict[str, str]]] = [
    *[("s3:PutObject", f"{STATE}/{path}", {}) for path in (*OWN_STATE, "releases/{}.json")],
    ("s3:PutObject", "arn:aws:s3:::sentiment-{}-artifacts-123456789012/1/model", {}),
    ("kms:Encrypt", KEY, {"kms:ResourceAliases": "alias/sentiment-{}"}),
    ("ec2:DeleteVpc", f"{EC2}vpc/vpc-1", {"aws:ResourceTag/stack": "{}"}),
    ("ec2:TerminateInstances", f"{EC2}instance/i-1", {"aws:ResourceTag/stack": "{}"}),
    ("ec2:TerminateInstances", f"{EC2}instance/i-1", {"aws:ResourceTag/eks:eks-cluster-name": "sentiment-{}"}),
    ("ec2:CreateSnapshot", f"{EC2}volume/v-1", {"aws:ResourceTag/eks:eks-cluster-name": "sentiment-{}"}),
    ("elasticloadbalancing:DeleteLoadBalancer", BALANCER, {"aws:ResourceTag/stack": "{}"}),
    ("iam:PassRole", f"{ROLE}sentiment-{{}}-node", {"iam:PassedToService": "ec2.amazonaws.com"}),
]


@pytest.mark.parametrize(("action", "resource", "keys"), OF_A_STACK)
@pytest.mark.parametrize(
    ("tag", "reached"),
    [
        ("dev", ["dev"]),
        ("prod", []),  # a session may bring any tag, not any name
        ("dev-release", []),
        (None, []),
    ],
)
def test_roles_under_the_boundary_reach_what_is_of_the_stack_in_their_name_and_tag(
    tag: str | None, reached: list[str], action: str, resource: str, keys: dict[str, str], policies: Policies
):
    who = {"aws:PrincipalArn": f"{ROLE}sentiment-dev-release"} | ({"aws:PrincipalTag/stack": tag} if tag else {})

    def may(stack: str) -> bool:
        request = who | {key: value.format(stack) for key, value in keys.items()}
        return allowed(policies["boundary"], action, resource.format(stack), request)

    assert [e for e in ENVIRONMENTS if may(e)] == reached


@pytest.mark.parametrize("name", ["state", "dev-eu", "Dev"])
def test_no_environment_takes_the_names_of_another_or_of_the_state(name: str, template: dict[str, Any]):
    pattern = template["Parameters"]["Environments"]["AllowedPattern"]

    assert [bool(re.fullmatch(pattern, n)) for n in (*ENVIRONMENTS, name)] == [True, True, True, False]


def test_without_a_repository_nobody_comes_from_github(template: dict[str, Any], cloud: boto3.Session):
    cloudformation = cloud.client("cloudformation")
    deploy(cloud, template, "by-hand", Project="byhand")
    resources = cloudformation.list_stack_resources(StackName="by-hand")["StackResourceSummaries"]
    outputs = cloudformation.describe_stacks(StackName="by-hand")["Stacks"][0]["Outputs"]
    cloudformation.delete_stack(StackName="by-hand")

    assert "AWS::S3::Bucket" in [r["ResourceType"] for r in resources]
    assert "AWS::IAM::Role" not in [r["ResourceType"] for r in resources]
    assert sorted(o["OutputKey"] for o in outputs) == ["BoundaryArn", "StateUrl"]
    assert {"Condition": "HasRepository"} in template["Conditions"]["MakesOidcProvider"]["Fn::And"]


def test_pointer_versions_never_expire(template: dict[str, Any]):
    rules = template["Resources"]["State"]["Properties"]["LifecycleConfiguration"]["Rules"]

    assert [rule["Prefix"] for rule in rules if any("Expiration" in key for key in rule)] == [".pulumi/"]


def test_state_is_kept_until_someone_empties_the_bucket(cloud: boto3.Session):
    """Last, since it deletes what other tests read."""
    cloud.client("s3").put_object(Bucket=BUCKET, Key="releases/dev.json", Body=b"{}")
    cloud.client("cloudformation").delete_stack(StackName="sentiment-bootstrap")
    assert [b["Name"] for b in cloud.client("s3").list_buckets()["Buckets"]] == [BUCKET]
