"""What the trainer does to itself first: bind its life to the node's and leave the network.

Linux only where it matters; elsewhere each step reports why it was not possible. The functions
must run before any thread is started: unshare(2) with CLONE_NEWUSER refuses otherwise.
"""

import ctypes
import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""prctl(2): signal that the kernel sends when the parent thread ends."""
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True, slots=True)
class Isolation:
    """How far the process could be cut off.

    Attributes:
        network: ``isolated``: a network namespace of its own without any interface that is up;
            ``open``: it shares the host's network.
        reason: Why it is open, or how it was isolated, in words.
        dies_with_parent: Whether the kernel ends it with the node.
    """

    network: str
    reason: str
    dies_with_parent: bool


def isolate(parent: int) -> Isolation:
    """Bind this process to its parent and enter an empty network namespace.

    Args:
        parent: Process id of the node that started it; 0 to skip the check.

    Raises:
        SystemExit: when the parent has ended already.
    """
    bound = die_with_parent(parent)
    network, reason = leave_network()
    return Isolation(network, reason, bound)


def die_with_parent(parent: int) -> bool:
    """Ask for SIGKILL at the parent's end (prctl(2)); end at once when it is gone already.

    Returns:
        Whether the kernel accepted it.
    """
    try:
        answer: int = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        accepted = answer == 0
    except (OSError, AttributeError):
        accepted = False
    if parent and os.getppid() != parent:
        raise SystemExit("the trainer's parent has ended")
    return accepted


def leave_network() -> tuple[str, str]:
    """Enter a new network namespace: directly, or through a new user namespace.

    Returns:
        ``("isolated", how)`` or ``("open", why not)``.
    """
    failure = _unshare(CLONE_NEWNET)
    if failure == 0:
        return "isolated", "own network namespace"
    user, group = os.getuid(), os.getgid()
    failure = _unshare(CLONE_NEWUSER | CLONE_NEWNET)
    if failure != 0:
        return "open", f"the kernel refused a network namespace: {os.strerror(failure)}"
    mapped = _map_identity(user, group)
    return "isolated", "own user and network namespace" + ("" if mapped else ", identity unmapped")


def _unshare(flags: int) -> int:
    """unshare(2); returns 0 or the error number."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(flags) == 0:
            return 0
    except (OSError, AttributeError):
        return errno.ENOSYS
    return ctypes.get_errno() or errno.EPERM


def _map_identity(user: int, group: int) -> bool:
    """Keep the user and group ids inside a new user namespace (user_namespaces(7))."""
    process = Path("/proc/self")
    try:
        (process / "setgroups").write_text("deny")
        (process / "uid_map").write_text(f"{user} {user} 1")
        (process / "gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return False
    return True


def interfaces() -> tuple[str, ...]:
    """Network interfaces that this process can see, except loopback."""
    try:
        lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    except OSError:
        return ()
    names = (line.partition(":")[0].strip() for line in lines)
    return tuple(name for name in names if name != "lo")
