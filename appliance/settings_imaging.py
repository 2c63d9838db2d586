"""The tables of the settings file about images: naming series, labels, preparation, quality."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from appliance.quality_table import Bounds, direction_of, known_names
from appliance.settings_base import Section

Modality = Literal["FLAIR", "T1w", "T2w", "PDw", "T1wCE", "DWI", "ADC", "SWI", "CT"]
Millimetres = Annotated[float, Field(gt=0, le=1000)]
Count = Annotated[int, Field(ge=1, le=4096)]
Limit = float | Literal["off"]


class ImagingSection(Section):
    """How images are prepared up to `ready`."""

    profile: Literal["quick", "full"] = "full"
    body_part: Literal["head", "other"] = "head"
    """``other``: neither brain mask nor defacing. Series of the head, of parts that may show a
    face and of unknown parts are refused then, so that this setting never lets a face through."""
    reference: Modality = "FLAIR"
    """The image that the others are registered to, and on whose grid labels and masks stand."""
    registration: Literal["auto", "rigid", "scanner"] = "auto"
    """``rigid`` searches the motion between the images; ``scanner`` trusts the scanner's own
    coordinates and refuses images of different frames of reference; ``auto``: rigid for the head,
    scanner for other parts."""
    deface: Literal["deface", "skull-strip"] = "deface"
    """What happens to the face before an image enters the research zone; it is never kept."""
    inputs: tuple[Modality, ...] = ("FLAIR", "T1w")
    """The series that are taken of each study, by canonical modality."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of what is drawn at random in imaging."""
    cache_gib: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """Largest folder of kept results of preparation (bias correction, denoising, resampling), least
    recently used out first; 0 keeps nothing."""

    @model_validator(mode="after")
    def _reference_taken(self) -> Self:
        if self.body_part == "other" and self.reference not in self.inputs:
            raise ValueError(
                f"body_part 'other' needs its reference {self.reference} among inputs: set both"
            )
        return self

    @property
    def by_scanner(self) -> bool:
        """Whether images are laid over each other by the scanner's coordinates."""
        if self.registration == "auto":
            return self.body_part == "other"
        return self.registration == "scanner"


class SeriesName(Section):
    """What the site calls a kind of series.

    It goes before the description, not before physics: against the acquisition it lowers the
    confidence, and the study waits for a person.
    """

    pattern: Annotated[str, Field(min_length=1, max_length=128)]
    """Shell wildcard (``*``, ``?``, ``[abc]``) for the whole value, in any case."""
    attribute: Literal["SeriesDescription", "ProtocolName", "SequenceName"] = "SeriesDescription"
    """What the pattern is matched against."""
    kind: Literal[
        "FLAIR",
        "T1w",
        "T1wCE",
        "T2w",
        "PDw",
        "DWI",
        "ADC",
        "SWI",
        "BOLD",
        "CT",
        "localiser",
        "derived",
        "secondary-capture",
        "other",
        "ignore",
    ]
    """What such a series is; ``ignore`` leaves it out."""


class SeriesSection(Section):
    """How the site names its series; try it with ``clinode tools classify DIR --settings FILE``."""

    names: Annotated[tuple[SeriesName, ...], Field(max_length=200)] = ()
    """Rules in their order: the first that matches counts."""


class ProtocolSection(Section):
    """The geometry that the site's protocol declares for one modality, ``[qc.protocol.FLAIR]``."""

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Expected voxel size, in any order of axes."""
    tolerance_mm: Annotated[float, Field(gt=0, le=5)] = 0.1
    """Allowed difference of each edge from ``spacing_mm``."""
    mismatch: Literal["review", "fail"] = "review"
    """What a larger difference means."""
    matrix: tuple[Count, Count, Count] | None = None
    """Fewest voxels along the axes, smallest first; None takes the check's own."""
    extent_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Shortest field of view along the axes, smallest first; None takes the check's own."""


class SiteSection(Section):
    """How a study is compared with the site's own ready studies, ``[qc.site]``."""

    least: Annotated[int, Field(ge=5, le=5000)] = 20
    """With fewer studies than this, nothing is compared."""
    z: Annotated[float, Field(ge=0, le=100)] = 6.0
    """Robust z in the bad direction beyond which a person looks; 0 compares without consequence."""


class QcSection(Section):
    """What the quality check decides."""

    review: Literal["hold", "pass"] = "hold"
    """``hold``: a doubtful study waits for a person; ``pass``: it goes on, marked."""
    voxel_size_mm: tuple[float, float] | None = None
    """Smallest and largest allowed voxel edge; None takes the check's own limits."""
    protocol: dict[Modality, ProtocolSection] = Field(default_factory=dict)
    """The site's protocol by canonical modality."""
    thresholds: dict[str, tuple[Limit, Limit]] = Field(default_factory=dict)
    """Figure's name (``flair_snr``) to its bounds ``[review, fail]``; "off" is no bound."""
    site: SiteSection = SiteSection()

    @field_validator("thresholds")
    @classmethod
    def _known(cls, value: dict[str, tuple[Limit, Limit]]) -> dict[str, tuple[Limit, Limit]]:
        known = set(known_names())
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(
                f"no quality figure is called {', '.join(unknown)}: see docs/imaging.md"
            )
        idle = sorted(name for name in value if direction_of(name) == "none")
        if idle:
            raise ValueError(f"{', '.join(idle)} only describes: no direction of it is better")
        return value

    def bounds(self) -> dict[str, Bounds]:
        """The site's bounds, "off" as None."""
        return {
            name: (None if review == "off" else review, None if fail == "off" else fail)
            for name, (review, fail) in self.thresholds.items()
        }


class LabelsSection(Section):
    """Which segmentations count as an expert's, and how several become one label."""

    creators: tuple[str, ...] = ()
    """ContentCreatorName values that are accepted; empty accepts every creator but clinode."""
    codes: dict[
        Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.-]{1,16}:[A-Za-z0-9_.-]{1,16}\z")],
        Annotated[int, Field(ge=1, le=255)],
    ] = Field(default_factory=lambda: {"SCT:52988006": 1})
    """Local label: ``SCHEME:VALUE`` of the segmented property type, to the value in the masks."""
    rois: dict[
        Annotated[str, Field(min_length=1, max_length=64)], Annotated[int, Field(ge=1, le=255)]
    ] = Field(default_factory=dict)
    """ROI name of RT structure sets without a mapped code, to the value in the masks."""
    precedence: tuple[Annotated[int, Field(ge=1, le=255)], ...] = ()
    """Values that win where segments overlap, the strongest first; else the smaller structure."""
    merge: dict[
        Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.-]{1,16}:[A-Za-z0-9_.-]{1,16}\z")],
        Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(min_length=1)],
    ] = Field(default_factory=dict)
    """A plan's label that the site keeps in parts: its ``SCHEME:VALUE`` to the parts' values."""
    consensus: Literal["newest", "majority", "staple"] = "newest"
    """How the labels of several raters become one."""

    @model_validator(mode="after")
    def _parts_known(self) -> Self:
        known = self.values()
        for what, used in (
            ("precedence", set(self.precedence)),
            ("merge", {value for parts in self.merge.values() for value in parts}),
        ):
            if used - known:
                words = ", ".join(str(value) for value in sorted(used - known))
                raise ValueError(f"{what} names values that codes and rois do not have: {words}")
        return self

    def values(self) -> frozenset[int]:
        """The site's label values."""
        return frozenset(self.codes.values()) | frozenset(self.rois.values())


class FingerprintSection(Section):
    """How `clinode dataset fingerprint` coarsens what a plan may take along."""

    minimum_patients: Annotated[int, Field(ge=2, le=1000)] = 5
    """A figure that fewer patients share is left out: never one patient's."""
    spacing_step_mm: Annotated[float, Field(ge=0.001, le=1.0)] = 0.05
    """Voxel spacings are rounded to multiples of this."""
    shape_step: Annotated[int, Field(ge=1, le=256)] = 8
    """Cropped shapes are rounded to multiples of this, voxels."""
    intensity_step_hu: Literal[1, 2, 4, 8, 16, 32, 64] = 8
    """Width of a bin of CT intensities."""
    count_step: Annotated[int, Field(ge=1, le=100)] = 1
    """Counts of patients and cases are rounded to multiples of this."""


class BidsSection(Section):
    """What the data set in the research zone says of persons; nothing unless written here."""

    participants: tuple[Literal["sex", "age"], ...] = ()
    """Values of ``participants.tsv``; age also per session."""
    age_step_years: Annotated[int, Field(ge=1, le=50)] = 5
    """Ages are rounded down to multiples of this; 89 and older is always 89."""
