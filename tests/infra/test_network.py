"""Subnet arithmetic: pure, so tested by its properties."""

import ipaddress
import itertools

import pytest

from infra.cloud.network import subnets

VPCS = ["10.0.0.0/16", "10.200.0.0/17", "172.16.0.0/18", "192.168.0.0/19"]


@pytest.mark.parametrize("zones", [2, 3])
@pytest.mark.parametrize("cidr", VPCS)
def test_subnets_lie_within_the_vpc_and_never_overlap(cidr: str, zones: int):
    nets = subnets(cidr, zones)
    every = [ipaddress.IPv4Network(net) for net in nets.public + nets.private]

    assert (len(nets.public), len(nets.private)) == (zones, zones)
    assert all(net.subnet_of(ipaddress.IPv4Network(cidr)) for net in every)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(every, 2))


@pytest.mark.parametrize("cidr", VPCS)
def test_even_the_smallest_public_subnet_holds_a_load_balancer(cidr: str):
    """AWS wants a /27 at least."""
    assert min(ipaddress.IPv4Network(net).num_addresses for net in subnets(cidr, 3).public) >= 32


def test_a_third_zone_moves_none_of_the_first_two():
    two, three = subnets("10.0.0.0/16", 2), subnets("10.0.0.0/16", 3)

    assert (three.public[:2], three.private[:2]) == (two.public, two.private)


def test_the_example_in_its_docstring():
    nets = subnets("10.0.0.0/16", 2)

    assert nets.private == ("10.0.32.0/19", "10.0.64.0/19")
    assert nets.public == ("10.0.0.0/24", "10.0.1.0/24")
