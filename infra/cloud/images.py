"""The one image repository of all environments. Knows nothing of what is in an image."""

import json
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from infra.cloud.environment import Environment

UNTAGGED_DAYS = 14


def lifecycle() -> dict[str, Any]:
    """Expire what bears no tag: layers of a push that broke off, and what `sentiment retire` took the tag from.

    A version's image bears its tag from the push until it is retired, tags are immutable, and retiring spares whatever
    is served or can be rolled back to: no rule here reaches those, however old they are.
    """
    untagged = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days"}
    rule = {"selection": {**untagged, "countNumber": UNTAGGED_DAYS}, "action": {"type": "expire"}}
    return {"rules": [{"rulePriority": 1, "description": f"untagged for {UNTAGGED_DAYS} days", **rule}]}


@dataclass(frozen=True, kw_only=True)
class ImagesArgs:
    environment: Environment


class Images(pulumi.ComponentResource):
    """`repository`: where images are pushed, ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME."""

    repository: pulumi.Output[str]

    def __init__(self, name: str, args: ImagesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Images", name, {}, opts)
        repository = aws.ecr.Repository(
            "service",
            name=args.environment.project,
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(scan_on_push=True),
            encryption_configurations=[aws.ecr.RepositoryEncryptionConfigurationArgs(encryption_type="AES256")],
            force_delete=not args.environment.protect,
            opts=pulumi.ResourceOptions(parent=self, protect=args.environment.protect),
        )
        aws.ecr.LifecyclePolicy(
            "service",
            repository=repository.name,
            policy=json.dumps(lifecycle()),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.repository = repository.repository_url
        self.register_outputs({})
