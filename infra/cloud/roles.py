"""IAM roles: who may become one, and what it may do. Knows nothing of who needs one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.cloud.environment import Environment

Statement = dict[str, Any]


def document(*statements: Statement) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: Sequence[str], resources: Sequence[str], **condition: Mapping[str, Any]) -> Statement:
    """A statement that allows; `condition`: operator=keys, such as StringEquals={"aws:PrincipalTag/team": "a"}."""
    statement: Statement = {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return {**statement, "Condition": condition} if condition else statement


def service_trust(service: str, *, tags_sessions: bool = False) -> str:
    """Trust in an AWS service. EKS tags the sessions of its cluster role and of its pods, and fails if it may not."""
    actions = ["sts:AssumeRole", "sts:TagSession"] if tags_sessions else ["sts:AssumeRole"]
    return document({"Effect": "Allow", "Principal": {"Service": service}, "Action": actions})


@dataclass(frozen=True, kw_only=True)
class RoleArgs:
    """`managed`: names of AWS's own policies; `statements`: the role's own."""

    environment: Environment
    trust: str
    managed: Sequence[str] = ()
    statements: Sequence[Statement] = field(default_factory=list[Statement])


class Role(pulumi.ComponentResource):
    """A role under the boundary. Whoever uses its rights at once waits for `granted`."""

    arn: pulumi.Output[str]
    granted: list[pulumi.Resource]

    def __init__(self, name: str, args: RoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Role", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        env = args.environment
        role = aws.iam.Role(
            name,
            name=f"{env.name}-{name}",
            assume_role_policy=args.trust,
            permissions_boundary=env.boundary,
            opts=child,
        )
        self.granted = [
            aws.iam.RolePolicyAttachment(
                f"{name}-{policy}",
                role=role.name,
                policy_arn=f"arn:{env.partition}:iam::aws:policy/{policy}",
                opts=child,
            )
            for policy in args.managed
        ]
        if args.statements:
            policy = document(*args.statements)
            self.granted.append(aws.iam.RolePolicy(name, role=role.name, policy=policy, opts=child))
        self.arn = role.arn
        self.register_outputs({})
