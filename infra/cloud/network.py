"""The VPC: zones, subnets, the way out. Knows nothing of what runs in it."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.cloud.environment import Environment
from infra.facts import ENDPOINTS, UNSUPPORTED_ZONES
from infra.settings import Network as Settings


@dataclass(frozen=True, kw_only=True)
class Subnets:
    """IPv4 networks, one a zone."""

    public: tuple[str, ...]
    private: tuple[str, ...]


def subnets(cidr: str, zones: int) -> Subnets:
    """Divide a VPC: an eighth for each zone's private subnet (every pod has an address), 1/256 for each public one.

    10.0.0.0/16 and two zones give 10.0.32.0/19, 10.0.64.0/19 and 10.0.0.0/24, 10.0.1.0/24. A load balancer wants a /27
    at least, hence a VPC of /19 at least.
    """
    first, *eighths = ipaddress.IPv4Network(cidr).subnets(prefixlen_diff=3)
    return Subnets(
        public=tuple(str(net) for net in list(first.subnets(prefixlen_diff=5))[:zones]),
        private=tuple(str(net) for net in eighths[:zones]),
    )


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    environment: Environment
    settings: Settings


class Network(pulumi.ComponentResource):
    """Private subnets for nodes and the database, public ones for load balancers and NAT gateways.

    Nodes that start before `ready` reach neither AWS nor an image.
    """

    vpc_id: pulumi.Output[str]
    private_subnet_ids: list[pulumi.Output[str]]
    ready: list[pulumi.Resource]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("infra:cloud:Network", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        settings, prefix, region = args.settings, args.environment.name, args.environment.region
        nets = subnets(settings.cidr, settings.zones)
        found = aws.get_availability_zones_output(
            state="available",
            exclude_zone_ids=UNSUPPORTED_ZONES,
            filters=[aws.GetAvailabilityZonesFilterArgs(name="opt-in-status", values=["opt-in-not-required"])],
            opts=pulumi.InvokeOptions(parent=self),
        )
        zones = [found.names.apply(lambda names, i=i: _nth(names, i, region)) for i in range(settings.zones)]

        vpc = aws.ec2.Vpc(
            "vpc",
            cidr_block=settings.cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": prefix},
            opts=child,
        )
        aws.ec2.DefaultSecurityGroup("default", vpc_id=vpc.id, ingress=[], egress=[], opts=child)
        gateway = aws.ec2.InternetGateway("internet", vpc_id=vpc.id, tags={"Name": prefix}, opts=child)
        public_table = aws.ec2.RouteTable("public", vpc_id=vpc.id, tags={"Name": f"{prefix}-public"}, opts=child)
        to_internet = aws.ec2.Route(
            "public",
            route_table_id=public_table.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=gateway.id,
            opts=child,
        )

        def subnet(kind: str, role: str, i: int, cidr: str) -> aws.ec2.Subnet:
            return aws.ec2.Subnet(
                f"{kind}-{i}",
                vpc_id=vpc.id,
                availability_zone=zones[i],
                cidr_block=cidr,
                tags={"Name": f"{prefix}-{kind}-{i}", f"kubernetes.io/role/{role}": "1"},
                # AWS may open a zone whose name sorts before ours: no reason to replace a subnet that is in use
                opts=pulumi.ResourceOptions(parent=self, ignore_changes=["availabilityZone"]),
            )

        gateways: list[aws.ec2.NatGateway] = []
        for i, cidr in enumerate(nets.public):
            public = subnet("public", "elb", i, cidr)
            aws.ec2.RouteTableAssociation(
                f"public-{i}", route_table_id=public_table.id, subnet_id=public.id, opts=child
            )
            if settings.nat == "per-zone" or (settings.nat == "single" and i == 0):
                reachable = pulumi.ResourceOptions(parent=self, depends_on=[to_internet])
                address = aws.ec2.Eip(f"nat-{i}", domain="vpc", tags={"Name": f"{prefix}-nat-{i}"}, opts=reachable)
                gateways.append(
                    aws.ec2.NatGateway(
                        f"nat-{i}",
                        allocation_id=address.id,
                        subnet_id=public.id,
                        tags={"Name": f"{prefix}-{i}"},
                        opts=reachable,
                    )
                )

        self.private_subnet_ids, self.ready = [], []
        tables: list[pulumi.Output[str]] = []
        for i, cidr in enumerate(nets.private):
            private = subnet("private", "internal-elb", i, cidr)
            table = aws.ec2.RouteTable(
                f"private-{i}", vpc_id=vpc.id, tags={"Name": f"{prefix}-private-{i}"}, opts=child
            )
            self.ready.append(
                aws.ec2.RouteTableAssociation(f"private-{i}", route_table_id=table.id, subnet_id=private.id, opts=child)
            )
            if gateways:
                self.ready.append(
                    aws.ec2.Route(
                        f"private-{i}",
                        route_table_id=table.id,
                        destination_cidr_block="0.0.0.0/0",
                        nat_gateway_id=gateways[i % len(gateways)].id,
                        opts=child,
                    )
                )
            tables.append(table.id)
            self.private_subnet_ids.append(private.id)

        aws.ec2.VpcEndpoint(
            "s3",  # free, and image layers come this way
            vpc_id=vpc.id,
            vpc_endpoint_type="Gateway",
            service_name=f"com.amazonaws.{region}.s3",
            route_table_ids=tables,
            opts=child,
        )
        if settings.nat == "none":
            self.ready += _endpoints(self, vpc, args)
        self.vpc_id = vpc.id
        self.register_outputs({})


def _nth(names: Sequence[str], i: int, region: str) -> str:
    if i >= len(names):
        raise pulumi.RunError(f"network.zones is more than {region} offers: {', '.join(names)}")
    return sorted(names)[i]


def _endpoints(network: Network, vpc: aws.ec2.Vpc, args: NetworkArgs) -> list[pulumi.Resource]:
    """Private addresses of AWS's services, in every zone."""
    child = pulumi.ResourceOptions(parent=network)
    group = aws.ec2.SecurityGroup("endpoints", vpc_id=vpc.id, description="HTTPS to AWS services", opts=child)
    aws.vpc.SecurityGroupIngressRule(
        "endpoints",
        security_group_id=group.id,
        cidr_ipv4=args.settings.cidr,
        ip_protocol="tcp",
        from_port=443,
        to_port=443,
        opts=child,
    )
    return [
        aws.ec2.VpcEndpoint(
            service,
            vpc_id=vpc.id,
            vpc_endpoint_type="Interface",
            service_name=f"com.amazonaws.{args.environment.region}.{service}",
            private_dns_enabled=True,
            subnet_ids=network.private_subnet_ids,
            security_group_ids=[group.id],
            opts=child,
        )
        for service in ENDPOINTS
    ]
