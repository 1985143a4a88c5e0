"""The template as CloudFormation reads it, and its policies as moto's CloudFormation writes them."""

import ast
import json
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
BUCKET = "sentiment-state-123456789012"
STATE = f"arn:aws:s3:::{BUCKET}"
BOUNDARY = "arn:aws:iam::123456789012:policy/sentiment-boundary"
MANAGED: dict[str, Any] = json.loads(aws_managed_policies_data)
OF_EKS = [f"AmazonEKS{name}Policy" for name in ("Cluster", "Compute", "BlockStorage", "LoadBalancing", "Networking")]
OF_EKS += ["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"]

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
    """Where the template is deployed. moto knows no transform, bucket policy, OIDC provider or list as a parameter."""
    known = {name: r for name, r in template["Resources"].items() if name not in ("StatePolicy", "OidcProvider")}
    body = json.dumps({**template, "Resources": known, "Transform": []})
    parameters = {"Repository": "octo/review", "OwnerId": "7", "RepositoryId": "42"}
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        session = boto3.Session(region_name="eu-west-1")
        session.client("cloudformation").create_stack(
            StackName="sentiment-bootstrap",
            TemplateBody=body.replace('{"Ref": "Environments"}', json.dumps(ENVIRONMENTS)),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        )
        yield session


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
    named = {action for statements in policies.values() for s in statements for action in listed(s["Action"])}
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


@pytest.mark.parametrize("name", OF_EKS)
def test_boundary_covers_what_eks_needs(name: str, policies: Policies):
    """moto ships AWS's own policies. A statement's conditions say what the request bears."""
    refused: list[tuple[str, str]] = []
    for statement in MANAGED[name]["Document"]["Statement"]:
        context = {k: v for keys in statement.get("Condition", {}).values() for k, v in keys.items()}
        for action in listed(statement["Action"]):
            for pattern in listed(statement["Resource"]):
                resource = (
                    f"{ROLE}sentiment-dev-node"
                    if action == "iam:PassRole"
                    else pattern.replace(":iam::*:", ":iam::123456789012:")
                )
                if not allowed(policies["boundary"], action, resource, context):
                    refused.append((action, resource))

    assert refused == []


def environment_of(stack: str) -> Environment:
    where = {"region": "eu-west-1", "account": "123456789012", "partition": "aws"}
    return Environment(project="sentiment", stack=stack, registry="dev", protect=False, **where)


@pytest.mark.parametrize("stack", ENVIRONMENTS)
def test_boundary_covers_the_roles_of_the_program(stack: str, policies: Policies):
    """Each bears the name and the tag that the program gives it."""
    env, github = (
        environment_of(stack),
        GitHub(repository="octo/review", owner_id="7", repository_id="42", preview=True),
    )
    refused: list[tuple[str, str, str]] = []
    for kind, (_, statements) in identity.roles(env, github).items():
        who = {"aws:PrincipalArn": f"{ROLE}{env.name}-{kind}", "aws:PrincipalTag/stack": stack}
        for s in statements:
            context = who | {k: v for keys in s.get("Condition", {}).values() for k, v in keys.items()}
            asked = [(action, resource) for action in s["Action"] for resource in s["Resource"]]
            refused += [(kind, *a) for a in asked if not allowed(policies["boundary"], *a, context)]

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


def test_key_of_the_state_cannot_be_taken_over(policies: Policies):
    """Keys of the program are its own by their tag; a key that has an alias cannot be given one."""
    asked = {"aws:RequestTag/stack": "dev"}
    keys = [asked, asked | {"kms:ResourceAliases": "alias/sentiment-dev"}, asked | {"aws:ResourceTag/stack": "dev"}]

    assert [allowed(policies["dev"], "kms:TagResource", KEY, key) for key in keys] == [True, False, True]
    assert [allowed(policies["dev"], "kms:PutKeyPolicy", KEY, key) for key in keys] == [False, False, True]


@pytest.mark.parametrize("action", ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "sts:AssumeRole"])
def test_roles_under_the_boundary_make_no_roles(action: str, policies: Policies):
    assert not allowed(policies["boundary"], action, f"{ROLE}sentiment-dev-x")


@pytest.mark.parametrize(
    ("role", "tag", "reached"),
    [
        ("sentiment-dev-release", "dev", ["dev"]),
        ("sentiment-dev-release", "prod", []),  # a session may bring any tag, not any name
        ("sentiment-dev-release", "*", []),
        ("sentiment-dev-release", None, []),
    ],
)
def test_roles_under_the_boundary_reach_the_state_and_key_in_their_name_and_tag(
    role: str, tag: str | None, reached: list[str], policies: Policies
):
    who = {"aws:PrincipalArn": ROLE + role} | ({"aws:PrincipalTag/stack": tag} if tag else {})
    paths = [*OWN_STATE, "releases/{}.json"]

    for path in paths:
        assert [
            e for e in ENVIRONMENTS if allowed(policies["boundary"], "s3:PutObject", f"{STATE}/{path.format(e)}", who)
        ] == reached
    keys = {e: who | {"kms:ResourceAliases": f"alias/sentiment-{e}"} for e in ENVIRONMENTS}
    assert [e for e in ENVIRONMENTS if allowed(policies["boundary"], "kms:Encrypt", KEY, keys[e])] == reached


def test_pointer_versions_never_expire(template: dict[str, Any]):
    rules = template["Resources"]["State"]["Properties"]["LifecycleConfiguration"]["Rules"]

    assert [rule["Prefix"] for rule in rules if any("Expiration" in key for key in rule)] == [".pulumi/"]


def test_state_is_kept_until_someone_empties_the_bucket(cloud: boto3.Session):
    """Last, since it deletes what other tests read."""
    cloud.client("s3").put_object(Bucket=BUCKET, Key="releases/dev.json", Body=b"{}")
    cloud.client("cloudformation").delete_stack(StackName="sentiment-bootstrap")
    assert [b["Name"] for b in cloud.client("s3").list_buckets()["Buckets"]] == [BUCKET]
