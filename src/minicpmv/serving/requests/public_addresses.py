"""Decides which IP addresses belong to the public internet, by its own table.

Python's ``is_global`` follows the registries of the day on which that Python was released, so 3.10 and 3.13 differ, and
it counts as public what a gateway may translate into a private IPv4 address. The tables are IANA's, as of November
2025: every entry is refused, whatever the registry says about its reach, because no picture is served at a special
address.

- IPv4: https://www.iana.org/assignments/iana-ipv4-special-registry (RFC 6890), and multicast (RFC 5771).
- IPv6: https://www.iana.org/assignments/ipv6-address-space has one block of public addresses, 2000::/3. Within it,
  https://www.iana.org/assignments/iana-ipv6-special-registry.

A network that translates IPv6 into IPv4 under a prefix of its own within 2000::/3 cannot be recognised here.
"""

from __future__ import annotations

import ipaddress

__all__ = ["GLOBAL_UNICAST", "SPECIAL_IPV4", "SPECIAL_IPV6", "is_public"]

SPECIAL_IPV4 = {
    "0.0.0.0/8": "this network, RFC 791",
    "10.0.0.0/8": "private, RFC 1918",
    "100.64.0.0/10": "shared by a provider's customers, RFC 6598",
    "127.0.0.0/8": "this machine, RFC 1122",
    "169.254.0.0/16": "link-local, where clouds keep their machines' keys, RFC 3927",
    "172.16.0.0/12": "private, RFC 1918",
    "192.0.0.0/24": "protocol assignments: DS-Lite, NAT64 discovery and others, RFC 6890",
    "192.0.2.0/24": "documentation, RFC 5737",
    "192.31.196.0/24": "AS112, RFC 7535",
    "192.52.193.0/24": "multicast tunnels, RFC 7450",
    "192.88.99.0/24": "6to4 relays, RFC 7526",
    "192.168.0.0/16": "private, RFC 1918",
    "192.175.48.0/24": "AS112, RFC 7534",
    "198.18.0.0/15": "benchmarks, RFC 2544",
    "198.51.100.0/24": "documentation, RFC 5737",
    "203.0.113.0/24": "documentation, RFC 5737",
    "224.0.0.0/4": "multicast, RFC 5771",
    "240.0.0.0/4": "reserved, and broadcast, RFC 1112",
}
GLOBAL_UNICAST = "2000::/3"
"""The only public block. Outside it are IPv4 in IPv6 (``::/96``, ``::ffff:0:0/96``, ``64:ff9b::/96``,
``64:ff9b:1::/48``), discard (``100::/64``), SRv6 (``5f00::/16``), local addresses (``fc00::/7``, ``fe80::/10``,
``fec0::/10``) and multicast."""
SPECIAL_IPV6 = {
    "2001::/23": "protocol assignments: Teredo, which holds an IPv4 address, benchmarks, ORCHID and others, RFC 2928",
    "2001:db8::/32": "documentation, RFC 3849",
    "2002::/16": "6to4, which holds an IPv4 address, RFC 3056",
    "2620:4f:8000::/48": "AS112, RFC 7534",
    "3ffe::/16": "6bone, given back, RFC 3701",
    "3fff::/20": "documentation, RFC 9637",
}

_SPECIAL = [ipaddress.ip_network(network) for network in (*SPECIAL_IPV4, *SPECIAL_IPV6)]
_GLOBAL_UNICAST = ipaddress.ip_network(GLOBAL_UNICAST)


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    Args:
        address: As ``getaddrinfo`` writes it, a scope (``%eth0``) included.

    Raises:
        ValueError: It is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    return not any(ip in network for network in _SPECIAL)
