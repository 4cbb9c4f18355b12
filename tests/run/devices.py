"""A machine that shows other devices than this one, and little shared memory: in a mount namespace of its own."""

from __future__ import annotations

import shutil
import subprocess

__all__ = ["can_show_devices", "showing"]

# The command runs as the namespace's root, with real files in place of the system's.
_LAY = """
set -e
mount -t tmpfs none /media
mkdir -p /media/dev/shm
for name in null zero full urandom random tty; do
    touch "/media/dev/$name"
    mount --bind "/dev/$name" "/media/dev/$name"
done
ln -s /proc/self/fd /media/dev/fd
for number in $(seq "$1"); do touch "/media/dev/nvidia$((number - 1))"; done
mount --rbind /media/dev /dev
mount -t tmpfs -o "size=$3" none /dev/shm
if [ -n "$2" ]; then
    mount -t tmpfs none /proc/driver
    mkdir /proc/driver/nvidia
    echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  $2  Tue Mar  5 22:23:56 UTC 2024" >/proc/driver/nvidia/version
fi
shift 3
exec "$@"
"""


def showing(*command: str, cards: int = 0, driver: str = "", shared: str = "1g") -> list[str]:
    """Return the words of a command that finds these devices.

    Args:
        command: To run there.
        cards: NVIDIA's, which nothing can use: there is a file for each, and no driver behind it.
        driver: Version that the system says.
        shared: Size of ``/dev/shm``, as ``mount`` takes it.
    """
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", _LAY, "sh", str(cards), driver, shared, *command]


def can_show_devices() -> bool:
    """Whether this machine lets us: Linux, with user namespaces."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(showing("true", driver="1.2"), check=False, capture_output=True).returncode == 0
