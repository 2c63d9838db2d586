"""Rules that name a series: the kind of object, then the acquisition, then its description.

Echo, repetition and inversion times are in ms. Acquisition rules follow the physics of the usual
brain protocols at 0.06 to 7 T; the description only confirms, contradicts, or steps in where the
header holds no times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRColorImageStorage,
    MRSpectroscopyStorage,
    RawDataStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from dicom_bridge.classify.attributes import DISTORTION_CORRECTED, Acquisition, acquisition
from dicom_bridge.classify.bodypart import judge_body_part
from dicom_bridge.classify.kinds import Classification, SeriesKind
from dicom_bridge.convert.frames import VOLUME_CLASSES
from dicom_bridge.seg.read import SEG_CLASSES

Guess = tuple[SeriesKind, str]

SURE = 0.98
LIKELY = 0.9
NAMED = 0.7
DOUBTFUL = 0.5

SR_ROOT = "1.2.840.10008.5.1.4.1.1.88."
CAPTURE_ROOT = "1.2.840.10008.5.1.4.1.1.7"
PROCESSED = frozenset(
    {
        "MPR",
        "MIP",
        "MINIP",
        "MNIP",
        "MIN IP",
        "PROJECTION IMAGE",
        "REFORMATTED",
        "RESAMPLED",
        "SUBTRACTION",
        "SUBTRACT",
        "SUB",
        "MEAN",
        "STDDEV",
        "SCREEN SAVE",
        "FA",
        "COLFA",
        "TENSOR",
        "RATIO",
        "DIXON",
        "T1 MAP",
        "T2 MAP",
        "R2 MAP",
        "T2_STAR MAP",
        "METABOLITE_MAP",
        "COMPOSED",
        "CSA MPR",
    }
)
HARMLESS = (
    frozenset(
        {
            "DERIVED",
            "PRIMARY",
            "M",
            "M_SE",
            "M_IR",
            "M_FFE",
            "NORM",
            "ND",
            "FM",
            "FIL",
            "NONE",
            "SE",
        }
        | {"IR", "FFE", "T1", "T2", "FLUID_ATTENUATED", "PROTON_DENSITY", "OTHER", "MAGNITUDE"}
    )
    | DISTORTION_CORRECTED
)


def classify_series(headers: Sequence[Dataset]) -> Classification:
    """Name a series from its headers.

    Args:
        headers: data sets without pixel data, all of one series and one family of objects.

    Returns:
        Kind, confidence and the rule that decided; the body part beside it.

    Raises:
        ValueError: no header was given.
    """
    if not headers:
        raise ValueError("expected at least one header")
    seen = acquisition(headers)
    guess, confidence = _decide(seen)
    part, part_ok = judge_body_part(seen)
    return Classification(
        kind=guess[0],
        confidence=confidence,
        rule=guess[1],
        body_part=part,
        body_part_ok=part_ok,
        dimension=seen.dimension if seen.dimension in ("2D", "3D") else "",
        plane=seen.planes[0] if len(seen.planes) == 1 else "",
        corrected=bool(seen.image_type & DISTORTION_CORRECTED),
    )


def _decide(seen: Acquisition) -> tuple[Guess, float]:
    by_class = object_rule(seen)
    if by_class is not None:
        return by_class, 1.0
    special = special_rule(seen)
    if special is not None:
        return special, LIKELY
    measured, described = physics_rule(seen), description_rule(seen)
    if measured is None and described is None:
        return (SeriesKind.OTHER, "nothing-known"), 0.0
    if measured is None or described is None:
        alone = measured or described
        assert alone is not None  # noqa: S101 - for the type checker: one of both is there
        return with_agent(alone, seen), LIKELY if measured else NAMED
    if measured[0] is described[0]:
        return with_agent((measured[0], f"{measured[1]}+name"), seen), SURE
    return with_agent((measured[0], f"{measured[1]}-against-name"), seen), DOUBTFUL


def object_rule(seen: Acquisition) -> Guess | None:
    """Kinds that the class of object, the modality or ImageType alone decides."""
    uid = seen.sop_class
    if uid in SEG_CLASSES:
        return SeriesKind.SEG, "object-seg"
    if uid == RTStructureSetStorage:
        return SeriesKind.RTSTRUCT, "object-rtstruct"
    if uid.startswith(SR_ROOT):
        return SeriesKind.SR, "object-sr"
    if uid == SecondaryCaptureImageStorage or uid.startswith(f"{CAPTURE_ROOT}."):
        return SeriesKind.SECONDARY_CAPTURE, "object-secondary-capture"
    if uid == EnhancedMRColorImageStorage:
        return SeriesKind.DERIVED, "object-colour"
    if uid in (MRSpectroscopyStorage, RawDataStorage) or uid not in VOLUME_CLASSES:
        return SeriesKind.OTHER, "object-no-image"
    if seen.modality == "CT":
        scout = bool(seen.image_type & {"LOCALIZER", "SCOUT"})
        return (SeriesKind.LOCALISER, "ct-scout") if scout else (SeriesKind.CT, "object-ct")
    if seen.modality != "MR":
        return SeriesKind.OTHER, "object-other-modality"
    return None


def has(seen: Acquisition, pattern: str) -> bool:
    """Whether whole words of the series' names match a pattern."""
    return re.search(rf" (?:{pattern}) ", seen.words) is not None


def special_rule(seen: Acquisition) -> Guess | None:
    """Localisers, derived images, diffusion, function and others that are no plain contrast."""
    kinds = seen.image_type
    if "LOCALIZER" in kinds or has(
        seen, r"loc|local|localizer|localiser|scout|survey|3 ?plane|3pl|plan ?scan|aahead scout"
    ):
        return SeriesKind.LOCALISER, "localiser-named"
    if len(seen.planes) > 1:
        return SeriesKind.LOCALISER, "localiser-planes"
    if "ADC" in kinds or has(seen, r"adc|apparent diffusion"):
        return SeriesKind.ADC, "adc"
    found = _processed_rule(seen) or _diffusion_rule(seen)
    if found is not None:
        return found
    if kinds & {"P", "PHASE", "PHASE MAP", "REAL", "IMAGINARY", "R", "I"} and "M" not in kinds:
        return SeriesKind.OTHER, "phase-image"
    if "SWI" in kinds or has(seen, r"swi|swan|venobold|swip|suscept\w*|qsm"):
        return SeriesKind.SWI, "susceptibility"
    if (
        "PERFUSION" in kinds
        or "PERFUSION" in seen.contrast
        or has(seen, r"perf\w*|asl|pcasl|pasl|dsc|dce|tra perf")
    ):
        return SeriesKind.OTHER, "perfusion"
    if has(seen, r"tof|mra|angio\w*|pca|venogra\w*|mrv") or "TOF" in kinds:
        return SeriesKind.OTHER, "angiography"
    if has(seen, r"field ?map\w*|gre field mapping|b0 ?map|b1 ?map|fmap"):
        return SeriesKind.OTHER, "field-map"
    if seen.time_points > 1:
        return (SeriesKind.BOLD if "T2" in kinds else SeriesKind.OTHER), "time-series"
    if "METABOLITE_MAP" in kinds or has(seen, r"spectro\w*|csi|svs|press"):
        return SeriesKind.OTHER, "spectroscopy"
    return None


def _processed_rule(seen: Acquisition) -> Guess | None:
    kinds = seen.image_type
    if kinds & PROCESSED or has(seen, r"mpr|mip|minip|subtraction|sub|reformat\w*|colfa|fa|3d vr"):
        return SeriesKind.DERIVED, "derived-processed"
    if "DERIVED" in kinds and not (kinds <= HARMLESS):
        if kinds & {"DIFFUSION", "TRACEW", "TRACE"}:
            return None
        return SeriesKind.DERIVED, "derived-image-type"
    if "SECONDARY" in kinds:
        return SeriesKind.DERIVED, "derived-secondary"
    return None


def _diffusion_rule(seen: Acquisition) -> Guess | None:
    if (
        seen.b_value > 0
        or seen.contrast == "DIFFUSION"
        or seen.image_type & {"DIFFUSION", "TRACEW", "TRACE"}
        or has(seen, r"dwi|dti|diff|diffusion|trace|tracew|resolve|ep2d diff|hardi|noddi")
        or re.search(r" \*?ep b\d+", seen.words)
    ):
        return SeriesKind.DWI, "diffusion"
    if "EP" in seen.sequence or "FMRI" in seen.image_type:
        if has(seen, r"bold|fmri|rest|resting|rsfmri|task|epfid2d1 \d+") or (
            "GR" in seen.sequence and 15 <= (seen.echo_time or 0) <= 60
        ):
            return SeriesKind.BOLD, "functional"
        if "MOSAIC" in seen.image_type:
            return SeriesKind.BOLD, "functional-mosaic"
        if has(seen, r"epi \w*"):
            return SeriesKind.BOLD, "functional-epi"
        return SeriesKind.DWI, "echo-planar-spin-echo" if "GR" not in seen.sequence else "epi"
    return None


def physics_rule(seen: Acquisition) -> Guess | None:
    """The contrast that echo, repetition and inversion time make."""
    stated = {
        "FLUID_ATTENUATED": SeriesKind.FLAIR,
        "T1": SeriesKind.T1W,
        "T2": SeriesKind.T2W,
        "PROTON_DENSITY": SeriesKind.PDW,
    }.get(seen.contrast)
    if stated is not None:
        return stated, f"stated-{stated.value}"
    echo, repetition = seen.echo_time, seen.repetition_time
    if echo is None or repetition is None:
        return None
    if "UNI" in seen.image_type:
        return SeriesKind.T1W, "mp2rage-uniform"
    if seen.inversion_time is not None and seen.inversion_time > 0:
        return _inversion_rule(seen.inversion_time, echo, repetition)
    if "IR" in seen.sequence and echo >= 70 and repetition >= 6000:
        return SeriesKind.FLAIR, "inversion-without-time"
    if "GR" in seen.sequence and "SE" not in seen.sequence:
        return _gradient_rule(seen, echo, repetition)
    return _spin_rule(seen, echo, repetition)


def _inversion_rule(inversion: float, echo: float, repetition: float) -> Guess | None:
    if inversion < 400 and echo >= 20 and repetition >= 1500:
        return SeriesKind.OTHER, "short-inversion"
    if inversion >= 1300 and echo >= 70 and repetition >= 3500:
        return SeriesKind.FLAIR, "fluid-attenuated"
    if 350 <= inversion <= 1500 and echo <= 45 and repetition <= 4000:
        return SeriesKind.T1W, "inversion-prepared-t1"
    return None


def _gradient_rule(seen: Acquisition, echo: float, repetition: float) -> Guess | None:
    angle = seen.flip_angle
    if "SS" in seen.variant and (angle or 0) >= 40 and repetition < 20:
        return SeriesKind.OTHER, "balanced-steady-state"
    if echo <= 10 and repetition <= 60:
        if angle is not None and angle < 5 and repetition > 15:
            return SeriesKind.PDW, "gradient-proton-density"
        return SeriesKind.T1W, "spoiled-gradient-t1"
    if echo <= 10 and repetition <= 700 and (angle or 0) >= 40:
        return SeriesKind.T1W, "gradient-t1-2d"
    if echo >= 12:
        return SeriesKind.OTHER, "t2-star"
    return None


def _spin_rule(seen: Acquisition, echo: float, repetition: float) -> Guess | None:
    if not seen.sequence & {"SE", "RM", "IR"}:
        return None
    if "RM" in seen.sequence and echo <= 10 and repetition <= 60:
        return SeriesKind.T1W, "research-mode-t1"
    if seen.echo_times > 1:
        return SeriesKind.OTHER, "several-echoes"
    if echo <= 35 and repetition <= 1300:
        return SeriesKind.T1W, "spin-t1"
    if echo >= 60 and repetition >= 1800:
        return SeriesKind.T2W, "spin-t2"
    if echo <= 50 and repetition >= 1800:
        return SeriesKind.PDW, "spin-proton-density"
    return None


def description_rule(seen: Acquisition) -> Guess | None:
    """The contrast that the series', protocol's or sequence's name says."""
    if has(seen, r"stir"):
        return SeriesKind.OTHER, "named-short-inversion"
    if has(seen, r"dir|double inversion"):
        return SeriesKind.OTHER, "named-double-inversion"
    if re.search(r" t1 ?\w* flair ", seen.words) or has(seen, r"t1flair"):
        return SeriesKind.T1W, "named-t1"
    if re.search(r"flair|dark ?fluid|(?: tirm )", seen.words):
        return SeriesKind.FLAIR, "named-flair"
    if has(seen, r"t1\w*|mprage|mp ?rage|spgr|bravo|fspgr|tfl|mp2rage|vibe|thrive|anat t1w"):
        return SeriesKind.T1W, "named-t1"
    if has(seen, r"t2 ?star\w*|t2\*\w*|medic|merge"):
        return SeriesKind.OTHER, "named-t2-star"
    if has(seen, r"t2\w*"):
        return SeriesKind.T2W, "named-t2"
    if has(seen, r"pd|pdw|proton density"):
        return SeriesKind.PDW, "named-proton-density"
    return None


def with_agent(guess: Guess, seen: Acquisition) -> Guess:
    """Tell T1 after contrast agent from T1 without."""
    if guess[0] is not SeriesKind.T1W:
        return guess
    before = has(seen, r"pre|native|nativ|without|wo|non|noncontrast|sans")
    after = has(
        seen, r"post|postcontrast|gd|gad|gado\w*|plus c|ce|c plus|contrast|km|dotarem|mdc|pc|inj"
    )
    if (seen.agent and not before) or (after and not before):
        return SeriesKind.T1W_CE, f"{guess[1]}+agent"
    return guess
