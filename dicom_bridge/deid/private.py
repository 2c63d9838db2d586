"""Private attributes that PS3.15 E.3.10 (Table E.3.10-1) lists as safe.

Of its 479 rows those stay whose values have a closed form: numbers, code strings, tags, and five
short technical texts. Sequences, free text, UIDs and bulk data of private elements go although the
table names them: their contents cannot be judged value by value.

What a sender declares safe by (0008,0300), (0008,0306) and (0008,0307) is not honoured: nothing
says who declared it, and a wrong declaration would be a leak. The declaration itself goes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from dicom_bridge.deid.table import SAFE_PRIVATE, read_table

Block = Mapping[int, bytes]


@cache
def safe_blocks() -> Mapping[tuple[int, str], Block]:
    """By group and creator: offset in the block to the VR with which the element may stay."""
    creators = json.loads(read_table(SAFE_PRIVATE))["creators"]
    return MappingProxyType(
        {
            (int(group, 16), creator): MappingProxyType(
                {int(o, 16): vr.encode() for vr, offsets in rows.items() for o in offsets.split()}
            )
            for creator, groups in creators.items()
            for group, rows in groups.items()
        }
    )


def safe_vr(tag: int, creator: str) -> bytes | None:
    """The VR with which a private element may stay; None where it may not.

    Args:
        tag: group and element as one number, the element above 0x1000.
        creator: the private creator of its block, stripped.
    """
    block = safe_blocks().get((tag >> 16, creator))
    return block.get(tag & 0xFF) if block is not None else None
