"""Phantom studies and cohorts on disk: DICOM as a PACS would hold it, truth beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom

from appliance.demo.phantom.headers import series_header, stored_format, study_uid
from appliance.demo.phantom.lesions import count_lesions
from appliance.demo.phantom.model import (
    Fault,
    PhantomRefused,
    PhantomRequest,
    PhantomStudy,
    Severity,
)
from appliance.demo.phantom.series import instance_uid, write_mr_series
from appliance.demo.phantom.study import make_study
from appliance.imaging.volume import save_volume
from dicom_bridge.convert import SourceSeries
from dicom_bridge.seg import SegmentSpec, SegRequest, write_seg

EXPERT = "EXPERT^READER"
"""ContentCreatorName of the experts' segmentations."""
SEG_SERIES_NUMBER = 9001
TRUTH_FORMAT = 1


@dataclass(frozen=True, slots=True)
class WrittenStudy:
    """A study on disk. Files are listed as the PACS would get them.

    Attributes:
        folder: Holds everything of the study.
        request: What was asked for.
        StudyInstanceUID: The study's UID.
        flair: Files of the FLAIR in slice order.
        t1w: Files of the T1 in slice order.
        segmentation: The expert's SEG, if written.
        planted: Identifiers in the headers by kind: names, ids, dates, others, uids.
    """

    folder: Path
    request: PhantomRequest
    StudyInstanceUID: str
    flair: tuple[Path, ...]
    t1w: tuple[Path, ...]
    segmentation: Path | None
    planted: dict[str, tuple[str, ...]]

    @property
    def files(self) -> tuple[Path, ...]:
        """All DICOM files."""
        extra = (self.segmentation,) if self.segmentation else ()
        return (*self.t1w, *self.flair, *extra)

    def __repr__(self) -> str:
        return f"WrittenStudy({len(self.files)} files)"


def write_study(study: PhantomStudy, out: Path, *, segmentation: bool) -> WrittenStudy:
    """Write one study.

    Args:
        study: The study.
        out: Folder for it; `T1w/`, `FLAIR/` and, with a segmentation, `SEG/` are made in it.
        segmentation: Whether the expert's lesion outline goes with it as DICOM SEG. A patient
            without a lesion voxel has none.

    Returns:
        What was written.

    Raises:
        SegRefused: the segmentation did not read back as it was written.
    """
    style = study.request.scanner
    pixels = stored_format(style)
    t1w = write_mr_series(study.t1w, series_header(study, style.t1w), out / "T1w", stored=pixels)
    flair = write_mr_series(
        study.flair, series_header(study, style.flair), out / "FLAIR", stored=pixels
    )
    seg = None
    if segmentation and bool(study.lesions.data.any()):
        seg = _write_expert(study, flair, out / "SEG" / "0001.dcm")
    flair = _break(study.request, flair)
    return WrittenStudy(
        folder=out,
        request=study.request,
        StudyInstanceUID=study_uid(study.request, "study"),
        flair=flair,
        t1w=t1w,
        segmentation=seg,
        planted=planted(study),
    )


def planted(study: PhantomStudy) -> dict[str, tuple[str, ...]]:
    """Every identifier of a study by kind, its original UIDs included."""
    style = study.request.scanner
    series = [
        study_uid(study.request, f"series-{number}")
        for number in (style.t1w.series_number, style.flair.series_number)
    ]
    uids = (study_uid(study.request, "study"), study_uid(study.request, "frame"), *series)
    return study.identity.planted | {"uids": uids}


def _write_expert(study: PhantomStudy, flair: Sequence[Path], out: Path) -> Path:
    """The expert's outline as DICOM SEG on the FLAIR."""
    out.parent.mkdir(parents=True, exist_ok=True)
    series = study_uid(study.request, "series-seg")
    who = study.identity
    request = SegRequest(
        source=SourceSeries.from_files(flair),
        mask=study.lesions.data,
        affine=study.lesions.affine,
        segments=(SegmentSpec(number=1, label="MS lesion", algorithm_type="MANUAL"),),
        out=out,
        sop_instance_uid=instance_uid(series, 1),
        series_instance_uid=series,
        series_number=SEG_SERIES_NUMBER,
        series_description="MS lesions, expert reader",
        content_label="MS_LESIONS",
        content_description="White matter lesions outlined by an expert",
        creator=EXPERT,
        written_at=who.acquired,
        manufacturer="Phantom Reading Room",
        software_version="1.0",
    )
    return write_seg(request).path


def _break(request: PhantomRequest, flair: tuple[Path, ...]) -> tuple[Path, ...]:
    """Faults of files rather than of images."""
    middle = len(flair) // 2
    if request.fault is Fault.MISSING_SLICE:
        lost = {
            Severity.MILD: flair[1:2],
            Severity.MEDIUM: flair[middle : middle + 1],
            Severity.SEVERE: flair[middle - 2 : middle + 3],
        }[request.severity]
        for path in lost:
            path.unlink()
        return tuple(path for path in flair if path not in lost)
    if request.fault is Fault.TRUNCATED:
        dataset = pydicom.dcmread(flair[middle])
        size = len(dataset.PixelData)
        keep = {
            Severity.MILD: size - 2 * dataset.Columns,
            Severity.MEDIUM: size * 2 // 5,
            Severity.SEVERE: 128,
        }[request.severity]
        dataset.PixelData = dataset.PixelData[: keep - keep % 2]
        dataset.save_as(flair[middle])
    return flair


@dataclass(frozen=True, slots=True)
class CohortRequest:
    """A hospital's studies.

    Attributes:
        patients: Number of studies in all.
        style: Scanner style key.
        seed: Seed of the whole cohort.
        half_resolution: Voxels twice as long on each axis.
        unlabelled: How many of the last good studies come without the expert's SEG.
        faults: One of the last studies for each, labelled like the others.
    """

    patients: int
    style: str
    seed: int = 0
    half_resolution: bool = True
    unlabelled: int = 0
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.patients < 1 or self.unlabelled < 0:
            raise PhantomRefused("a cohort has at least one patient and no negative count")
        if self.unlabelled + len(self.faults) > self.patients:
            raise PhantomRefused("more unlabelled and faulty studies than patients are asked for")

    def studies(self) -> list[tuple[PhantomRequest, bool]]:
        """Requests in order, each with whether it gets the expert's SEG."""
        good = self.patients - len(self.faults)
        out = []
        for index in range(self.patients):
            fault = self.faults[index - good] if index >= good else None
            request = PhantomRequest(
                index=index,
                style=self.style,
                seed=self.seed,
                half_resolution=self.half_resolution,
                fault=fault,
            )
            out.append((request, not good - self.unlabelled <= index < good))
        return out


def write_cohort(
    cohort: CohortRequest, out: Path, *, done: Callable[[WrittenStudy], None] | None = None
) -> list[WrittenStudy]:
    """Write a hospital's studies and, beside them, the truth (`clinode tools phantom`).

    Args:
        cohort: How many of what.
        out: Folder; `dicom/NNNN/` gets each study's DICOM, `truth/NNNN/` its truth.
        done: Hears of each study as it is finished.

    Returns:
        The studies in order.

    Raises:
        PhantomRefused: the folder holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise PhantomRefused("an empty or new folder is needed: what is there is not overwritten")
    written = []
    for request, labelled in cohort.studies():
        study = make_study(request)
        one = write_study(study, out / "dicom" / f"{request.index:04d}", segmentation=labelled)
        write_truth(study, one, out / "truth" / f"{request.index:04d}")
        written.append(one)
        if done is not None:
            done(one)
    return written


def write_truth(study: PhantomStudy, written: WrittenStudy, out: Path) -> Path:
    """Write masks (NIfTI on the FLAIR's grid) and `truth.json`.

    The truth names the planted identifiers: it belongs beside the DICOM, never into a research
    zone.

    Args:
        study: The study.
        written: Where its DICOM is.
        out: Folder for the truth.

    Returns:
        Path of `truth.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ("lesions", "brain", "face", "mimics"):
        save_volume(getattr(study, name), out / f"{name}.nii.gz")
    request = study.request
    mask = study.lesions
    document = {
        "format": TRUTH_FORMAT,
        "style": request.style,
        "index": request.index,
        "seed": request.seed,
        "half_resolution": request.half_resolution,
        "fault": request.fault.value if request.fault else None,
        "severity": request.severity.value if request.fault else None,
        "labelled": written.segmentation is not None,
        "t1w_to_flair_ras_mm": study.t1w_to_flair.tolist(),
        "lesions_planted": study.lesion_count,
        "lesion_volume_planted_ml": study.lesion_ml,
        "lesions_on_grid": count_lesions(mask.data),
        "lesion_volume_on_grid_ml": float(mask.data.sum()) * mask.voxel_ml,
        "planted_identifiers": {kind: list(v) for kind, v in written.planted.items()},
    }
    path = out / "truth.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
