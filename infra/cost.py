"""What a stack costs before it exists: its own settings, times a small table of list prices. Asks nobody.

Amounts that no setting fixes (nodes, requests, logs) are estimates, and marked so.
"""

import json
from typing import NamedTuple

import click

from infra import settings
from infra.facts import ENDPOINTS
from infra.settings import StackSettings

HOURS = 730  # a month, as AWS counts it
PRICES_OF = "2026-11"
# USD, us-east-1, on demand, from AWS's public price lists. An hour of one:
HOURLY = {
    "control plane": 0.10,  # of a Kubernetes version in standard support
    "node": 0.0765 * 1.12,  # c6a.large, typical of what Auto Mode picks, and Auto Mode's fee of about 12 %
    "NAT gateway": 0.045,
    "IPv4": 0.005,
    "endpoint": 0.01,
    "load balancer": 0.0225 + 0.008,  # and one capacity unit: 25 new connections a second, or 1 GB an hour
}
# A month of a key, and of a GiB of the rest. Disks are gp3; logs are paid for when they are taken in.
MONTHLY = {"disk": 0.08, "database storage": 0.115, "key": 1.0, "S3": 0.023, "images": 0.10, "logs": 0.50}
PRICES = HOURLY | {name: usd / HOURS for name, usd in MONTHLY.items()}
BURSTABLE = {"db.t4g.micro": 0.016, "db.t4g.small": 0.032, "db.t4g.medium": 0.065, "db.t4g.large": 0.129}
DATABASES = BURSTABLE | {"db.m7g.large": 0.168, "db.m7g.xlarge": 0.337, "db.m7g.2xlarge": 0.674}
NODE_GIB, MONITORING_GIB, USED_GIB = 80, 20, 5  # the first is Auto Mode's default, the others are estimates
CHEAPER = {
    "network.nat": "single",
    "tracking.database_standby": False,
    "tracking.database_class": min(DATABASES, key=DATABASES.__getitem__),
    "cluster.system_pool": False,
}


class Line(NamedTuple):
    item: str
    quantity: float
    hourly: float | None  # USD; None: not in the table


def price(stack: StackSettings, nodes: int | None = None) -> list[Line]:
    """What the stack is made of, nothing without a cloud half. `nodes` run the workloads: one a zone, or as said."""
    zones, tracking = stack.network.zones, stack.tracking
    nodes = (nodes or zones) + stack.cluster.system_pool  # a pool of their own gives add-ons a node of their own
    nats = {"none": 0, "single": 1, "per-zone": zones}[stack.network.nat]
    databases = tracking.enabled * (1 + tracking.database_standby)
    amounts = [
        ("EKS control plane", 1, PRICES["control plane"]),
        ("nodes (estimate), c6a.large", nodes, PRICES["node"]),
        ("nodes' disks (estimate), GiB", nodes * NODE_GIB, PRICES["disk"]),
        ("NAT gateways, with address", nats, PRICES["NAT gateway"] + PRICES["IPv4"]),
        ("private endpoints", 0 if nats else len(ENDPOINTS) * zones, PRICES["endpoint"]),
        ("load balancer (estimate)", 1, PRICES["load balancer"]),
        ("load balancer's addresses", zones, PRICES["IPv4"]),
        (f"database {tracking.database_class}", databases, DATABASES.get(tracking.database_class)),
        ("database storage, GiB", databases * tracking.database_gib, PRICES["database storage"]),
        ("monitoring's volumes (estimate), GiB", MONITORING_GIB, PRICES["disk"]),
        ("KMS keys", 1 + stack.cluster.secrets_key, PRICES["key"]),
        ("S3 (estimate), GiB", USED_GIB, PRICES["S3"]),
        ("images in ECR (estimate), GiB", tracking.enabled * USED_GIB, PRICES["images"]),
        ("logs taken in (estimate), GiB", USED_GIB, PRICES["logs"]),
    ]
    return [Line(item, n, None if each is None else n * each) for item, n, each in amounts if n and stack.aws]


def total(lines: list[Line]) -> float:
    """USD an hour; at least that, where a price is not known."""
    return sum(line.hourly or 0 for line in lines)


def savings(stack: StackSettings, nodes: int | None = None) -> dict[str, float]:
    """USD an hour that one change of settings saves, all else as it is: the difference of two totals."""
    saved: dict[str, float] = {}
    for key, value in CHEAPER.items():
        name, field = key.split(".")
        section = getattr(stack, name)
        changed = stack.model_copy(update={name: section.model_copy(update={field: value})})
        words = f"{key}: {json.dumps(getattr(section, field))} -> {json.dumps(value)}"
        saved[words] = total(price(stack, nodes)) - total(price(changed, nodes))
    return {words: usd for words, usd in saved.items() if usd > 0}


@click.command("cost")
@click.option("--stack", "name", default="dev", help="the stack, as in Pulumi.<stack>.yaml")
@click.option("--nodes", type=click.IntRange(1), show_default="one a zone", help="nodes that run the workloads")
@click.option("--json", "as_json", is_flag=True, help="report as one line of JSON, the last one printed")
def command(*, name: str, nodes: int | None, as_json: bool) -> None:
    """What a stack costs a month, line by line, and what would lower it."""
    stack = settings.read(name, settings.ROOT, unfinished=True)
    lines, lower = price(stack, nodes), savings(stack, nodes)
    usd, at_least = total(lines), None in [line.hourly for line in lines]
    if as_json:
        each = [{**line._asdict(), "monthly": line.hourly and round(line.hourly * HOURS, 2)} for line in lines]
        less = [{"change": words, "monthly": round(saved * HOURS, 2)} for words, saved in lower.items()]
        sums = {"prices_of": PRICES_OF, "hourly": usd, "monthly": round(usd * HOURS, 2), "at_least": at_least}
        click.echo(json.dumps({**sums, "lines": each, "savings": less}))
    elif lines:
        click.echo(f"Approximate: USD list prices of us-east-1, {PRICES_OF}; other regions differ by up to about 20 %.")
        click.echo(f"Traffic is not counted; --nodes says how many nodes.\n\n{name:36}amount   an hour   a month")
        for item, n, hourly in [*lines, Line("at least" if at_least else "together", 0, usd)]:
            prices = "  price unknown" if hourly is None else f"{hourly:10.4f}{hourly * HOURS:10.2f}"
            click.echo(f"{item:36}{n or '':6}{prices}")
        click.echo("\nWhat would lower it, USD a month, each by itself:" if lower else "\nNo setting would lower it.")
        for words, saved in lower.items():
            click.echo(f"{saved * HOURS:8.2f}  {words}")
    else:
        click.echo(f"{name} has no aws section: nothing of it runs on AWS, so it costs nothing there")
