"""What the rules look at: acquisition attributes of a series, from classic or enhanced headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge.convert.frames import MULTI_FRAME, attribute, functional_group, sop_class, whole
from dicom_bridge.convert.libraries import configure_reading

DISTORTION_CORRECTED = frozenset({"DIS2D", "DIS3D", "GDC"})
PLANE_NAMES = ("sagittal", "coronal", "axial")
MAX_HEADERS = 64  # headers looked at per series: the rest is of the same acquisition


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A series' acquisition in plain values; times in ms, None where not given.

    Attributes:
        sop_class: SOPClassUID.
        modality: Modality.
        image_type: upper-case values of ImageType and FrameType together.
        echo_time: effective echo time.
        repetition_time: repetition time.
        inversion_time: inversion time.
        flip_angle: degrees.
        sequence: upper-case ScanningSequence codes, or their enhanced equivalents (SE, GR, EP, IR).
        variant: upper-case SequenceVariant and ScanOptions.
        contrast: AcquisitionContrast of enhanced objects, "" otherwise.
        words: lower-case words of the series', protocol's and sequence's names.
        agent: whether the header says that a contrast agent was given.
        b_value: highest diffusion b-value, s/mm2.
        echo_times: distinct echo times.
        time_points: temporal positions that the header announces.
        planes: distinct slice planes among the images.
        dimension: "2D", "3D" or "".
        body_part: BodyPartExamined, or the anatomic region's meaning, upper case.
    """

    sop_class: str
    modality: str
    image_type: frozenset[str]
    echo_time: float | None
    repetition_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    sequence: frozenset[str]
    variant: frozenset[str]
    contrast: str
    words: str
    agent: bool
    b_value: float
    echo_times: int
    time_points: int
    planes: tuple[str, ...]
    dimension: str
    body_part: str


def number(value: object) -> float | None:
    """The first finite number in an attribute's value.

    Examples:
        >>> number("2200.5"), number(None), number(["90", "12"])
        (2200.5, None, 90.0)
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        values = list(value)
        return number(values[0]) if values else None
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def texts(value: object) -> frozenset[str]:
    """The upper-case values of a multi-valued text attribute."""
    if value is None:
        return frozenset()
    if isinstance(value, str):
        value = value.split("\\")
    if not isinstance(value, Iterable):
        return frozenset()
    return frozenset(str(item).strip().upper() for item in value if str(item).strip())


def word_text(*names: object) -> str:
    """Free text as lower-case words with single blanks, padded, so that words can be searched.

    Examples:
        >>> word_text("T2_tirm-DarkFluid", None)
        ' t2 tirm dark fluid '
    """
    joined = " ".join(str(name) for name in names if name)
    joined = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", joined).replace("+", " plus ")
    return f" {' '.join(re.findall(r'[a-z0-9*]+', joined.lower()))} "


def plane_of(orientation: Sequence[float]) -> str:
    """The plane whose axis lies nearest to a slice normal."""
    cosines = np.asarray(orientation, dtype=float)
    normal = np.abs(np.cross(cosines[:3], cosines[3:6]))
    return PLANE_NAMES[int(np.argmax(normal))]


def acquisition(headers: Sequence[Dataset]) -> Acquisition:
    """Collect what the rules need from a series' headers.

    Args:
        headers: data sets without pixels, one series, at least one.

    Returns:
        The values; anything unreadable counts as not given.
    """
    configure_reading()
    first = headers[0]
    sample = headers[:: max(1, len(headers) // MAX_HEADERS)]
    enhanced = sop_class(first) in MULTI_FRAME
    values = _Enhanced(first) if enhanced else _Classic(first)
    return Acquisition(
        sop_class=sop_class(first),
        modality=str(attribute(first, "Modality", "")).upper(),
        image_type=texts(attribute(first, "ImageType")) | values.frame_type(),
        echo_time=number(values.get("MREchoSequence", "EffectiveEchoTime", "EchoTime")),
        repetition_time=number(
            values.get("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime")
        ),
        inversion_time=number(values.get("MRModifierSequence", "InversionTimes", "InversionTime")),
        flip_angle=number(
            values.get("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle")
        ),
        sequence=values.sequence(),
        variant=texts(attribute(first, "SequenceVariant")) | texts(attribute(first, "ScanOptions")),
        contrast=values.contrast(),
        words=word_text(
            attribute(first, "SeriesDescription"),
            attribute(first, "ProtocolName"),
            attribute(first, "SequenceName"),
            attribute(first, "PulseSequenceName"),
        ),
        agent=values.agent(),
        b_value=max((_b_value(header) for header in sample), default=0.0),
        echo_times=len(_echo_times(sample)),
        time_points=max(_time_points(header) for header in sample),
        planes=_planes(sample),
        dimension=str(attribute(first, "MRAcquisitionType") or "").upper(),
        body_part=values.body_part(),
    )


class _Classic:
    """Attribute access for single-frame objects."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def get(self, macro: str, keyword: str, plain: str) -> object:
        """The plain attribute; None where it is absent."""
        del macro, keyword
        return attribute(self.dataset, plain)

    def frame_type(self) -> frozenset[str]:
        """Frame Type (0008,9007): enhanced objects only, so nothing here."""
        return frozenset()

    def sequence(self) -> frozenset[str]:
        """Scanning Sequence (0018,0020): SE, GR, IR, EP, RM."""
        return texts(attribute(self.dataset, "ScanningSequence"))

    def contrast(self) -> str:
        """Acquisition Contrast (0008,9209): enhanced objects only, so nothing here."""
        return ""

    def agent(self) -> bool:
        """Whether a contrast agent was given, by name or by volume."""
        agent = str(attribute(self.dataset, "ContrastBolusAgent") or "").strip().upper()
        volume = number(attribute(self.dataset, "ContrastBolusVolume"))
        return agent not in ("", "NO", "NONE", "N/A", "NA", "N", "0") or bool(volume)

    def body_part(self) -> str:
        """Body Part Examined (0018,0015) in capitals; empty where it is absent."""
        return str(attribute(self.dataset, "BodyPartExamined") or "").strip().upper()


class _Enhanced(_Classic):
    """Attribute access for enhanced objects: functional groups first, plain attributes after."""

    def group(self, macro: str) -> Dataset:
        """First frame's item of a functional group macro, shared or its own; empty if absent."""
        return functional_group(self.dataset, 0, macro) or Dataset()

    def get(self, macro: str, keyword: str, plain: str) -> object:
        """The macro's attribute, else the plain one."""
        value = attribute(self.group(macro), keyword)
        return super().get(macro, keyword, plain) if value is None else value

    def frame_type(self) -> frozenset[str]:
        """Frame Type (0008,9007) of the first frame."""
        return texts(attribute(self.group("MRImageFrameTypeSequence"), "FrameType"))

    def contrast(self) -> str:
        """Acquisition Contrast (0008,9209) in capitals; empty where it is absent."""
        item = self.group("MRImageFrameTypeSequence")
        value = attribute(item, "AcquisitionContrast") or attribute(
            self.dataset, "AcquisitionContrast"
        )
        return str(value or "").strip().upper()

    def sequence(self) -> frozenset[str]:
        """The enhanced pulse sequence attributes as Scanning Sequence terms (PS3.3 C.8.13.4)."""
        found = set(texts(attribute(self.dataset, "ScanningSequence")))
        pulse = str(attribute(self.dataset, "EchoPulseSequence") or "").upper()
        found |= {"SE"} if pulse == "SPIN" else {"GR"} if pulse == "GRADIENT" else set()
        found |= {"SE", "GR"} if pulse == "BOTH" else set()
        if str(attribute(self.dataset, "EchoPlanarPulseSequence") or "").upper() == "YES":
            found.add("EP")
        if (
            str(attribute(self.group("MRModifierSequence"), "InversionRecovery") or "").upper()
            == "YES"
        ):
            found.add("IR")
        return frozenset(found)

    def agent(self) -> bool:
        """Whether the first frame was taken with the contrast agent in the body."""
        usage = functional_group(self.dataset, 0, "ContrastBolusUsageSequence")
        if usage is not None:
            given = str(attribute(usage, "ContrastBolusAgentAdministered") or "").upper()
            phase = str(attribute(usage, "ContrastBolusAgentPhase") or "").upper()
            return given == "YES" and phase != "PRE_CONTRAST"
        return bool(attribute(self.dataset, "ContrastBolusAgentSequence")) or super().agent()

    def body_part(self) -> str:
        """Body Part Examined, else the meaning of the first frame's anatomic region."""
        plain = super().body_part()
        if plain:
            return plain
        regions = attribute(self.group("FrameAnatomySequence"), "AnatomicRegionSequence") or []
        return str(attribute(regions[0], "CodeMeaning") or "").strip().upper() if regions else ""


def _b_value(header: Dataset) -> float:
    if sop_class(header) in MULTI_FRAME:
        frames = range(min(whole(header, "NumberOfFrames", 1), 4 * MAX_HEADERS))
        groups = (functional_group(header, index, "MRDiffusionSequence") for index in frames)
        return max(
            (number(attribute(g, "DiffusionBValue")) or 0.0 for g in groups if g), default=0.0
        )
    return number(attribute(header, "DiffusionBValue")) or 0.0


def _time_points(header: Dataset) -> int:
    announced = number(attribute(header, "NumberOfTemporalPositions")) or 1
    if sop_class(header) in MULTI_FRAME:
        last = whole(header, "NumberOfFrames", 1) - 1
        content = functional_group(header, last, "FrameContentSequence") or Dataset()
        announced = max(announced, number(attribute(content, "TemporalPositionIndex")) or 1)
    return int(announced)


def _echo_times(headers: Sequence[Dataset]) -> set[float]:
    found: set[float | None] = set()
    for header in headers:
        if sop_class(header) in MULTI_FRAME:
            group = functional_group(header, 0, "MREchoSequence") or Dataset()
            found.add(number(attribute(group, "EffectiveEchoTime")))
        else:
            found.add(number(attribute(header, "EchoTime")))
    return {round(value, 1) for value in found if value is not None}


def _planes(headers: Sequence[Dataset]) -> tuple[str, ...]:
    found: set[str] = set()
    for header in headers:
        frames: Iterable[int | None] = (None,)
        if sop_class(header) in MULTI_FRAME:
            frames = range(min(whole(header, "NumberOfFrames", 1), MAX_HEADERS))
        for index in frames:
            holder = (
                header
                if index is None
                else functional_group(header, index, "PlaneOrientationSequence") or Dataset()
            )
            values = attribute(holder, "ImageOrientationPatient")
            turned = [number(value) for value in values] if isinstance(values, MultiValue) else []
            if len(turned) == 6 and all(value is not None for value in turned):
                found.add(plane_of([float(value or 0.0) for value in turned]))
    return tuple(sorted(found))
