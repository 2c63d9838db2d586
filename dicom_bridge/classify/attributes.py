"""What the rules look at: acquisition attributes of a series, from classic or enhanced headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge.classify.diffusion import b_value
from dicom_bridge.classify.timing import Run, bolus_came_later, run_of
from dicom_bridge.classify.values import number, texts, word_text
from dicom_bridge.convert.frames import MULTI_FRAME, attribute, functional_group, sop_class, whole
from dicom_bridge.convert.libraries import configure_reading

DISTORTION_CORRECTED = frozenset({"DIS2D", "DIS3D", "GDC"})
PLANE_NAMES = ("sagittal", "coronal", "axial")
MAX_FRAMES = 20_000
NO_AGENT = frozenset({"", "NO", "NONE", "N/A", "NA", "N", "0"})
MAX_HEADERS = 64  # headers looked at per series: the rest is of the same acquisition


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A series' acquisition in plain values; times in ms, None where not given.

    Attributes:
        sop_class: SOPClassUID.
        modality: Modality.
        image_type: upper-case values of ImageType, FrameType and ComplexImageComponent of the
            sampled images together.
        echo_time: effective echo time.
        repetition_time: repetition time.
        inversion_time: inversion time.
        flip_angle: degrees.
        sequence: upper-case ScanningSequence codes, or their enhanced equivalents (SE, GR, EP, IR).
        variant: upper-case SequenceVariant and ScanOptions.
        contrasts: AcquisitionContrast of the sampled frames; empty for classic objects.
        words: lower-case words of the series' and the protocol's names.
        pulse: lower-case words of the vendor's sequence name, which nobody types in.
        agent: whether the contrast agent was in the body; None where the header is silent.
        b_value: highest diffusion b-value, s/mm2, standard or private.
        echo_times: distinct echo times.
        time_points: temporal positions that the header announces.
        planes: distinct slice planes among the images.
        dimension: "2D", "3D" or "".
        body_part: BodyPartExamined, or the anatomic region's meaning, upper case.
        images: slices of the series, frames counted one by one.
        colour: whether the pixels are coloured.
        inflow: whether the header says angiography (AngioFlag, TimeOfFlightContrast).
        run: what tells a repeated acquisition from another protocol.
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
    contrasts: frozenset[str]
    words: str
    pulse: str
    agent: bool | None
    b_value: float
    echo_times: int
    time_points: int
    planes: tuple[str, ...]
    dimension: str
    body_part: str
    images: int
    colour: bool
    inflow: bool
    run: Run


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
    each = [_Enhanced(h) if sop_class(h) in MULTI_FRAME else _Classic(h) for h in sample]
    values = each[0]
    pulse = word_text(attribute(first, "SequenceName"), attribute(first, "PulseSequenceName"))
    return Acquisition(
        sop_class=sop_class(first),
        modality=str(attribute(first, "Modality", "")).upper(),
        image_type=frozenset().union(*(item.image_type() for item in each)),
        echo_time=values.echo_time(),
        repetition_time=values.repetition_time(),
        inversion_time=values.inversion_time(),
        flip_angle=number(
            values.get("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle")
        ),
        sequence=values.sequence() | _pulse_codes(pulse),
        variant=values.variant(),
        contrasts=frozenset().union(*(item.contrasts() for item in each)),
        words=word_text(attribute(first, "SeriesDescription"), attribute(first, "ProtocolName")),
        pulse=pulse,
        agent=values.agent(),
        b_value=max((b_value(header) for header in sample), default=0.0),
        echo_times=len(_echo_times(sample)),
        time_points=max(_time_points(header) for header in sample),
        planes=_planes(sample),
        dimension=str(attribute(first, "MRAcquisitionType") or "").upper(),
        body_part=values.body_part(),
        images=sum(max(1, whole(header, "NumberOfFrames", 1)) for header in headers),
        colour=whole(first, "SamplesPerPixel", 1) > 1,
        inflow=values.inflow(),
        run=run_of(sample, (values.repetition_time(), values.echo_time(), values.inversion_time())),
    )


def _pulse_codes(pulse: str) -> frozenset[str]:
    """Echo codes that a vendor's sequence name adds where ScanningSequence says "EP" alone.

    Examples:
        >>> _pulse_codes(" *epfid2d1 64 ")
        frozenset({'GR'})
    """
    found = {"GR"} if re.search(r" \*?epfid", pulse) else set()
    found |= {"SE"} if re.search(r" \*?(?:epse|ep b)", pulse) else set()
    return frozenset(found)


class _Classic:
    """Attribute access for single-frame objects."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def get(self, macro: str, keyword: str, plain: str) -> object:
        """The plain attribute; None where it is absent."""
        del macro, keyword
        return attribute(self.dataset, plain)

    def image_type(self) -> frozenset[str]:
        """Image Type (0008,0008) and, of enhanced objects, what their frames say."""
        return texts(attribute(self.dataset, "ImageType"))

    def echo_time(self) -> float | None:
        """Echo time in ms."""
        return number(self.get("MREchoSequence", "EffectiveEchoTime", "EchoTime"))

    def repetition_time(self) -> float | None:
        """Repetition time in ms."""
        macro = "MRTimingAndRelatedParametersSequence"
        return number(self.get(macro, "RepetitionTime", "RepetitionTime"))

    def inversion_time(self) -> float | None:
        """Inversion time in ms."""
        return number(self.get("MRModifierSequence", "InversionTimes", "InversionTime"))

    def variant(self) -> frozenset[str]:
        """Sequence Variant (0018,0021) and Scan Options (0018,0022)."""
        variant = texts(attribute(self.dataset, "SequenceVariant"))
        return variant | texts(attribute(self.dataset, "ScanOptions"))

    def inflow(self) -> bool:
        """Angio Flag (0018,0025)."""
        return str(attribute(self.dataset, "AngioFlag") or "").strip().upper() == "Y"

    def sequence(self) -> frozenset[str]:
        """Scanning Sequence (0018,0020): SE, GR, IR, EP, RM."""
        return texts(attribute(self.dataset, "ScanningSequence"))

    def contrasts(self) -> frozenset[str]:
        """Acquisition Contrast (0008,9209): enhanced objects only, so nothing here."""
        return frozenset()

    def agent(self) -> bool | None:
        """Whether a contrast agent was given before the images, by name or by volume."""
        agent = str(attribute(self.dataset, "ContrastBolusAgent") or "").strip().upper()
        volume = number(attribute(self.dataset, "ContrastBolusVolume"))
        if not agent and volume is None:
            return None
        given = agent not in NO_AGENT or bool(volume)
        return given and not bolus_came_later(self.dataset)

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

    def frames(self) -> Iterable[int]:
        """Frames that are looked at, spread over the object."""
        count = min(whole(self.dataset, "NumberOfFrames", 1), MAX_FRAMES)
        return range(0, count, max(1, count // MAX_HEADERS))

    def image_type(self) -> frozenset[str]:
        """Image Type with Frame Type (0008,9007) and Complex Image Component (0008,9208)."""
        found = set(super().image_type())
        for index in self.frames():
            item = functional_group(self.dataset, index, "MRImageFrameTypeSequence") or Dataset()
            found |= texts(attribute(item, "FrameType"))
            found |= texts(attribute(item, "ComplexImageComponent")) - {"MAGNITUDE", "MIXED"}
        return frozenset(found)

    def inflow(self) -> bool:
        """Time of Flight Contrast (0018,9015) of the object, or Angio Flag."""
        stated = attribute(self.dataset, "TimeOfFlightContrast")
        return str(stated or "").strip().upper() == "YES" or super().inflow()

    def contrasts(self) -> frozenset[str]:
        """Acquisition Contrast (0008,9209) of the frames, else of the object."""
        found: set[str] = set()
        for index in self.frames():
            item = functional_group(self.dataset, index, "MRImageFrameTypeSequence") or Dataset()
            found |= texts(attribute(item, "AcquisitionContrast"))
        return frozenset(found or texts(attribute(self.dataset, "AcquisitionContrast")))

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

    def agent(self) -> bool | None:
        """Whether the first frame was taken with the contrast agent in the body."""
        usage = functional_group(self.dataset, 0, "ContrastBolusUsageSequence")
        if usage is not None:
            given = str(attribute(usage, "ContrastBolusAgentAdministered") or "").upper()
            phase = str(attribute(usage, "ContrastBolusAgentPhase") or "").upper()
            return given == "YES" and phase != "PRE_CONTRAST"
        if attribute(self.dataset, "ContrastBolusAgentSequence"):
            return not bolus_came_later(self.dataset)
        return super().agent()

    def body_part(self) -> str:
        """Body Part Examined, else the meaning of the first frame's anatomic region."""
        plain = super().body_part()
        if plain:
            return plain
        regions = attribute(self.group("FrameAnatomySequence"), "AnatomicRegionSequence") or []
        return str(attribute(regions[0], "CodeMeaning") or "").strip().upper() if regions else ""


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
