"""Two hosts on one machine: network namespaces, each with an address of its own, joined by a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Host", "can_make_hosts", "two_hosts"]


class Host(NamedTuple):
    """One of them. Both see the same disk and have the same name, which leads to 127.0.0.1 as on many a machine."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Words of a command that runs there."""
        return ["ip", "netns", "exec", self.namespace, *words]


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make them, and take them away with everything that still runs there."""
    hosts = tuple(Host(f"minicpmv-{os.getpid()}-{letter}", f"10.213.0.{n}") for n, letter in enumerate("ab", start=1))
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        first, second = hosts
        _ip(
            "link", "add", "cable", "netns", first.namespace, "type", "veth", "peer", "cable", "netns", second.namespace
        )
        for host in hosts:
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                _ip("-n", host.namespace, "link", "set", device, "up")
        yield first, second
    finally:
        for host in hosts:
            running = subprocess.run(
                ["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=False
            )
            for process in running.stdout.split():
                subprocess.run(["kill", "-KILL", process], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "delete", host.namespace], check=False, capture_output=True)


def can_make_hosts() -> bool:
    """Whether this machine lets us: Linux, with iproute2, as root."""
    if shutil.which("ip") is None:
        return False
    name = f"minicpmv-{os.getpid()}-trial"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return made.returncode == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
