"""Real links between real namespaces: each process on a network of its own, joined by veth pairs.

Needs ``ip`` and the right to make namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence

HOST = "10.213.0.1"
"""The coordinator's address, inside its own namespace only."""


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def why_not() -> str:
    """Why no namespaces can be made here, in words; empty where they can."""
    if shutil.which("ip") is None:
        return "the program ip (Debian package iproute2) is not installed"
    probe = f"clinode-{uuid.uuid4().hex[:8]}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if done.returncode != 0:
        return f"network namespaces are not permitted here ({done.stderr.strip()})"
    made = subprocess.run(
        ["ip", "-n", probe, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"],
        capture_output=True,
        text=True,
    )
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return "" if made.returncode == 0 else f"veth pairs are not permitted ({made.stderr.strip()})"


class Network:
    """A coordinator's namespace and one per site, each joined to the coordinator's by a veth pair.

    Args:
        sites: names of the sites.
        mbit: speed of each link in Mbit/s, by a token bucket on both ends (tc-tbf(8)); 0 for none.
    """

    def __init__(self, sites: Sequence[str], mbit: int = 0) -> None:
        self._tag = f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.coordinator = self._namespace("c")
        self.sites: dict[str, str] = {}
        self._numbers = {site: number for number, site in enumerate(sites, start=1)}
        _ip("-n", self.coordinator, "address", "add", f"{HOST}/32", "dev", "lo")
        for site, number in self._numbers.items():
            self.sites[site] = self._namespace(f"s{number}")
            self._join(site, number, mbit)

    def _namespace(self, name: str) -> str:
        made = f"clinode-{self._tag}-{name}"
        _ip("netns", "add", made)
        _ip("-n", made, "link", "set", "lo", "up")
        return made

    def _join(self, site: str, number: int, mbit: int) -> None:
        here, there = self.coordinator, self.sites[site]
        link = ("link", "add", f"site{number}", "type", "veth")
        _ip("-n", here, *link, "peer", "name", "up0", "netns", there)
        ends = ((here, f"site{number}", 1), (there, "up0", 2))
        for space, device, last in ends:
            _ip("-n", space, "address", "add", f"10.213.{number}.{last}/24", "dev", device)
            _ip("-n", space, "link", "set", device, "up")
            if mbit:
                rate = ("rate", f"{mbit}mbit", "burst", "64kb", "latency", "400ms")
                subprocess.run(
                    ["tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf", *rate],
                    check=True,
                )
        _ip("-n", there, "route", "add", f"{HOST}/32", "via", f"10.213.{number}.1")

    def down(self, site: str) -> None:
        """Take the link down, as when a VPN drops."""
        _ip("-n", self.coordinator, "link", "set", f"site{self._numbers[site]}", "down")

    def up(self, site: str) -> None:
        """Bring the link back."""
        _ip("-n", self.coordinator, "link", "set", f"site{self._numbers[site]}", "up")

    def carried(self, site: str) -> int:
        """Bytes that passed the link, both ways, with TCP's and Ethernet's share."""
        device = f"site{self._numbers[site]}"
        command = ["ip", "netns", "exec", self.coordinator, "cat"]
        folder = f"/sys/class/net/{device}/statistics"
        done = subprocess.run(
            [*command, f"{folder}/rx_bytes", f"{folder}/tx_bytes"],
            check=True,
            capture_output=True,
            text=True,
        )
        return sum(int(word) for word in done.stdout.split())

    def close(self) -> None:
        """Remove the namespaces; the links go with them."""
        for name in (*self.sites.values(), self.coordinator):
            subprocess.run(["ip", "netns", "del", name], check=False)
