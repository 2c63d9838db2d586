"""The studies that the viewer test opens: images, the mask that belongs on them, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import UID, generate_uid

from appliance.demo.phantom import PhantomRequest, make_study, write_study
from dicom_bridge.convert import SourceSeries
from dicom_bridge.sc import CaptureRequest, write_captures
from dicom_bridge.seg import SegmentSpec, SegRequest, SegWritten, write_seg
from dicom_bridge.sr import Algorithm, ReportRequest, SegReference, write_report
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.viewer.overlay import Colour

LESION = SegmentSpec(
    1, "MS lesion", algorithm_name="viewer-test", algorithm_version="1", colour=(255, 64, 64)
)
OTHER = replace(LESION, number=2, label="Other", colour=(0, 200, 0))
SEGMENTS = (LESION, OTHER)
RIGHT = "right"
WHEN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One study.

    Attributes:
        name: its name in file names.
        source: the series that is segmented.
        pixels: (Columns, Rows, slices) its values.
        mask: (Columns, Rows, slices) the labels that belong on it.
        slices: the slices to look at.
        files: everything for the archive.
        first: description of the series to open before the SEG; "" opens the SEG at once.
    """

    name: str
    source: SourceSeries
    pixels: NDArray[np.number]
    mask: NDArray[np.uint8]
    slices: tuple[int, ...]
    files: list[Path] = field(default_factory=list)
    first: str = ""

    @property
    def colours(self) -> Mapping[int, Colour]:
        """Colour of each segment in a SEG of `mask`, whose segments are numbered 1 to n."""
        return {spec.number: spec.colour for spec in self.specs}

    @property
    def specs(self) -> tuple[SegmentSpec, ...]:
        """The segments that the mask has."""
        return tuple(spec for spec in SEGMENTS if np.any(self.mask == spec.number))


def _uid(*parts: str) -> UID:
    return generate_uid(entropy_srcs=["viewer test", *parts])


def add_seg(scene: Scene, folder: Path, name: str, mask: NDArray[np.uint8]) -> SegWritten:
    """A SEG of the scene's series, described as "RESEARCH <name>"."""
    written = write_seg(
        SegRequest(
            source=scene.source,
            mask=mask,
            affine=scene.source.geometry.affine,
            segments=scene.specs,
            out=folder / f"{scene.name}-{name}.dcm",
            sop_instance_uid=_uid(scene.name, name, "instance"),
            series_instance_uid=_uid(scene.name, name, "series"),
            series_number=1000 + len(scene.files),
            series_description=f"RESEARCH {name}",
            written_at=WHEN,
        )
    )
    scene.files.append(written.path)
    return written


def add_report_and_captures(scene: Scene, folder: Path, seg: SegWritten) -> None:
    """The report on a SEG and the contours as secondary captures."""
    report = write_report(
        ReportRequest(
            source=scene.source,
            seg=SegReference.of(seg),
            findings=seg.findings,
            algorithm=Algorithm("viewer-test", "1"),
            out=folder / f"{scene.name}-report.dcm",
            sop_instance_uid=_uid(scene.name, "report", "instance"),
            series_instance_uid=_uid(scene.name, "report", "series"),
            written_at=WHEN,
        )
    )
    captures = write_captures(
        CaptureRequest(
            source=scene.source,
            pixels=scene.pixels,
            mask=scene.mask,
            affine=scene.source.geometry.affine,
            segments=scene.specs,
            out=folder / "captures",
            series_instance_uid=_uid(scene.name, "captures", "series"),
            written_at=WHEN,
        )
    )
    scene.files.extend([report.path, *captures.paths])


def name_other_sources(seg: Path, source: SourceSeries, out: Path, *, by: int) -> Path:
    """A copy whose frames keep their positions but name the source image ``by`` slices further."""
    dataset = pydicom.dcmread(seg)
    uids = [frame.SOPInstanceUID for frame in source.frames]
    for item in dataset.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        place = uids.index(str(image.ReferencedSOPInstanceUID))
        image.ReferencedSOPInstanceUID = uids[(place + by) % len(uids)]
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _uid("sources", "one")
    dataset.SeriesInstanceUID = _uid("sources", "series")
    dataset.SeriesDescription = "RESEARCH sources"
    dataset.save_as(out, enforce_file_format=True)
    return out


def phantom_scene(folder: Path) -> Scene:
    """Sagittal 3-D FLAIR and T1 of a phantom brain with MS-like lesions."""
    study = make_study(PhantomRequest(index=0))
    written = write_study(study, folder / "phantom", segmentation=False)
    mask = np.ascontiguousarray(study.lesions.data, dtype=np.uint8)
    source = SourceSeries.from_files(written.flair)
    pixels = _pixels(source, written.flair)
    return Scene("phantom", source, pixels, mask, _telling(mask), [*written.flair, *written.t1w])


def oblique_scene(folder: Path) -> Scene:
    """A double oblique series, numbered from the far end, 45 x 53 pixels, two segments."""
    layout = Layout(orientation=cosines("oblique"), reverse_numbers=True)
    files = series(folder / "oblique", layout)
    source = SourceSeries.from_files(files)
    mask = np.zeros(source.geometry.shape, np.uint8)
    random = np.random.default_rng(3)
    mask[30:38, 10:20, 4:9] = random.random((8, 10, 5)) < 0.7
    mask[10:13, 30:40, 7:12] = 2
    mask[1, 1, 6] = mask[51, 43, 6] = 1  # the viewer cuts half of the outermost pixels off
    return Scene("oblique", source, _pixels(source, files), mask, (4, 6, 8, 11, 12), files)


def enhanced_scene(study: Path) -> Scene:
    """The real enhanced FLAIR, whose frames are stored interleaved.

    OHIF 3.12.10 knows the frames of a multi-frame series only once it has shown them: a SEG opened
    before stays at "Loading SEG..." for good. 3.13.2 opens it at once.
    """
    file = study / "BRTUM003"
    source = SourceSeries.from_files([file])
    pixels = _pixels(source, [file])
    mask = np.zeros(source.geometry.shape, np.uint8)
    columns, rows, slices = np.indices(mask.shape)
    place = ((columns - 92) / 30) ** 2 + ((rows - 88) / 18) ** 2 + ((slices - 15) / 4) ** 2
    mask[place < 1] = 1
    mask[150:171, 120:131, 13:17] = 2
    files = sorted(path for path in study.iterdir() if path.is_file())
    slices = (11, 13, 15, 17)
    first = source.series["SeriesDescription"]
    return Scene("enhanced", source, pixels, mask, slices, files, first)


def _pixels(source: SourceSeries, files: Sequence[Path]) -> NDArray[np.number]:
    datasets = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, files)}
    planes = []
    for frame in source.frames:
        pixels = datasets[frame.SOPInstanceUID].pixel_array
        plane = pixels[frame.FrameNumber - 1] if frame.FrameNumber else pixels
        planes.append(plane.T)
    return np.stack(planes, axis=2)


def _telling(mask: NDArray[np.uint8]) -> tuple[int, ...]:
    """The fullest slice, its neighbour, the fullest far from them, and an empty one beside some."""
    voxels = np.count_nonzero(mask, axis=(0, 1))
    first = int(np.argmax(voxels))
    neighbour = max((first - 1, first + 1), key=lambda index: voxels[index])
    far = max(range(len(voxels)), key=lambda index: voxels[index] * (abs(index - first) > 5))
    empty = next(k for k in range(1, len(voxels)) if voxels[k] == 0 and voxels[k - 1] > 0)
    return (first, neighbour, far, empty)
