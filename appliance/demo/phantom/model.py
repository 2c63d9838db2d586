"""What a phantom study is asked for, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.identity import Identity
from appliance.demo.phantom.styles import STYLES, ScannerStyle
from appliance.errors import ApplianceError
from appliance.imaging.volume import Volume

Affine = NDArray[np.float64]


class PhantomRefused(ApplianceError):
    """A phantom cannot be made as asked: wrong style, count or folder."""


class Fault(StrEnum):
    """What is wrong with a study on purpose, so that the pipeline has something to refuse.

    MOTION: ghosts and blur along the phase-encoding direction of both series.
    CROPPED: the field of view cuts the brain.
    MISSING_SLICE: one slice in the middle of the FLAIR does not exist.
    BURNED_IN_NAME: the patient's name is in the pixels and BurnedInAnnotation says YES.
    WRONG_BODY_PART: a knee, and the header says so.
    TRUNCATED: the pixel data of one FLAIR slice end early (the element's length agrees with what
        is left, as in an archive that kept a broken transfer, so that a PACS takes the object).
    """

    MOTION = "motion"
    CROPPED = "cropped"
    MISSING_SLICE = "missing-slice"
    BURNED_IN_NAME = "burned-in-name"
    WRONG_BODY_PART = "wrong-body-part"
    TRUNCATED = "truncated"


class Severity(StrEnum):
    """How bad a fault is.

    MOTION: amplitude of the head's shifts. CROPPED: how much of the brain is outside.
    MISSING_SLICE: one slice next to the end, one in the middle, five in the middle.
    BURNED_IN_NAME: mild is dim and the header keeps silent; severe lies over the brain too.
    WRONG_BODY_PART: mild only in the pixels: the header says head. Else the header says so.
    TRUNCATED: the last row, three fifths, or nearly all of one slice is missing.
    """

    MILD = "mild"
    MEDIUM = "medium"
    SEVERE = "severe"


@dataclass(frozen=True, slots=True)
class PhantomRequest:
    """One study to make. Equal requests give equal studies, bit by bit.

    Attributes:
        index: Number of the patient within its hospital, from 0.
        style: Key of the scanner style: "ge", "siemens" or "philips".
        seed: Any non-negative number; patients of other seeds are other people.
        half_resolution: Voxels twice as long on each axis as the style's.
        lesions: Whether the patient has lesions.
        fault: What is wrong with the study, if anything.
        severity: How bad that is.
    """

    index: int
    style: str = "siemens"
    seed: int = 0
    half_resolution: bool = True
    lesions: bool = True
    fault: Fault | None = None
    severity: Severity = Severity.MEDIUM

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            known = ", ".join(sorted(STYLES))
            raise PhantomRefused(f"the scanner style must be one of {known}")
        if not 0 <= self.index < 10_000 or self.seed < 0:
            raise PhantomRefused("a patient's index is 0 to 9999, a seed is not negative")

    @property
    def scanner(self) -> ScannerStyle:
        """The scanner style's figures."""
        return STYLES[self.style]

    def rng(self, purpose: str) -> np.random.Generator:
        """A random stream of its own for each purpose: one more draw shifts no other stream."""
        words = [self.seed, self.index, *self.style.encode(), 0, *purpose.encode()]
        return np.random.default_rng(np.random.SeedSequence(words))


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """A study's images and its truth.

    Attributes:
        request: What was asked for.
        identity: The fictitious patient and every identifier that the headers will hold.
        flair: int16 stored values, axes (I, J, K): columns, rows, slices of the DICOM series.
        t1w: The same for T1, on its own grid.
        lesions: uint8 lesion mask on the FLAIR's grid.
        brain: uint8 brain mask on the FLAIR's grid.
        face: uint8 mask of the face (skin and features that identify) on the FLAIR's grid.
        mimics: uint8 mask of bright places that are no lesions on the FLAIR's grid.
        t1w_to_flair: 4 x 4 rigid, RAS mm: where a point of the T1's world lies in the FLAIR's.
        rescale: Slope from stored to reported values per series ("flair", "t1w").
        lesion_count: Lesions planted (touching ones counted one by one).
        lesion_ml: Volume of the lesions planted, before sampling, in ml.
    """

    request: PhantomRequest
    identity: Identity
    flair: Volume
    t1w: Volume
    lesions: Volume
    brain: Volume
    face: Volume
    mimics: Volume
    t1w_to_flair: Affine
    rescale: dict[str, float]
    lesion_count: int
    lesion_ml: float

    @property
    def flair_to_t1w(self) -> Affine:
        """4 x 4 rigid, RAS mm, fixed (FLAIR) to moving (T1): what registration looks for."""
        return np.asarray(np.linalg.inv(self.t1w_to_flair), dtype=np.float64)
