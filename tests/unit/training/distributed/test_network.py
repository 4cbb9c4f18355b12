from __future__ import annotations

import os
import socket

import psutil
import pytest

from minicpmv.training.distributed.network import choose_interface, find_interface

_OURS = [
    (name, entry.address)
    for name, entries in psutil.net_if_addrs().items()
    for entry in entries
    if entry.family == socket.AF_INET and not entry.address.startswith("127.")
]


def test_loopback_and_unknown_hosts_lead_nowhere() -> None:
    assert find_interface("127.0.0.1") is None
    assert find_interface("localhost") is None
    assert find_interface("no-such-host.invalid") is None


@pytest.mark.skipif(not _OURS, reason="needs a network interface")
def test_a_host_s_own_address_leads_to_the_interface_that_has_it() -> None:
    name, address = _OURS[0]
    assert find_interface(address) == name


@pytest.mark.skipif(not _OURS, reason="needs a network interface")
@pytest.mark.parametrize(
    ("world", "here", "given", "chosen"),
    [("2", "1", None, _OURS[0][0] if _OURS else ""), ("2", "2", None, None), ("2", "1", "eth7", "eth7")],
    ids=["two machines", "one machine", "the user has chosen"],
)
def test_interface_is_chosen_for_several_machines_only(
    world: str, here: str, given: str | None, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": here, "MASTER_ADDR": _OURS[0][1]}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", given or "")  # so that it is as it was afterwards, whatever is set here
    if given is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == chosen
