"""The plain values that secondary captures are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.geometry import FloatArray
from dicom_bridge.seg.model import MANUFACTURER, Coverage, SegmentSpec

BANNER = "RESEARCH - NOT FOR DIAGNOSIS"
CaptureForm = Literal["single", "multi"]


@dataclass(frozen=True, slots=True)
class Window:
    """Values shown from black to white (PS3.3 C.11.2.1.2).

    Attributes:
        center: WindowCenter, in the pixels' own unit.
        width: WindowWidth, above 0.
    """

    center: float
    width: float


@dataclass(frozen=True, slots=True, eq=False)
class CaptureRequest:
    """Pictures of one source series with a mask's contours.

    Attributes:
        source: the series' original headers.
        pixels: (I, J, K) values on the series' own grid (column, row, slice).
        mask: (X, Y, Z) label values; 0 is background.
        affine: (4, 4) the mask's index to RAS mm; any grid that covers the series.
        segments: meaning and colour of every value in the mask.
        out: folder for the files, made where absent.
        series_instance_uid: new, from the caller; SOP instance UIDs are derived from it.
        form: "single": one object per slice (opens everywhere); "multi": one multi-frame object.
        all_slices: also slices without a contour.
        coverage: see `SegRequest.coverage`.
        window: None takes the 1st to 99.5th percentile of the values above 0.
        banner: text burned into every picture above the slice, at most 400 characters.
        caption: further lines burned in at the bottom (plan, model), broken where they are too
            long: never a patient's value.
        series_number: None takes the source's SeriesNumber + 1002.
        series_description: "RESEARCH " is put in front where it is lacking.
        written_at: content date and time; None takes the time now (UTC).
        patient_overrides: fresh patient and study attributes by keyword.
        manufacturer: Manufacturer and model; `clinode` marks a result of ours.
        software_version: SoftwareVersions; None takes clinode's.
    """

    source: SourceSeries
    pixels: NDArray[np.generic]
    mask: NDArray[np.uint8]
    affine: FloatArray
    segments: tuple[SegmentSpec, ...]
    out: Path
    series_instance_uid: str
    form: CaptureForm = "single"
    all_slices: bool = False
    coverage: Coverage = "crop"
    window: Window | None = None
    banner: str = BANNER
    caption: tuple[str, ...] = ()
    series_number: int | None = None
    series_description: str = "Contours"
    written_at: datetime | None = None
    patient_overrides: Mapping[str, str] = field(default_factory=dict, repr=False)
    manufacturer: str = MANUFACTURER
    software_version: str | None = None


@dataclass(frozen=True, slots=True)
class CaptureWritten:
    """What was written.

    Attributes:
        paths: the files, in slice order.
        slices: K index of each picture, in the same order.
        sop_class_uid: of the files.
        sop_instance_uids: of the files.
        series_instance_uid: as asked for.
        series_number: as written.
    """

    paths: tuple[Path, ...]
    slices: tuple[int, ...]
    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]
    series_instance_uid: str
    series_number: int
