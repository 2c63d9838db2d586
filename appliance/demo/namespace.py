"""A network of its own for the demonstration, where the system permits it.

Debian's Orthanc listens on every interface; in a network namespace that holds only loopback
nobody outside this machine can reach the demonstration's servers (network_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
_LISTENING: Final = range(20_000, 32_000)
"""Below the ports of outgoing connections (Linux, ip_local_port_range: 32768 and more)."""
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def enter_private_network() -> str | None:
    """Move this process, and all that it starts, into a network namespace with loopback only.

    Root does so directly; others through a user namespace of their own where the kernel allows
    it. To be called before any thread is started.

    Returns:
        None when it is done, otherwise why not, in words.
    """
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(flags) != 0:
        return f"the system does not permit it ({os.strerror(ctypes.get_errno())})"
    try:
        if flags & CLONE_NEWUSER:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
        _loopback_up()
    except OSError as error:
        return f"loopback could not be brought up ({error.strerror})"
    return None


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(s, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """TCP ports that nobody listens on now, all different.

    None is one that the system gives to outgoing connections: a client that dials a listener while
    that is being restarted could be given the listener's own port, and keep it from coming back.
    """
    found: list[int] = []
    candidates = iter(random.SystemRandom().sample(_LISTENING, len(_LISTENING)))
    while len(found) < count:
        port = next(candidates)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s, suppress(OSError):
            s.bind((host, port))
            found.append(port)
    return found
