"""The closed vocabulary of series kinds, and what is said about a series."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dicom_bridge.classify.timing import Run


class SeriesKind(StrEnum):
    """What a series shows; values are BIDS suffixes where BIDS has one."""

    T1W = "T1w"
    T1W_CE = "T1wCE"
    T2W = "T2w"
    FLAIR = "FLAIR"
    PDW = "PDw"
    DWI = "DWI"
    ADC = "ADC"
    SWI = "SWI"
    BOLD = "BOLD"
    CT = "CT"
    LOCALISER = "localiser"
    DERIVED = "derived"
    SECONDARY_CAPTURE = "secondary-capture"
    SEG = "SEG"
    RTSTRUCT = "RTSTRUCT"
    SR = "SR"
    OTHER = "other"
    IGNORED = "ignore"
    """Left out by the site's own rule."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What a series is, and why.

    Attributes:
        kind: from the closed vocabulary.
        confidence: 0 to 1; below 0.6 the acquisition and the names contradict each other or
            nothing speaks for the kind.
        rule: name of the rule that decided, from a closed vocabulary.
        body_part: "head", "unknown", or the name of another body part (closed vocabulary).
        body_part_ok: whether the series may be of the head.
        dimension: "2D", "3D" or "" where unknown.
        plane: "axial", "coronal", "sagittal" or "" where unknown or mixed.
        corrected: whether the scanner's distortion correction was applied.
        rival: the kind that the other side says; of a derived series, what it was made from.
        original: whether ImageType does not say DERIVED.
        agent: whether the header says that the contrast agent was in the body.
        run: what tells a repeated acquisition from another protocol.
    """

    kind: SeriesKind
    confidence: float
    rule: str
    body_part: str = "unknown"
    body_part_ok: bool = True
    dimension: str = ""
    plane: str = ""
    corrected: bool = False
    rival: SeriesKind | None = None
    original: bool = True
    agent: bool = False
    run: Run = field(default_factory=Run)

    @property
    def remark(self) -> str:
        """What speaks against the kind, in words of the closed vocabulary; "" where nothing."""
        if self.rival is None:
            return ""
        if self.kind is SeriesKind.DERIVED:
            return f"made from {self.rival.value}"
        if self.rule.startswith("site-name"):
            return f"the site's rule against the acquisition, which says {self.rival.value}"
        return f"may also be {self.rival.value}: acquisition and names contradict each other"


@dataclass(frozen=True, slots=True)
class SeriesFiles:
    """One series of a study on disk.

    Attributes:
        SeriesInstanceUID: original (identifying).
        SeriesNumber: as written, 0 where absent.
        files: in the order of their names (identifying side).
        classification: what it is.
        instances: files.
        slices: distinct images: frames of multi-frame instances counted one by one.
        own_result: whether it is a SEG that clinode wrote as a result.
    """

    SeriesInstanceUID: str = field(repr=False)
    SeriesNumber: int
    files: tuple[Path, ...] = field(repr=False)
    classification: Classification
    instances: int
    slices: int
    own_result: bool = False

    @property
    def kind(self) -> SeriesKind:
        """From the closed vocabulary."""
        return self.classification.kind

    @property
    def confidence(self) -> float:
        """0 to 1."""
        return self.classification.confidence

    @property
    def rule(self) -> str:
        """Name of the rule that decided."""
        return self.classification.rule

    @property
    def dimension(self) -> str:
        """The acquisition's "2D" or "3D", "" where unknown."""
        return self.classification.dimension


@dataclass(frozen=True, slots=True)
class StudyScan:
    """All series in a folder.

    Attributes:
        series: by SeriesNumber.
        unreadable: files that are no readable DICOM instance.
        studies: distinct StudyInstanceUIDs seen.
    """

    series: tuple[SeriesFiles, ...]
    unreadable: tuple[Path, ...] = field(repr=False)
    studies: int
