"""The table of public addresses against every special one, and against Python's own."""

from __future__ import annotations

import ipaddress
import random

import pytest

from minicpmv.serving.requests.public_addresses import GLOBAL_UNICAST, SPECIAL_IPV4, SPECIAL_IPV6, is_public

# Every row of IANA's two registries and of its table of IPv6, and what older systems still translate, typed from there.
REGISTERED = [
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.9/32",
    "192.0.0.10/32",
    "192.0.0.170/32",
    "192.0.0.171/32",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.88.99.2/32",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::1/128",
    "::/128",
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "200::/7",
    "400::/6",
    "800::/5",
    "1000::/4",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3ffe::/16",
    "3fff::/20",
    "4000::/3",
    "5f00::/16",
    "6000::/3",
    "8000::/3",
    "a000::/3",
    "c000::/3",
    "e000::/4",
    "f000::/5",
    "f800::/6",
    "fc00::/7",
    "fe00::/9",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]

PRIVATE_IPV4 = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "172.31.255.255")


@pytest.mark.parametrize("network", REGISTERED)
def test_no_special_address_is_public(network: str) -> None:
    special = ipaddress.ip_network(network)
    drawn = random.Random(network)
    places = {0, special.num_addresses - 1, *(drawn.randrange(special.num_addresses) for _ in range(20))}
    for address in (str(special[place]) for place in places):
        assert not is_public(address), address
        if special.version == 6:
            assert not is_public(f"{address}%eth0")


@pytest.mark.parametrize("hidden", PRIVATE_IPV4)
@pytest.mark.parametrize("written", ["::{}", "::ffff:{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}"])
def test_a_private_address_inside_another_is_not_public(written: str, hidden: str) -> None:
    assert not is_public(written.format(hidden))


@pytest.mark.parametrize("hidden", PRIVATE_IPV4)
def test_a_private_address_inside_a_tunnel_is_not_public(hidden: str) -> None:
    number = int(ipaddress.IPv4Address(hidden))
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)
    teredo = ipaddress.IPv6Address((0x20010000 << 96) | (0x41000000 << 64) | (number ^ 0xFFFFFFFF))
    assert not is_public(str(sixtofour))
    assert not is_public(str(teredo))


@pytest.mark.parametrize("network", [*SPECIAL_IPV4, *SPECIAL_IPV6])
def test_what_lies_before_and_behind_a_special_range_is_as_it_is_without_it(network: str) -> None:
    """A range that is written too wide would take away public neighbours."""
    special = ipaddress.ip_network(network)
    others = [ipaddress.ip_network(other) for other in (*SPECIAL_IPV4, *SPECIAL_IPV6) if other != network]
    wide = "0.0.0.0/0" if special.version == 4 else GLOBAL_UNICAST
    for number in (int(special[0]) - 1, int(special[-1]) + 1):
        if not 0 <= number < 2**special.max_prefixlen:
            continue
        neighbour = ipaddress.IPv4Address(number) if special.version == 4 else ipaddress.IPv6Address(number)
        expected = neighbour in ipaddress.ip_network(wide) and not any(neighbour in other for other in others)
        assert is_public(str(neighbour)) is expected, neighbour


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "93.184.215.14",
        "172.15.0.1",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        "2001:200::1",
        "2606:2800:21f:cb07:6820:80da:af6b:8b2c",
        "2a00:1450:4001::200e",
        "2003::1",
        "2620:4f:8001::1",
    ],
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_nothing_is_public_that_python_calls_private() -> None:
    drawn = random.Random(0)
    addresses = [ipaddress.IPv4Address(drawn.getrandbits(32)) for _ in range(20_000)]
    for address in addresses:
        if is_public(str(address)):
            assert address.is_global, address
            assert not address.is_multicast, address
