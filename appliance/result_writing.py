"""A model's mask becomes a DICOM SEG on the source series; runs in a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.seg.model import Code, NoFinding, SegmentSpec, SegRequest
from federation.manifest import ModelManifest

SEG_FILE = "seg.dcm"


@dataclass(frozen=True, slots=True)
class SegWork:
    """One mask to write as SEG, as it travels to a worker.

    Attributes:
        mask: the trainer's mask file on the prepared grid.
        image: the FLAIR image of the research zone: the source grid.
        source: the series' original headers.
        manifest: the model.
        folder: where the SEG goes (identified zone).
        sop_uid: SOPInstanceUID to use.
        series_uid: SeriesInstanceUID to use.
    """

    mask: Path
    image: Path
    source: SourceSeries = field(repr=False)
    manifest: ModelManifest
    folder: Path
    sop_uid: str = field(repr=False)
    series_uid: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SegDone:
    """What the model found: volume over all labels in ml, connected pieces, and whether any."""

    volume_ml: float
    lesions: int
    found: bool


def write_result(work: SegWork) -> SegDone:
    """Bring a mask back to the source grid and write its SEG; runs in a worker process.

    Raises:
        SegRefused: the SEG cannot be written, or does not read back the same.
    """
    import nibabel
    import numpy as np
    from scipy import ndimage

    from appliance.imaging.grid import Grid
    from appliance.imaging.preparation import invert
    from dicom_bridge.seg.write import write_seg
    from federation.learning.prepared import read_mask

    predicted = read_mask(work.mask)
    image: Any = nibabel.load(work.image)
    shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
    grid = Grid(shape, np.asarray(image.affine, dtype=np.float64))
    mask = invert(predicted.mask, predicted.affine, grid, interpolation="linear")
    values = mask.data.astype(np.uint8)
    count = int(np.count_nonzero(values))
    if count == 0:
        return SegDone(0.0, 0, found=False)
    part = work.folder / f"{SEG_FILE}.part"
    request = SegRequest(
        source=work.source,
        mask=values,
        affine=mask.affine,
        segments=tuple(segments_of(work.manifest)),
        out=part,
        sop_instance_uid=work.sop_uid,
        series_instance_uid=work.series_uid,
        series_description=f"RESEARCH {work.manifest.plan_name}"[:64],
    )
    try:
        write_seg(request)
    except NoFinding:
        return SegDone(0.0, 0, found=False)
    part.replace(work.folder / SEG_FILE)
    pieces = int(ndimage.label(values > 0, structure=np.ones((3, 3, 3)))[1])
    return SegDone(round(count * mask.voxel_ml, 4), pieces, found=True)


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
