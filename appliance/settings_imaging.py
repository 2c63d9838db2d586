"""The tables of the settings file about images: naming series, labels, preparation, quality."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from appliance.settings_base import Section


class ImagingSection(Section):
    """How images are prepared up to `ready`."""

    profile: Literal["quick", "full"] = "full"
    deface: Literal["deface", "skull-strip"] = "deface"
    """What happens to the face before an image enters the research zone; it is never kept."""
    inputs: tuple[Literal["FLAIR", "T1w", "T2w", "PDw", "T1wCE"], ...] = ("FLAIR", "T1w")
    """The series that are taken of each study, by canonical modality."""
    seed: Annotated[int, Field(ge=0)] = 0


class QcSection(Section):
    """What the quality check decides."""

    review: Literal["hold", "pass"] = "hold"
    """``hold``: a doubtful study waits for a person; ``pass``: it goes on, marked."""
    voxel_size_mm: tuple[float, float] | None = None
    """Smallest and largest allowed voxel edge; None takes the check's own limits."""


class LabelsSection(Section):
    """Which segmentations count as an expert's."""

    creators: tuple[str, ...] = ()
    """ContentCreatorName values that are accepted; empty accepts every creator but clinode."""
    codes: dict[
        Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.-]{1,16}:[A-Za-z0-9_.-]{1,16}\z")],
        Annotated[int, Field(ge=1, le=255)],
    ] = Field(default_factory=lambda: {"SCT:52988006": 1})
    """Local label: ``SCHEME:VALUE`` of the segmented property type, to the value in the masks."""


class BidsSection(Section):
    """What the data set in the research zone says of persons; nothing unless written here."""

    participants: tuple[Literal["sex", "age"], ...] = ()
    """Values of ``participants.tsv``; age also per session."""
    age_step_years: Annotated[int, Field(ge=1, le=50)] = 5
    """Ages are rounded down to multiples of this; 89 and older is always 89."""
