"""Private attributes that PS3.15 E.3.10 (Table E.3.10-1) lists as safe: numbers of acquisition.

Only entries whose values are numbers are taken. An element stays where its block's creator, its
offset in the block and its VR are all as listed; the creator is then written anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SAFE: Mapping[tuple[int, str], Mapping[int, frozenset[bytes]]] = MappingProxyType(
    {
        (0x7053, "Philips PET Private Group"): {0x00: frozenset({b"DS"}), 0x09: frozenset({b"DS"})},
        (0x2001, "Philips Imaging DD 001"): {0x03: frozenset({b"FL"})},
        (0x2005, "Philips MR Imaging DD 001"): {
            0x0D: frozenset({b"FL"}),
            0x0E: frozenset({b"FL"}),
        },
        (0x0019, "SIEMENS MR HEADER"): {
            0x0C: frozenset({b"IS"}),
            0x0E: frozenset({b"FD"}),
            0x27: frozenset({b"FD"}),
        },
        (0x0019, "GEMS_ACQU_01"): {0x23: frozenset({b"DS"}), 0x24: frozenset({b"DS"})},
        (0x0043, "GEMS_PARM_01"): {0x39: frozenset({b"IS"})},
    }
)


def safe_vrs(tag: int, creator: str) -> frozenset[bytes]:
    """The VRs with which a private element may stay; empty where it may not.

    Args:
        tag: group and element as one number, the element above 0x1000.
        creator: the private creator of its block, stripped.
    """
    block = SAFE.get((tag >> 16, creator))
    return block.get(tag & 0xFF, frozenset()) if block is not None else frozenset()
