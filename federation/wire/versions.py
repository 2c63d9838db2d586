"""Protocol versions: what this program speaks and what two sides have in common."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from federation.errors import VersionRefused

MESSAGE_FORMAT: Final = 1
"""Format version that every message carries."""
PROTOCOL_VERSIONS: Final = (2,)
"""Protocol versions that this program speaks, newest first; 2 moves objects by their chunks."""


def software_version() -> str:
    """This program's version."""
    try:
        return version("clinode")
    except PackageNotFoundError:
        return "unknown"


def negotiate(theirs: Sequence[int], ours: Sequence[int] = PROTOCOL_VERSIONS) -> int:
    """The newest protocol version that both sides speak.

    >>> negotiate([1, 2], [2, 1])
    2

    Raises:
        VersionRefused: there is none; says which side is older.
    """
    common = set(theirs) & set(ours)
    if common:
        return max(common)
    older = "site" if max(theirs, default=0) < max(ours) else "coordinator"
    shown = ", ".join(str(v) for v in sorted(theirs)[:8]) or "none"
    raise VersionRefused(
        f"no common protocol version: the site speaks {shown}, the coordinator "
        f"{', '.join(str(v) for v in sorted(ours))}; upgrade the {older}"
    )
