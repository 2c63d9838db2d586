"""The diffusion weighting of an image, from the standard's attribute or the vendor's own."""

from __future__ import annotations

from pydicom.dataset import Dataset

from dicom_bridge.classify.values import number
from dicom_bridge.convert.frames import (
    MULTI_FRAME,
    READ_ERRORS,
    attribute,
    functional_group,
    sop_class,
    whole,
)

MAX_FRAMES = 256  # b = 0 comes first: the first frames of a few volumes are enough
GE_OFFSET = 1_000_000_000.0
"""GE adds 1e9 to its b-value in later releases."""

# Group, creator's start, element within the private block: where vendors keep the b-value.
PRIVATE: tuple[tuple[int, str, int], ...] = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),
)


def b_value(header: Dataset) -> float:
    """The highest b-value in a header, s/mm2; 0 where none is written.

    Args:
        header: a data set without pixels.
    """
    if sop_class(header) in MULTI_FRAME:
        frames = range(min(whole(header, "NumberOfFrames", 1), MAX_FRAMES))
        groups = (functional_group(header, index, "MRDiffusionSequence") for index in frames)
        return max(
            (number(attribute(g, "DiffusionBValue")) or 0.0 for g in groups if g), default=0.0
        )
    stated = number(attribute(header, "DiffusionBValue"))
    return stated if stated is not None else private_b_value(header)


def private_b_value(header: Dataset) -> float:
    """The b-value that a vendor wrote in its own block; 0 where there is none."""
    for group, creator, element in PRIVATE:
        try:
            value = header.private_block(group, creator)[element].value
        except (*READ_ERRORS,):
            continue
        found = number(value)
        if found is not None and found >= GE_OFFSET:
            found -= GE_OFFSET
        if found is not None and 0 < found < 100_000:
            return found
    return 0.0
