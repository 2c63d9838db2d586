"""The contrast that echo, repetition and inversion time make.

Times in ms. The limits follow the physics of the usual protocols at 0.06 to 7 T.
"""

from __future__ import annotations

from dicom_bridge.classify.attributes import Acquisition
from dicom_bridge.classify.guess import NAMED, Guess
from dicom_bridge.classify.kinds import SeriesKind

STATED = {
    "FLUID_ATTENUATED": SeriesKind.FLAIR,
    "T1": SeriesKind.T1W,
    "T2": SeriesKind.T2W,
    "PROTON_DENSITY": SeriesKind.PDW,
}
"""Acquisition Contrast (0008,9209) of enhanced objects, PS3.3 C.8.13.3.1.4."""


def contrast_rule(seen: Acquisition) -> Guess | None:
    """The contrast of a magnitude image that is no localiser, map, diffusion or time series.

    Args:
        seen: the series' acquisition.

    Returns:
        A guess, or None where the header holds too little.
    """
    stated = {STATED[name] for name in seen.contrasts if name in STATED}
    if len(stated) == 1:
        kind = stated.pop()
        return Guess(kind, f"stated-{kind.value}")
    echo, repetition = seen.echo_time, seen.repetition_time
    if echo is None or repetition is None:
        return None
    if "UNI" in seen.image_type:
        return Guess(SeriesKind.T1W, "mp2rage-uniform")
    if seen.inversion_time is not None and seen.inversion_time > 0:
        return _inversion_rule(seen, seen.inversion_time, echo, repetition)
    if "IR" in seen.sequence and echo >= 70 and repetition >= 6000:
        return Guess(SeriesKind.FLAIR, "inversion-without-time", NAMED)
    if "GR" in seen.sequence and "SE" not in seen.sequence:
        return _gradient_rule(seen, echo, repetition)
    return _spin_rule(seen, echo, repetition)


def _inversion_rule(
    seen: Acquisition, inversion: float, echo: float, repetition: float
) -> Guess | None:
    if inversion < 350 and repetition >= 1500 and "GR" not in seen.sequence:
        return Guess(SeriesKind.OTHER, "short-inversion")
    if inversion < 400 and echo >= 20 and repetition >= 1500:
        return Guess(SeriesKind.OTHER, "short-inversion")
    if inversion >= 1300 and echo >= 70 and repetition >= 3500:
        return Guess(SeriesKind.FLAIR, "fluid-attenuated")
    if 350 <= inversion <= 1500 and echo <= 45 and repetition <= 4000:
        return Guess(SeriesKind.T1W, "inversion-prepared-t1")
    return None


def _gradient_rule(seen: Acquisition, echo: float, repetition: float) -> Guess | None:
    angle = seen.flip_angle
    if "SS" in seen.variant and (angle or 0) >= 40 and repetition < 20:
        return Guess(SeriesKind.OTHER, "balanced-steady-state")
    if seen.echo_times > 1:
        return Guess(SeriesKind.OTHER, "several-echoes")
    if echo >= 12:
        if seen.dimension == "3D" and "FC" in seen.variant and repetition <= 80:
            return Guess(SeriesKind.SWI, "flow-compensated-t2-star", NAMED)
        return Guess(SeriesKind.OTHER, "t2-star")
    if echo <= 10 and repetition <= 60:
        if angle is not None and angle < 5 and repetition > 15:
            return Guess(SeriesKind.PDW, "gradient-proton-density")
        if repetition >= 15 and seen.variant & {"MTC", "FC"}:
            # Inflow angiography and magnetisation transfer share the times of a spoiled T1.
            return Guess(SeriesKind.OTHER, "gradient-with-preparation", NAMED)
        return Guess(SeriesKind.T1W, "spoiled-gradient-t1")
    if echo <= 10 and repetition <= 700 and (angle or 0) >= 40:
        return Guess(SeriesKind.T1W, "gradient-t1-2d")
    return None


def _spin_rule(seen: Acquisition, echo: float, repetition: float) -> Guess | None:
    if not seen.sequence & {"SE", "RM", "IR"}:
        return None
    if "RM" in seen.sequence and echo <= 10 and repetition <= 60:
        return Guess(SeriesKind.T1W, "research-mode-t1", NAMED)
    if seen.echo_times > 1:
        return Guess(SeriesKind.OTHER, "several-echoes")
    if echo <= 35 and repetition <= 1300:
        return Guess(SeriesKind.T1W, "spin-t1")
    if echo >= 60 and repetition >= 1800:
        return Guess(SeriesKind.T2W, "spin-t2")
    if echo <= 50 and repetition >= 1800:
        return Guess(SeriesKind.PDW, "spin-proton-density")
    return None
