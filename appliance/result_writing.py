"""A model's mask becomes DICOM objects on the source series; runs in a worker process.

A result is a folder: the SEG, its measurement report and, where wanted, pictures for viewers that
show neither. It is written beside its place and renamed into it whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.home import remove_tree, sync_folder
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DicomBridgeError, SegRefused
from dicom_bridge.seg.model import Code, NoFinding, SegmentSpec, SegRequest, SegWritten
from federation.manifest import ModelManifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEG_FILE = "seg.dcm"
REPORT_FILE = "sr.dcm"
PICTURES = "sc"
SEG, SR, SC = "seg", "sr", "sc"
LISTED_LESIONS = 50


@dataclass(frozen=True, slots=True)
class ResultUids:
    """The UIDs of a result's objects; they follow from study, model and the node's secret."""

    seg: str = field(repr=False)
    seg_series: str = field(repr=False)
    report: str = field(repr=False)
    report_series: str = field(repr=False)
    picture_series: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The result in the PACS that a new one supersedes.

    Attributes:
        model_id: its model.
        report: SOP and series instance UID of its report; None where it has none.
    """

    model_id: str
    report: tuple[str, str] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Quality:
    """How well the model did on this site's own cases: mean and SD of Dice over cases."""

    mean: float
    cases: int
    deviation: float | None


@dataclass(frozen=True, slots=True)
class ResultWork:
    """One mask to write as a result, as it travels to a worker.

    Attributes:
        mask: the trainer's mask file on the prepared grid.
        image: the FLAIR image of the research zone: the source grid.
        source: the series' original headers.
        manifest: the model.
        folder: the result's folder (identified zone); made whole or not at all.
        uids: UIDs to use.
        form: what is made, of ``seg``, ``sr`` and ``sc``.
        disclaimer: wording of the report that this is not for diagnosis.
        predecessor: the result that this one supersedes, or None.
        quality: the model's known quality at this site, or None.
        written_at: content date and time (UTC).
    """

    mask: Path
    image: Path
    source: SourceSeries = field(repr=False)
    manifest: ModelManifest
    folder: Path
    uids: ResultUids = field(repr=False)
    form: tuple[str, ...]
    disclaimer: str
    predecessor: Predecessor | None
    quality: Quality | None
    written_at: datetime


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """One object on disk: its form, file name, SOP instance, SHA-256 and size in bytes."""

    form: str
    file: str
    sop_instance_uid: str = field(repr=False)
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ResultDone:
    """What the model found.

    Attributes:
        volume_ml: over all labels.
        lesions: connected pieces over all labels.
        found: whether there is any.
        objects: what was written.
        findings: label, volume and the largest pieces' volumes, as JSON values.
    """

    volume_ml: float
    lesions: int
    found: bool
    objects: tuple[WrittenObject, ...]
    findings: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A mask on the source grid with its affine (RAS mm) and the grid's image values."""

    values: NDArray[np.uint8]
    affine: NDArray[np.float64]
    pixels: NDArray[np.generic]
    voxel_ml: float


def write_result(work: ResultWork) -> ResultDone:
    """Bring a mask back to the source grid and write its objects; runs in a worker process.

    Raises:
        DicomBridgeError: an object cannot be written, or does not read back the same.
    """
    part = work.folder.with_name(f"{work.folder.name}.part")
    remove_tree(part)
    part.mkdir(mode=0o700, parents=True)
    found = _on_source_grid(work)
    seg = _segmentation(work, found, part)
    if SR in work.form:
        _report(work, seg, part)
    if SC in work.form and seg is not None:
        _pictures(work, found, part)
    if SEG not in work.form:
        (part / SEG_FILE).unlink(missing_ok=True)
    objects = tuple(_objects(part))
    remove_tree(work.folder)
    sync_folder(part)
    part.rename(work.folder)
    sync_folder(work.folder.parent)
    if seg is None:
        return ResultDone(0.0, 0, found=False, objects=objects, findings=())
    findings = _findings(work.manifest, found)
    return ResultDone(
        volume_ml=round(sum(f["volume_ml"] for f in findings), 4),
        lesions=sum(f["lesions"] for f in findings),
        found=True,
        objects=objects,
        findings=findings,
    )


def _on_source_grid(work: ResultWork) -> _Found:
    import nibabel
    import numpy as np

    from appliance.imaging.grid import Grid
    from appliance.imaging.preparation import invert
    from federation.learning.prepared import read_mask

    predicted = read_mask(work.mask)
    image: Any = nibabel.load(work.image)
    shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
    grid = Grid(shape, np.asarray(image.affine, dtype=np.float64))
    mask = invert(predicted.mask, predicted.affine, grid, interpolation="linear")
    pixels = np.asanyarray(image.dataobj) if SC in work.form else np.empty(0)
    return _Found(mask.data.astype(np.uint8), mask.affine, pixels, mask.voxel_ml)


def _titles(work: ResultWork) -> tuple[str, str]:
    """SeriesDescription and ContentDescription: plan, model, and what is superseded."""
    model = work.manifest.id[:8]
    tail = f" {model}"
    if work.predecessor is not None:
        tail += f" supersedes {work.predecessor.model_id[:8]}"
    series = f"RESEARCH {work.manifest.plan_name}"[: 64 - len(tail)] + tail
    content = f"{work.manifest.plan_name}"[: 64 - len(tail)] + tail
    return series, content


def _segmentation(work: ResultWork, found: _Found, part: Path) -> SegWritten | None:
    """The SEG; None where the mask is empty. Without ``seg`` in the form it is not kept."""
    from dicom_bridge.seg.write import write_seg

    if not found.values.any():
        return None
    series, content = _titles(work)
    request = SegRequest(
        source=work.source,
        mask=found.values,
        affine=found.affine,
        segments=tuple(segments_of(work.manifest)),
        out=part / SEG_FILE,
        sop_instance_uid=work.uids.seg,
        series_instance_uid=work.uids.seg_series,
        series_description=series,
        content_description=content,
        written_at=work.written_at,
    )
    try:
        return write_seg(request)
    except NoFinding:
        return None


def _report(work: ResultWork, seg: SegWritten | None, part: Path) -> None:
    from dicom_bridge.sr import Algorithm, KnownQuality, ReportRequest, SegReference, write_report

    quality = None
    if work.quality is not None:
        known = work.quality
        quality = KnownQuality(known.mean, known.cases, known.deviation)
    before = work.predecessor.report if work.predecessor is not None else None
    write_report(
        ReportRequest(
            source=work.source,
            seg=None if seg is None else SegReference.of(seg),
            findings=() if seg is None else seg.findings,
            algorithm=Algorithm(
                work.manifest.plan_name[:64],
                work.manifest.id,
                (("plan", work.manifest.plan_hash), ("round", str(work.manifest.round))),
            ),
            out=part / REPORT_FILE,
            sop_instance_uid=work.uids.report,
            series_instance_uid=work.uids.report_series,
            disclaimer=work.disclaimer,
            quality=quality,
            looked_for=tuple(spec.label for spec in segments_of(work.manifest)),
            series_description=_titles(work)[0],
            predecessor=before,
            written_at=work.written_at,
        )
    )


def _pictures(work: ResultWork, found: _Found, part: Path) -> None:
    from dicom_bridge.sc import CaptureRequest, write_captures

    write_captures(
        CaptureRequest(
            source=work.source,
            pixels=found.pixels,
            mask=found.values,
            affine=found.affine,
            segments=tuple(segments_of(work.manifest)),
            out=part / PICTURES,
            series_instance_uid=work.uids.picture_series,
            caption=(f"{work.manifest.plan_name} {work.manifest.id[:8]}", work.disclaimer),
            series_description=_titles(work)[0],
            written_at=work.written_at,
        )
    )


def _findings(manifest: ModelManifest, found: _Found) -> tuple[Mapping[str, Any], ...]:
    """Per label its volume, number of connected pieces (26 neighbours) and their volumes."""
    from dicom_bridge.seg.lesions import lesions_of

    findings = []
    for spec in segments_of(manifest):
        pieces = lesions_of(found.values == spec.number, found.affine, name=spec.label)
        if pieces:
            findings.append(
                {
                    "label": spec.label,
                    "volume_ml": round(sum(piece.volume_ml for piece in pieces), 4),
                    "lesions": len(pieces),
                    "largest_ml": [round(p.volume_ml, 4) for p in pieces[:LISTED_LESIONS]],
                }
            )
    return tuple(findings)


def _objects(folder: Path) -> Iterator[WrittenObject]:
    from pydicom.filereader import read_file_meta_info

    for path in sorted(folder.rglob("*.dcm")):
        file = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        meta = read_file_meta_info(path)
        yield WrittenObject(
            form=form_of(file),
            file=file,
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
        )


def form_of(file: str) -> str:
    """What an object of a result is, by its file's name.

    Examples:
        >>> form_of("seg.dcm"), form_of("sc/0007.dcm")
        ('seg', 'sc')
    """
    return {SEG_FILE: SEG, REPORT_FILE: SR}.get(file, SC)


@dataclass(frozen=True, slots=True)
class ValidationWork:
    """A result's files to check against the source series, as they travel to a worker.

    Attributes:
        folder: the result's folder.
        source: the series' original headers, from the vault.
        objects: file name to SHA-256, as entered.
        uids: UIDs that the objects must have.
        found: whether the result has a finding.
    """

    folder: Path
    source: SourceSeries = field(repr=False)
    objects: Mapping[str, str]
    uids: ResultUids = field(repr=False)
    found: bool


def validate_result(work: ValidationWork) -> tuple[str, ...]:
    """Read every object of a result back; what is wrong in words, nothing where all is right."""
    findings: list[str] = []
    for file, sha256 in work.objects.items():
        path = work.folder / file
        try:
            content = path.read_bytes()
        except OSError:
            findings.append(f"{file} is gone")
            continue
        if hashlib.sha256(content).hexdigest() != sha256:
            findings.append(f"{file} changed since it was made")
            continue
        findings += [f"{file}: {words}" for words in _validated(work, path, form_of(file))]
    return tuple(findings)


def _validated(work: ValidationWork, path: Path, form: str) -> Iterator[str]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    from dicom_bridge.seg.check import check_seg

    try:
        dataset = pydicom.dcmread(path)
    except (InvalidDicomError, OSError, ValueError):
        yield "no readable DICOM object"
        return
    expected = {SEG: work.uids.seg, SR: work.uids.report}.get(form)
    if expected is not None and str(dataset.get("SOPInstanceUID", "")) != expected:
        yield "another SOP Instance UID than the result's"
    if str(dataset.get("StudyInstanceUID", "")) != work.source.StudyInstanceUID:
        yield "another study than the source series'"
    if str(dataset.get("SeriesInstanceUID", "")) == work.source.SeriesInstanceUID:
        yield "it lies in the source series"
    if str(dataset.get("PatientID", "")) != work.source.patient.get("PatientID", ""):
        yield "another patient than the source series'"
    if not str(dataset.get("SeriesDescription", "")).upper().startswith("RESEARCH"):
        yield "the series description does not begin with RESEARCH"
    if form == SEG:
        try:
            yield from check_seg(work.source, path)
        except DicomBridgeError as error:
            yield str(error)
    if form == SR:
        yield from _report_findings(dataset, work)


def _report_findings(dataset: Any, work: ValidationWork) -> Iterator[str]:  # noqa: ANN401
    names = set(_referenced(dataset))
    if SEG_FILE in work.objects and work.uids.seg not in names:
        yield "the report does not refer to the segmentation"
    if not work.found and work.uids.seg in names:
        yield "the report of an empty result refers to a segmentation"
    if not dataset.get("ContentSequence"):
        yield "the report has no content"


def _referenced(dataset: Any) -> Iterator[str]:  # noqa: ANN401
    """Every ReferencedSOPInstanceUID at any depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _referenced(item)
        elif element.keyword == "ReferencedSOPInstanceUID":
            yield str(element.value)


def segments_of(manifest: ModelManifest) -> list[SegmentSpec]:
    """The model's labels as DICOM segments, named after plan and model id."""
    specs = []
    for entry in manifest.labels:
        label = _fields(entry)
        specs.append(
            SegmentSpec(
                number=int(str(label["value"])),
                label=str(label["name"]),
                category=_code(label["category"]),
                type=_code(label["type"]),
                algorithm_name=manifest.plan_name,
                algorithm_version=manifest.id,
                algorithm_parameters=(("plan", manifest.plan_hash),),
            )
        )
    return specs


def _fields(value: object) -> Mapping[str, object]:
    """A JSON object of the manifest.

    Raises:
        SegRefused: it is none.
    """
    if not isinstance(value, Mapping):
        raise SegRefused("the model's manifest describes a label in another way than expected")
    return value


def _code(value: object) -> Code:
    triplet = _fields(value)
    return Code(str(triplet["value"]), str(triplet["scheme"]), str(triplet["meaning"]))
