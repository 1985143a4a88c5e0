"""The four environments, built as `pulumi up` builds them, once a session each."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitor import Graph, run

ROOT = Path(__file__).parent.parent.parent
ACCOUNT, REGION = "123456789012", "eu-west-1"
FILES = {
    "local": ROOT / "infra/stacks/Pulumi.local.yaml",
    "dev": ROOT / "Pulumi.dev.yaml",
    "staging": ROOT / "infra/stacks/Pulumi.staging.yaml",
    "prod": ROOT / "infra/stacks/Pulumi.prod.yaml",
}
OWNERS = {  # what only an owner knows
    "aws": {"region": REGION, "admin_role": f"arn:aws:iam::{ACCOUNT}:role/admin"},
    "github": {"repository": "acme/reviews", "owner_id": "41", "repository_id": "42"},
    "budget": {"email": "ml@acme.example"},
}
ANSWERS = {
    "aws:index/getAvailabilityZones:getAvailabilityZones": {
        "names": ["eu-west-1c", "eu-west-1a", "eu-west-1b"],  # in no order, as AWS gives them
        "id": REGION,
    },
    "organization/sentiment/dev": {"image_repository": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/sentiment"},
}


def config_of(stack: str, **changes: Mapping[str, Any]) -> dict[str, Any]:
    """A stack's own file, with the placeholders filled in and sections changed."""
    config: dict[str, Any] = yaml.safe_load(FILES[stack].read_text())["config"]
    for section, values in [*OWNERS.items(), *changes.items()]:
        key = f"sentiment:{section}"
        if key in config or section in changes:
            config[key] = {**config.get(key, {}), **values} if isinstance(values, Mapping) else values
    return config


def outputs_of(kind: str, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What AWS would answer: the attributes that the program reads."""
    own = inputs.get("name", name)
    known: dict[str, dict[str, Any]] = {
        "aws:iam/role:Role": {"arn": f"arn:aws:iam::{ACCOUNT}:role/{own}"},
        "aws:kms/key:Key": {"arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{name}"},
        "aws:rds/instance:Instance": {"address": f"{inputs.get('identifier')}.rds.example"},
        "aws:ecr/repository:Repository": {"repositoryUrl": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{own}"},
        "random:index/randomPassword:RandomPassword": {"result": "x" * 32},
        "random:index/randomId:RandomId": {"hex": "0badcafe"},
        "aws:eks/cluster:Cluster": {
            "endpoint": "https://cluster.example",
            "certificateAuthority": {"data": "Y2E="},
            "vpcConfig": {**inputs.get("vpcConfig", {}), "clusterSecurityGroupId": "sg-cluster"},
        },
    }
    return known.get(kind, {})


@functools.cache
def _built(stack: str, *, preview: bool) -> Graph:
    return run(stack, config_of(stack), preview=preview, outputs=outputs_of, answers=ANSWERS)


@pytest.fixture(scope="session")
def built() -> Callable[..., Graph]:
    """The graph of a stack's own file, in an update unless `preview`."""
    return lambda stack, preview=False: _built(stack, preview=preview)


@pytest.fixture(scope="session")
def build() -> Callable[..., Graph]:
    """The graph of a stack with changed sections."""

    def with_changes(stack: str, *, preview: bool = False, **changes: Any) -> Graph:
        return run(stack, config_of(stack, **changes), preview=preview, outputs=outputs_of, answers=ANSWERS)

    return with_changes
