"""de-identified -> converted: each input as NIfTI, the expert's label on the FLAIR grid.

The original headers (`SourceSeries`) are written as ``source-<kind>.json``; the node moves them
into the vault before the stage's folder gets its name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from appliance.imaging.volume import Volume, save_volume
from appliance.pipeline.stages.classify import policy_of
from appliance.pipeline.stages.selection import Selection, read_selection
from appliance.pipeline.work import SOURCE_PREFIX, StageResult, StageWork
from dicom_bridge.convert import Converted, convert_series
from dicom_bridge.convert.frames import attribute
from dicom_bridge.seg import SegContent, read_seg, referenced_series
from dicom_bridge.seg.expert import codes_of
from dicom_bridge.seg.read import open_seg
from federation.canonical import JSON

LABEL_FILE = "label.nii"
REFERENCE = "FLAIR"


def run(work: StageWork) -> StageResult:
    """Convert and verify every input; read the labels.

    Raises:
        DataRefused: a series is incomplete, irregular or damaged, or a label does not fit.
    """
    selection = read_selection(work)
    scratch = work.out / "scratch"
    converted: dict[str, Converted] = {}
    for kind in selection.inputs:
        files = selection.files(work, kind)
        converted[kind] = convert_series(files, work.out / f"{kind}.nii", work=scratch)
        source = json.dumps(converted[kind].source.to_json())
        (work.out / f"{SOURCE_PREFIX}{kind}.json").write_text(source, encoding="utf-8")
    shutil.rmtree(scratch, ignore_errors=True)
    voxels, notes = _label(work, selection, converted.get(REFERENCE))
    engines: JSON = {
        kind: f"{made.engine} {made.engine_version}" for kind, made in converted.items()
    }
    shapes: JSON = {kind: list(made.geometry.shape) for kind, made in converted.items()}
    spacings: JSON = {
        kind: [round(edge, 4) for edge in made.geometry.spacing] for kind, made in converted.items()
    }
    return StageResult(
        labelled=voxels is not None,
        facts={
            "engines": engines,
            "shapes": shapes,
            "spacings_mm": spacings,
            "label_voxels": voxels or 0,
            "label_notes": [*selection.notes, *notes],
        },
        detail="; ".join(f"{kind} by {made.engine}" for kind, made in converted.items()),
    )


def _label(
    work: StageWork, selection: Selection, reference: Converted | None
) -> tuple[int | None, Sequence[str]]:
    """Write the expert's label on the FLAIR grid; its voxels, or None where there is none."""
    if reference is None or not selection.labels:
        return None, ()
    notes = []
    policy = policy_of(work.settings.labels, work.own)
    headers = {name: open_seg(work.received / name, pixels=False) for name in selection.labels}
    for name in sorted(headers, key=lambda name: _made_at(headers[name]), reverse=True):
        path = work.received / name
        if referenced_series(path) != reference.source.SeriesInstanceUID:
            notes.append(f"a segmentation refers to another series than the {REFERENCE}")
            continue
        meanings = codes_of(headers[name], policy)
        content = read_seg(path, reference.source)
        values = label_values(content, work.settings.labels.codes, meanings)
        if values is None:
            notes.append("a segmentation holds no segment with a mapped code")
            continue
        if len(selection.labels) > 1:
            notes.append("several expert segmentations: the newest that fits was taken")
        save_volume(Volume(values, reference.geometry.affine), work.out / LABEL_FILE)
        return int(np.count_nonzero(values)), notes
    return None, notes


def _made_at(header: Dataset) -> str:
    """ContentDate and ContentTime, for the order only."""
    return "".join(str(attribute(header, k) or "") for k in ("ContentDate", "ContentTime"))


def label_values(
    content: SegContent, codes: Mapping[str, int], meanings: Mapping[int, tuple[str, str]]
) -> np.ndarray | None:
    """The site's label values of a SEG on its source's grid.

    Args:
        content: the segments.
        codes: ``SCHEME:VALUE`` of the property type to the label value.
        meanings: SegmentNumber to (scheme, value), as `dicom_bridge.seg.expert.codes_of` gives it.

    Returns:
        uint8 (I, J, K), or None where no segment has a mapped code.
    """
    values: np.ndarray | None = None
    for segment in content.segments:
        value = codes.get(":".join(meanings.get(segment.number, ())))
        if value is None:
            continue
        if values is None:
            values = np.zeros(segment.mask.shape, dtype=np.uint8)
        values[segment.mask > 0] = value
    return values
