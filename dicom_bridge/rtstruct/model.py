"""The plain values of a structure set (PS3.3 A.19): regions of interest and their contours."""

from __future__ import annotations

from dataclasses import dataclass, field

from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray
from dicom_bridge.seg.model import Code


class StructuresRefused(DataRefused):
    """A structure set, or one region of it, cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Roi:
    """One region of interest as its headers describe it.

    Attributes:
        number: ROINumber.
        name: ROIName (free text of a person: identified side only).
        code: RTROIIdentificationCodeSequence of its observation, None where absent.
        interpreted_type: RTROIInterpretedType (GTV, ORGAN, ...), upper case, "" where absent.
        algorithm: ROIGenerationAlgorithm (AUTOMATIC, SEMIAUTOMATIC, MANUAL), "" where absent.
        interpreter: ROIInterpreter (names a person).
        frame_of_reference: ReferencedFrameOfReferenceUID.
    """

    number: int
    name: str = field(repr=False)
    code: Code | None
    interpreted_type: str
    algorithm: str
    interpreter: str = field(repr=False)
    frame_of_reference: str = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """One contour.

    Attributes:
        points: (n, 3) LPS mm in the patient's coordinate system.
        kind: ContourGeometricType.
        images: SOPInstanceUIDs that ContourImageSequence names.
    """

    points: FloatArray
    kind: str
    images: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of a region's contours on a series' grid.

    Attributes:
        voxels: voxels whose centres lie inside.
        slices: slices with a voxel.
        notes: what was decided on the way, in words.
    """

    voxels: int
    slices: int
    notes: tuple[str, ...] = ()
