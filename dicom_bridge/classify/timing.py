"""When a series was acquired, and what tells a repeated run from another protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from dicom_bridge.classify.values import number
from dicom_bridge.convert.frames import MULTI_FRAME, attribute, functional_group, sop_class

# Date and time attributes, the most precise first (PS3.3 C.7.6.1, C.7.3.1).
MOMENTS = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("ContentDate", "ContentTime"),
)
SAME_TIMES = 0.02  # of echo times and voxel edges of two runs of one protocol
SAME_REPETITION = 0.25  # another number of slices stretches the repetition time


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an acquisition; times in ms, lengths in mm, 0 where not given.

    Attributes:
        start: local date and time as digits that sort, "" where unknown (identifying).
        repetition_time: of the protocol.
        echo_time: of the protocol.
        inversion_time: of the protocol.
        thickness: SliceThickness.
        spacing: PixelSpacing.
        matrix: rows and columns.
        normalised: whether the receive field was corrected (NORM in ImageType).
    """

    start: str = field(default="", repr=False)
    repetition_time: float = 0.0
    echo_time: float = 0.0
    inversion_time: float = 0.0
    thickness: float = 0.0
    spacing: tuple[float, float] = (0.0, 0.0)
    matrix: tuple[int, int] = (0, 0)
    normalised: bool = False

    def repeats(self, other: Run) -> bool:
        """Whether the other is a run of the same protocol: the same times, voxels and matrix.

        Examples:
            >>> Run(echo_time=90, repetition_time=9000).repeats(
            ...     Run(echo_time=90, repetition_time=9500)
            ... )
            True
            >>> Run(echo_time=90).repeats(Run(echo_time=120))
            False
        """
        pairs = (
            (self.echo_time, other.echo_time, SAME_TIMES),
            (self.inversion_time, other.inversion_time, SAME_TIMES),
            (self.repetition_time, other.repetition_time, SAME_REPETITION),
            (self.thickness, other.thickness, SAME_TIMES),
            *((a, b, SAME_TIMES) for a, b in zip(self.spacing, other.spacing, strict=True)),
        )
        alike = all(abs(a - b) <= share * max(abs(a), abs(b)) for a, b, share in pairs)
        return alike and self.matrix == other.matrix


def digits(text: object) -> str:
    """Date or time as digits with its fraction; "" where it is none.

    Examples:
        >>> digits("102130.5"), digits("20210608172739.175000+0100"), digits("noon")
        ('102130.5', '20210608172739.175000', '')
    """
    found = re.match(r"\d{4,14}(?:\.\d{1,6})?", str(text or "").strip().replace(":", ""))
    return found.group() if found else ""


def moment(header: Dataset) -> str:
    """When the first image of a header was acquired, as digits that sort; "" where unknown."""
    if sop_class(header) in MULTI_FRAME:
        content = functional_group(header, 0, "FrameContentSequence") or Dataset()
        found = digits(attribute(content, "FrameAcquisitionDateTime"))
        if found:
            return found
    found = digits(attribute(header, "AcquisitionDateTime"))
    if len(found) >= 12:
        return found
    for day, time in MOMENTS:
        clock = digits(attribute(header, time))
        if clock:
            date = digits(attribute(header, day)) or digits(attribute(header, "StudyDate"))
            return f"{date[:8]:0<8}{clock}"
    return ""


def bolus_came_later(header: Dataset) -> bool:
    """Whether the contrast agent's start time lies after the image's own (same day assumed)."""
    bolus = digits(attribute(header, "ContrastBolusStartTime"))
    clock = digits(attribute(header, "AcquisitionTime"))
    return bool(bolus and clock) and bolus[:6].ljust(6, "0") > clock[:6].ljust(6, "0")


def run_of(
    headers: Sequence[Dataset], times: tuple[float | None, float | None, float | None]
) -> Run:
    """What the headers of one series say about its run.

    Args:
        headers: at least one, without pixels.
        times: repetition, echo and inversion time of the acquisition, ms.
    """
    repetition_time, echo_time, inversion_time = times
    first = headers[0]
    holder = first
    if sop_class(first) in MULTI_FRAME:
        holder = functional_group(first, 0, "PixelMeasuresSequence") or Dataset()
    spacing = attribute(holder, "PixelSpacing")
    edges = [number(value) or 0.0 for value in spacing] if _is_pair(spacing) else [0.0, 0.0]
    kinds = attribute(first, "ImageType") or ()
    moments = sorted(filter(None, (moment(header) for header in headers)))
    return Run(
        start=moments[0] if moments else "",
        repetition_time=repetition_time or 0.0,
        echo_time=echo_time or 0.0,
        inversion_time=inversion_time or 0.0,
        thickness=number(attribute(holder, "SliceThickness")) or 0.0,
        spacing=(edges[0], edges[1]),
        matrix=(
            int(number(attribute(first, "Rows")) or 0),
            int(number(attribute(first, "Columns")) or 0),
        ),
        normalised="NORM" in kinds,
    )


def _is_pair(value: object) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__len__") and len(value) == 2
