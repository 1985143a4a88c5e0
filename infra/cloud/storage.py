"""What the MLflow server keeps: runs and versions in Postgres, artifacts in S3. Knows nothing of the server itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
import pulumi_random as random

from infra.cloud.environment import Environment
from infra.cloud.roles import Role, RoleArgs, allow, document, service_trust
from infra.settings import Tracking as Settings
from infra.workloads.names import TRACKING

PORT = 5432


@dataclass(frozen=True, kw_only=True)
class StorageArgs:
    """`client_security_group_id`: whose pods may reach the database."""

    environment: Environment
    vpc_id: pulumi.Output[str]
    subnet_ids: Sequence[pulumi.Output[str]]
    client_security_group_id: pulumi.Output[str]
    cluster_name: pulumi.Output[str]
    settings: Settings


class Storage(pulumi.ComponentResource):
    """`identity` gives the server's pods their right to the bucket: pods that start before it never get it."""

    bucket: pulumi.Output[str]
    database_host: pulumi.Output[str]
    database_password: pulumi.Output[str]
    identity: pulumi.Resource

    def __init__(self, name: str, args: StorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Storage", name, {}, opts)
        self._database(args)
        self._artifacts(args)
        self.register_outputs({})

    def _database(self, args: StorageArgs) -> None:
        child = pulumi.ResourceOptions(parent=self)
        env, settings = args.environment, args.settings
        # Kept in the stack's encrypted state. RDS could rotate a password of its own, but MLflow reads it only once.
        password = random.RandomPassword("database", length=32, special=False, opts=child)
        suffix = random.RandomId("final-snapshot", byte_length=4, opts=child)  # a snapshot's name is taken for ever
        subnets = aws.rds.SubnetGroup("database", name=env.name, subnet_ids=list(args.subnet_ids), opts=child)
        group = aws.ec2.SecurityGroup(
            "database", vpc_id=args.vpc_id, description=f"PostgreSQL of {env.name}", opts=child
        )
        aws.vpc.SecurityGroupIngressRule(
            "database",
            security_group_id=group.id,
            referenced_security_group_id=args.client_security_group_id,
            ip_protocol="tcp",
            from_port=PORT,
            to_port=PORT,
            opts=child,
        )
        database = aws.rds.Instance(
            "database",
            identifier=env.name,
            engine="postgres",
            engine_version="17",
            engine_lifecycle_support="open-source-rds-extended-support-disabled",
            instance_class=settings.database_class,
            allocated_storage=settings.database_gib,
            max_allocated_storage=5 * settings.database_gib,
            storage_type="gp3",
            storage_encrypted=True,
            db_name="mlflow",
            username="mlflow",
            password=password.result,
            port=PORT,
            db_subnet_group_name=subnets.name,
            vpc_security_group_ids=[group.id],
            publicly_accessible=False,
            multi_az=settings.database_standby,
            backup_retention_period=settings.backup_days,
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            apply_immediately=True,  # who runs `up` means now, not the next maintenance window
            deletion_protection=env.protect,
            skip_final_snapshot=not settings.final_snapshot,
            final_snapshot_identifier=pulumi.Output.format("{0}-final-{1}", env.name, suffix.hex),
            opts=pulumi.ResourceOptions(parent=self, protect=env.protect),
        )
        self.database_host = database.address
        self.database_password = password.result

    def _artifacts(self, args: StorageArgs) -> None:
        child = pulumi.ResourceOptions(parent=self)
        env = args.environment
        name = f"{env.name}-artifacts-{env.account}"  # the names of buckets are everybody's: the account makes it ours
        arn = f"arn:{env.partition}:s3:::{name}"
        bucket = aws.s3.Bucket(
            "artifacts",
            bucket=name,
            force_destroy=not env.protect,
            opts=pulumi.ResourceOptions(parent=self, protect=env.protect),
        )
        closed = aws.s3.BucketPublicAccessBlock(
            "artifacts",
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=child,
        )
        aws.s3.BucketOwnershipControls(
            "artifacts",
            bucket=bucket.id,
            rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
            opts=child,
        )
        versions = aws.s3.BucketVersioning(
            "artifacts",
            bucket=bucket.id,
            versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
            opts=child,
        )
        by_default = aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
            sse_algorithm="AES256"
        )
        aws.s3.BucketServerSideEncryptionConfiguration(
            "artifacts",
            bucket=bucket.id,
            rules=[
                aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
                    apply_server_side_encryption_by_default=by_default
                )
            ],
            opts=child,
        )
        aws.s3.BucketLifecycleConfiguration(
            "artifacts",
            bucket=versions.bucket,
            rules=[
                aws.s3.BucketLifecycleConfigurationRuleArgs(
                    id="overwritten-and-broken-off",
                    status="Enabled",
                    filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
                    noncurrent_version_expiration=aws.s3.BucketLifecycleConfigurationRuleNoncurrentVersionExpirationArgs(
                        noncurrent_days=90
                    ),
                    abort_incomplete_multipart_upload=aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                        days_after_initiation=7
                    ),
                )
            ],
            opts=child,
        )
        aws.s3.BucketPolicy(
            "artifacts",
            bucket=closed.bucket,
            policy=document(
                {
                    "Sid": "OnlyEncryptedConnections",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [arn, f"{arn}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ),
            opts=child,
        )
        role = Role(
            "tracking",
            RoleArgs(
                environment=env,
                trust=service_trust("pods.eks.amazonaws.com", tags_sessions=True),
                statements=[
                    allow(["s3:ListBucket", "s3:GetBucketLocation"], [arn]),
                    allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], [f"{arn}/*"]),
                ],
            ),
            child,
        )
        self.identity = aws.eks.PodIdentityAssociation(
            "tracking",
            cluster_name=args.cluster_name,
            namespace=TRACKING,
            service_account=TRACKING,
            role_arn=role.arn,
            opts=pulumi.ResourceOptions(parent=self, depends_on=role.granted),
        )
        self.bucket = bucket.bucket
