"""Chooses the network interface through which several machines communicate, where gloo would take the wrong one.

gloo binds to the address that the machine's own name resolves to. Debian, Ubuntu and most containers resolve it to
127.0.0.1 or 127.0.1.1, where every machine finds only itself, and the run hangs for half an hour.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping

import psutil

__all__ = ["choose_interface", "complete_group_of_one", "find_interface"]

_ELSEWHERE = "192.0.2.1"
"""Address reserved for documentation, so it is routed by the default route if there is one. Nothing is sent to it."""


def choose_interface() -> None:
    """Set gloo's interface to the one that leads to the first machine, unless the user chose one or runs on one."""
    is_alone = os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE")
    if is_alone or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    found = find_interface(os.environ.get("MASTER_ADDR", "")) or find_interface(_ELSEWHERE)
    if found is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = found


def complete_group_of_one(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what the environment lacks to describe one process that has no others.

    Args:
        variables: The environment, in which some of it may stand.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    whole = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {name: value for name, value in whole.items() if name not in variables}


def find_interface(host: str) -> str | None:
    """Name the interface through which a host is reached; None if there is none, or only the loopback.

    Args:
        host: A name or an address.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # a datagram socket looks up the route and sends nothing
            address = probe.getsockname()[0]
    except OSError:
        return None
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, its in interfaces if any(entry.address == address for entry in its)), None)
