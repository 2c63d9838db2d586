"""What the acquisition says: the class of object first, then what kind of image, then contrast."""

from __future__ import annotations

from pydicom.uid import (
    EnhancedMRColorImageStorage,
    MRSpectroscopyStorage,
    RawDataStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from dicom_bridge.classify.attributes import DISTORTION_CORRECTED, Acquisition
from dicom_bridge.classify.contrast import contrast_rule
from dicom_bridge.classify.guess import CERTAIN, LIKELY, NAMED, Guess
from dicom_bridge.classify.kinds import SeriesKind
from dicom_bridge.convert.frames import VOLUME_CLASSES
from dicom_bridge.seg.read import SEG_CLASSES

SR_ROOT = "1.2.840.10008.5.1.4.1.1.88."
CAPTURE_ROOT = "1.2.840.10008.5.1.4.1.1.7"
SCREENS = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN SHOT", "SCREEN CAPTURE", "SCREENSAVE"})
REFORMATTED = frozenset(
    {"MPR", "CSA MPR", "MIP", "MINIP", "MNIP", "MIN IP", "PROJECTION IMAGE", "REFORMATTED"}
    | {"RESAMPLED", "SUBTRACTION", "SUBTRACT", "SUB", "COMPOSED", "VRT", "SSD", "MEAN", "STDDEV"}
    | {"VOLREN", "CSA 3D EDITOR"}
)
SLICED_ANEW = frozenset({"MPR", "CSA MPR", "REFORMATTED", "RESAMPLED"})
MAPS = frozenset(
    {"FA", "COLFA", "TENSOR", "RATIO", "T1 MAP", "T2 MAP", "R2 MAP", "T2_STAR MAP", "R2_STAR MAP"}
    | {"METABOLITE_MAP", "DIXON", "WATER", "FAT", "W", "F", "IP", "OP", "IN_PHASE", "OUT_PHASE"}
    | {"RCBV", "RCBF", "MTT", "TTP", "CBF", "CBV", "TMAX"}
)
PARTS = frozenset({"P", "PHASE", "PHASE MAP", "PHASE_MAP", "REAL", "IMAGINARY", "R", "I"})
"""Complex components that are no magnitude."""
HARMLESS = frozenset(
    {"DERIVED", "PRIMARY", "ORIGINAL", "M", "M_SE", "M_IR", "M_FFE", "NORM", "ND", "FM", "FIL"}
    | {"NONE", "SE", "IR", "FFE", "T1", "T2", "FLUID_ATTENUATED", "PROTON_DENSITY", "OTHER"}
    | {"MAGNITUDE", "UNI"}
    | DISTORTION_CORRECTED
)
"""Values that leave a derived image the plain image it was (corrected, compressed)."""
SURVEY_IMAGES = 16  # per plane: more is a volume
FAST = 20.0  # ms of repetition time below which a survey of two planes is believed


def object_rule(seen: Acquisition) -> Guess | None:
    """Kinds that the class of object, the modality or ImageType alone decides."""
    uid = seen.sop_class
    if uid in SEG_CLASSES:
        return Guess(SeriesKind.SEG, "object-seg", CERTAIN)
    if uid == RTStructureSetStorage:
        return Guess(SeriesKind.RTSTRUCT, "object-rtstruct", CERTAIN)
    if uid.startswith(SR_ROOT):
        return Guess(SeriesKind.SR, "object-sr", CERTAIN)
    if uid == SecondaryCaptureImageStorage or uid.startswith(f"{CAPTURE_ROOT}."):
        return Guess(SeriesKind.SECONDARY_CAPTURE, "object-secondary-capture", CERTAIN)
    if uid == EnhancedMRColorImageStorage:
        return Guess(SeriesKind.DERIVED, "object-colour", CERTAIN)
    if uid in (MRSpectroscopyStorage, RawDataStorage):
        return Guess(SeriesKind.OTHER, "object-no-image", CERTAIN)
    if uid not in VOLUME_CLASSES:
        return Guess(SeriesKind.OTHER, "object-other-class", CERTAIN)
    if seen.image_type & SCREENS:
        return Guess(SeriesKind.SECONDARY_CAPTURE, "screenshot", CERTAIN)
    if seen.colour:
        return Guess(SeriesKind.DERIVED, "coloured", CERTAIN)
    if seen.modality == "CT":
        return _ct_rule(seen)
    if seen.modality != "MR":
        return Guess(SeriesKind.OTHER, "object-other-modality", CERTAIN)
    return None


def _ct_rule(seen: Acquisition) -> Guess:
    if seen.image_type & {"LOCALIZER", "SCOUT"}:
        return Guess(SeriesKind.LOCALISER, "ct-scout", CERTAIN)
    if len(seen.planes) > 1:
        return Guess(SeriesKind.OTHER, "mixed-planes")
    if seen.image_type & (REFORMATTED | MAPS):
        return Guess(SeriesKind.DERIVED, "derived-processed", LIKELY, SeriesKind.CT)
    return Guess(SeriesKind.CT, "object-ct", CERTAIN)


def acquisition_rule(seen: Acquisition) -> Guess | None:
    """What the acquisition attributes of an MR series say, without any description.

    Args:
        seen: the series' acquisition.

    Returns:
        A guess, or None where the header holds too little.
    """
    rules = (_survey_rule, _map_rule, _component_rule, _derived_rule)
    for rule in (*rules, _diffusion_rule, _function_rule):
        found = rule(seen)
        if found is not None:
            return found
    return contrast_rule(seen)


def _survey_rule(seen: Acquisition) -> Guess | None:
    if "LOCALIZER" in seen.image_type:
        return Guess(SeriesKind.LOCALISER, "localiser-image-type")
    if len(seen.planes) > 1:
        few = seen.images <= SURVEY_IMAGES * len(seen.planes)
        fast = (seen.repetition_time or FAST) < FAST
        if few and (len(seen.planes) == 3 or fast):
            return Guess(SeriesKind.LOCALISER, "localiser-planes")
        return Guess(SeriesKind.OTHER, "mixed-planes")
    if len({name for name in seen.contrasts if name not in ("UNKNOWN", "MIXED")}) > 1:
        return Guess(SeriesKind.OTHER, "mixed-contrasts")
    return None


def _component_rule(seen: Acquisition) -> Guess | None:
    parts = seen.image_type & PARTS
    if not parts or "PHASE_CONTRAST" in seen.contrasts:
        return None
    mixed = "M" in seen.image_type
    return Guess(SeriesKind.OTHER, "mixed-components" if mixed else "phase-image")


def _map_rule(seen: Acquisition) -> Guess | None:
    kinds = seen.image_type
    if kinds & {"ADC", "ADC_UNSPECIFIED", "EADC"}:
        return Guess(SeriesKind.ADC, "adc-image-type")
    if kinds & (REFORMATTED | MAPS):
        return Guess(SeriesKind.DERIVED, "derived-processed", LIKELY, _source(seen))
    return None


def _derived_rule(seen: Acquisition) -> Guess | None:
    kinds = seen.image_type
    if kinds & {"DIFFUSION", "TRACEW", "TRACE"}:
        return None
    if "DERIVED" in kinds and not kinds <= HARMLESS:
        return Guess(SeriesKind.DERIVED, "derived-image-type", LIKELY, _source(seen))
    if "SECONDARY" in kinds:
        return Guess(SeriesKind.DERIVED, "derived-secondary", LIKELY, _source(seen))
    return None


def _source(seen: Acquisition) -> SeriesKind | None:
    """The kind of a mere reformat's original; projections and maps have another contrast."""
    if seen.image_type & ((REFORMATTED | MAPS) - SLICED_ANEW):
        return None
    found = contrast_rule(seen)
    return None if found is None or found.kind is SeriesKind.OTHER else found.kind


def _diffusion_rule(seen: Acquisition) -> Guess | None:
    if (
        seen.b_value > 0
        or "DIFFUSION" in seen.contrasts
        or seen.image_type & {"DIFFUSION", "TRACEW", "TRACE"}
    ):
        return Guess(SeriesKind.DWI, "diffusion")
    return None


def _function_rule(seen: Acquisition) -> Guess | None:
    kinds, contrasts = seen.image_type, seen.contrasts
    if "PERFUSION" in kinds | contrasts or kinds & {"ASL", "PERFUSION_ASL"}:
        return Guess(SeriesKind.OTHER, "perfusion")
    if "SWI" in kinds or "SUSCEPTIBILITY" in contrasts:
        return Guess(SeriesKind.SWI, "susceptibility")
    if seen.inflow or "TOF" in kinds | contrasts or "PHASE_CONTRAST" in contrasts:
        return Guess(SeriesKind.OTHER, "angiography")
    if "EP" in seen.sequence or "FMRI" in kinds:
        return _echo_planar_rule(seen)
    if seen.time_points > 1:
        # Gradient-echo T2* over time: the blood oxygenation kind, or a bolus; only names tell.
        blood = "T2" in kinds and 15 <= (seen.echo_time or 30) <= 60
        kind = SeriesKind.BOLD if blood else SeriesKind.OTHER
        return Guess(kind, "time-series", NAMED if blood else LIKELY)
    return None


def _echo_planar_rule(seen: Acquisition) -> Guess:
    if "FMRI" in seen.image_type:
        return Guess(SeriesKind.BOLD, "functional")
    if seen.agent:
        return Guess(SeriesKind.OTHER, "echo-planar-with-agent", NAMED)
    gradient = "GR" in seen.sequence
    if gradient and 15 <= (seen.echo_time or 0) <= 60:
        return Guess(SeriesKind.BOLD, "functional", NAMED)
    if seen.time_points > 1 or "MOSAIC" in seen.image_type:
        return Guess(SeriesKind.BOLD, "functional-series", NAMED)
    kind = SeriesKind.OTHER if gradient else SeriesKind.DWI
    return Guess(kind, "echo-planar" if gradient else "echo-planar-spin-echo", NAMED)
