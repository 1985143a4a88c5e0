"""Who may act from GitHub, on what: a role for each kind of work, as narrow as its commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.cloud.environment import OIDC_ISSUER, Environment
from infra.cloud.roles import Role, RoleArgs, Statement, allow, document
from infra.settings import GitHub

MAIN = "refs/heads/main"


def trust(env: Environment, github: GitHub, subject: str, workflows: Sequence[str] = (), ref: str | None = MAIN) -> str:
    """Trust in jobs of one repository, and of `workflows` alone if any are named. Everything is compared whole.

    `subject`: what follows the repository in the token's subject, as `environment:prod-release`. Others may take over a
    name that was given up, never its number: GitHub puts both into the subject.
    """
    owner, name = github.repository.split("/")
    claims: dict[str, Any] = {
        "aud": "sts.amazonaws.com",
        "sub": f"repo:{owner}@{github.owner_id}/{name}@{github.repository_id}:{subject}",
        "repository_id": github.repository_id,
    }
    if ref:
        claims["ref"] = ref
    if workflows:
        claims["job_workflow_ref"] = [f"{github.repository}/.github/workflows/{file}@{MAIN}" for file in workflows]
    return document(
        {
            "Effect": "Allow",
            "Principal": {"Federated": env.oidc_provider},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {f"{OIDC_ISSUER}:{claim}": value for claim, value in claims.items()}},
        }
    )


def reads_state(env: Environment) -> list[Statement]:
    """What `pulumi preview` needs: this stack's state and the registry's, with the keys of both. It takes no lock."""
    stacks = sorted({env.stack, env.registry})
    keys = {"kms:ResourceAliases": [f"alias/{env.project}-{stack}" for stack in stacks]}
    files = [f".pulumi/stacks/{env.project}/{stack}.*" for stack in stacks]
    return [
        allow(["s3:ListBucket"], [env.state_bucket]),
        allow(["s3:GetObject"], [f"{env.state_bucket}/{file}" for file in (".pulumi/meta.yaml", *files)]),
        allow(["kms:Decrypt"], [env.arn("kms", "key/*", "*")], **{"ForAnyValue:StringEquals": keys}),
        allow(["ec2:DescribeAvailabilityZones"], ["*"]),  # the one question that the program asks AWS
    ]


def writes_state(env: Environment) -> list[Statement]:
    """What `pulumi up` needs beyond that: checkpoint, history, backups and locks of this stack and no other."""
    own = f"{env.project}/{env.stack}"
    files = [f"stacks/{own}.*", f"history/{own}/*", f"backups/{own}/*", f"locks/organization/{own}/*"]
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    return [allow(actions, [f"{env.state_bucket}/.pulumi/{file}" for file in files])]


def reads_pointer(env: Environment) -> list[Statement]:
    """The release pointer and its versions, which are the environment's history."""
    key = f"releases/{env.stack}.json"
    return [
        allow(["s3:GetObject", "s3:GetObjectVersion"], [f"{env.state_bucket}/{key}"]),
        allow(["s3:ListBucketVersions"], [env.state_bucket], StringEquals={"s3:prefix": key}),
    ]


def writes_pointer(env: Environment) -> list[Statement]:
    return [allow(["s3:PutObject"], [f"{env.state_bucket}/releases/{env.stack}.json"])]


def reaches_cluster(env: Environment) -> list[Statement]:
    """Find the cluster's address. What a role may do inside is said by the cluster's own rules for its group."""
    return [allow(["eks:DescribeCluster"], [env.cluster])]


def sees_images(env: Environment) -> list[Statement]:
    return [allow(["ecr:BatchGetImage", "ecr:DescribeImages"], [env.image_repository])]


def pushes_images(env: Environment) -> list[Statement]:
    layers = ["BatchCheckLayerAvailability", "CompleteLayerUpload", "InitiateLayerUpload", "UploadLayerPart"]
    return [
        allow(["ecr:GetAuthorizationToken"], ["*"]),  # it is given for no repository in particular
        allow(["ecr:PutImage", *[f"ecr:{word}" for word in layers]], [env.image_repository]),
    ]


def roles(env: Environment, github: GitHub) -> dict[str, tuple[str, list[Statement]]]:
    """Each kind of work, with its trust and its rights.

    observe looks (schedules, reconciling), release moves versions in this environment, produce trains, pushes and
    registers (where the registry is), preview shows a pull request what it would change. The fifth, platform, changes
    the environment itself and is made by the bootstrap.
    """
    kinds = {
        "observe": (
            trust(env, github, f"ref:{MAIN}"),
            [*reaches_cluster(env), *reads_pointer(env), *sees_images(env)],
        ),
        "release": (
            trust(env, github, f"environment:{env.stack}-release", ["_rollout.yml", "rollback.yml"]),
            [
                *[*reaches_cluster(env), *reads_pointer(env), *writes_pointer(env), *sees_images(env)],
                *[*reads_state(env), *writes_state(env)],
            ],
        ),
    }
    if env.registry == env.stack:
        kinds["produce"] = (
            trust(env, github, f"ref:{MAIN}", ["train.yml", "deliver.yml"]),
            [*reaches_cluster(env), *sees_images(env), *pushes_images(env)],
        )
    if github.preview:
        kinds["preview"] = (
            trust(env, github, "pull_request", ref=None),  # a pull request's ref is its own
            [*reaches_cluster(env), *reads_state(env)],
        )
    return kinds


@dataclass(frozen=True, kw_only=True)
class IdentityArgs:
    environment: Environment
    github: GitHub
    cluster_name: pulumi.Output[str]


class Identity(pulumi.ComponentResource):
    """`roles`: ARN of each role by its kind. In the cluster, each is the group `github:KIND` and nothing else."""

    roles: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: IdentityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Identity", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.roles = {}
        for kind, (trusted, statements) in roles(args.environment, args.github).items():
            role = Role(kind, RoleArgs(environment=args.environment, trust=trusted, statements=statements), child)
            aws.eks.AccessEntry(
                kind,
                cluster_name=args.cluster_name,
                principal_arn=role.arn,
                kubernetes_groups=[f"github:{kind}"],
                opts=child,
            )
            self.roles[kind] = role.arn
        self.register_outputs({})
