"""Opens the address at which a server listens."""

from __future__ import annotations

import ipaddress
import socket

from minicpmv.errors import UsageError

__all__ = ["is_loopback", "listen", "written"]


def listen(host: str, port: int) -> socket.socket:
    """Bind an address, so that one in use is found before a model is loaded.

    Raises:
        UsageError: The address cannot be used.
    """
    if not 0 <= port < 2**16:
        raise UsageError(
            f"--port: found {port}, expected a number from 0 to 65535\n  fix: --port 8000, or 0 for a free one"
        )
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"--host, --port: found {host}:{port} unusable ({error}), expected a free address of this machine\n"
            "  fix: choose another port, or 0 for any; end the process that has this one"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def written(host: str, listening: socket.socket) -> str:
    """Return an address as the beginning of a URL: ``http://127.0.0.1:8000``."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
