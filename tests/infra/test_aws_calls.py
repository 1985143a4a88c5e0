"""What the settings of storage and images mean to AWS: the calls that they imply, made to an AWS on loopback."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import REGION
from monitor import Graph
from moto import mock_aws

Built = Callable[..., Graph]


@pytest.fixture
def client() -> Iterator[Callable[[str], Any]]:
    with mock_aws():
        yield lambda service: boto3.client(service, region_name=REGION)


def as_words(inputs: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """A resource's inputs under the names that the call has for them."""
    return {call: inputs[ours] for ours, call in words.items()}


def test_an_image_never_changes_under_its_tag(client: Callable[[str], Any], built: Built):
    ecr, repository = client("ecr"), built("dev").one("ecr/repository:Repository").inputs
    ecr.create_repository(
        repositoryName=repository["name"],
        imageTagMutability=repository["imageTagMutability"],
        imageScanningConfiguration=repository["imageScanningConfiguration"],
    )
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": "sha256:0"}

    def push(size: int) -> None:
        text = json.dumps({**manifest, "config": {**config, "size": size}})
        ecr.put_image(
            repositoryName=repository["name"],
            imageManifest=text,
            imageTag="v7-0123456789ab",
            imageDigest=f"sha256:{size:064x}",
        )

    push(1)
    with pytest.raises(ClientError, match="already exists in the repository"):
        push(2)


def test_ecr_takes_the_lifecycle_and_it_reaches_no_tagged_image(client: Callable[[str], Any], built: Built):
    graph = built("dev")
    client("ecr").create_repository(repositoryName="sentiment")

    taken = client("ecr").put_lifecycle_policy(
        repositoryName="sentiment", lifecyclePolicyText=graph.one("LifecyclePolicy").inputs["policy"]
    )

    rules = json.loads(taken["lifecyclePolicyText"])["rules"]
    assert [rule["selection"]["tagStatus"] for rule in rules] == ["untagged"]


def test_s3_takes_the_buckets_rules(client: Callable[[str], Any], built: Built):
    """Overwritten artifacts go after a while, what counts never does."""
    graph, s3 = built("dev"), client("s3")
    name = graph.one("s3/bucket:Bucket").inputs["bucket"]
    (rule,) = graph.one("BucketLifecycleConfiguration").inputs["rules"]
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})

    s3.put_bucket_policy(Bucket=name, Policy=graph.one("BucketPolicy").inputs["policy"])
    s3.put_bucket_lifecycle_configuration(
        Bucket=name,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": rule["id"],
                    "Status": rule["status"],
                    "Filter": {"Prefix": rule["filter"]["prefix"]},
                    "NoncurrentVersionExpiration": {
                        "NoncurrentDays": rule["noncurrentVersionExpiration"]["noncurrentDays"]
                    },
                }
            ]
        },
    )

    (kept,) = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert kept["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    assert "expiration" not in rule


def test_rds_takes_the_database_and_lets_go_of_it_only_with_protection_off(
    client: Callable[[str], Any], built: Built, build: Built
):
    words = {
        "identifier": "DBInstanceIdentifier",
        "engine": "Engine",
        "engineVersion": "EngineVersion",
        "instanceClass": "DBInstanceClass",
        "allocatedStorage": "AllocatedStorage",
        "maxAllocatedStorage": "MaxAllocatedStorage",
        "storageType": "StorageType",
        "storageEncrypted": "StorageEncrypted",
        "dbName": "DBName",
        "username": "MasterUsername",
        "password": "MasterUserPassword",
        "port": "Port",
        "publiclyAccessible": "PubliclyAccessible",
        "multiAz": "MultiAZ",
        "backupRetentionPeriod": "BackupRetentionPeriod",
        "deletionProtection": "DeletionProtection",
        "copyTagsToSnapshot": "CopyTagsToSnapshot",
    }
    rds = client("rds")
    protected = build("dev", protect=True, github={"preview": False}).one("rds/instance:Instance").inputs
    rds.create_db_instance(**as_words(protected, words))
    name = {"DBInstanceIdentifier": "sentiment-dev"}

    with pytest.raises(ClientError, match="deletion protection"):
        rds.delete_db_instance(**name, SkipFinalSnapshot=True)
    rds.modify_db_instance(
        **name, DeletionProtection=built("dev").one("rds/instance:Instance").inputs["deletionProtection"]
    )
    last = rds.delete_db_instance(**name, FinalDBSnapshotIdentifier=protected["finalSnapshotIdentifier"])

    assert last["DBInstance"]["StorageEncrypted"] is True
    assert [s["DBSnapshotIdentifier"] for s in rds.describe_db_snapshots()["DBSnapshots"]] == [
        "sentiment-dev-final-0badcafe"
    ]
