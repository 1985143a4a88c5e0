"""One stack, as a picture: what there is, and what leans on what. Decides nothing by itself."""

import pulumi
import pulumi_kubernetes as kubernetes

from infra.cloud.ground import lay
from infra.cloud.storage import PORT as POSTGRES
from infra.facts import POD_IDENTITY, SERVICES_CIDR
from infra.settings import Aws, StackSettings
from infra.workloads.pods import to_block, to_dns
from infra.workloads.tracking import Stores, Tracking, TrackingArgs


def build(settings: StackSettings) -> None:
    """Everything of a stack."""
    if settings.aws:
        cluster, stores = _on_aws(settings, settings.aws)
    else:
        cluster, stores = kubernetes.Provider("cluster", enable_server_side_apply=True), None  # kubectl's context
    inside = pulumi.ResourceOptions(providers=[cluster])
    if settings.tracking.enabled:
        Tracking("tracking", TrackingArgs(settings=settings.tracking, stores=stores), inside)


def _on_aws(settings: StackSettings, where: Aws) -> tuple[kubernetes.Provider, Stores | None]:
    """The ground that AWS gives: a cluster, and the stores of an MLflow server where there is one."""
    ground = lay(settings, where)
    if not ground.storage:
        return ground.cluster, None
    reaches = [
        to_dns(SERVICES_CIDR),
        to_block(settings.network.cidr, POSTGRES),
        to_block(POD_IDENTITY, 80),
        to_block("0.0.0.0/0", 443),  # S3 has addresses all over
    ]
    return ground.cluster, Stores(
        database_host=ground.storage.database_host,
        database_password=ground.storage.database_password,
        database_tls=True,
        artifacts=pulumi.Output.format("s3://{0}", ground.storage.bucket),
        region=where.region,
        reaches=reaches,
        after=[ground.storage.identity],
    )
