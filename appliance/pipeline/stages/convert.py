"""de-identified -> converted: each input as NIfTI, the experts' labels on their series' grids.

The original headers (`SourceSeries`) are written as ``source-<kind>.json``; the node moves them
into the vault before the stage's folder gets its name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from appliance.labels.staged import write_labels
from appliance.pipeline.stages.selection import read_selection
from appliance.pipeline.states import Stage
from appliance.pipeline.work import SOURCE_PREFIX, StageResult, StageWork
from dicom_bridge.convert import Converted, convert_series
from federation.canonical import JSON

FRAMES_FILE = "frames.json"
"""Which images share a frame of reference: a number by canonical modality, 0 for unknown."""


def run(work: StageWork) -> StageResult:
    """Convert and verify every input; read the labels.

    Raises:
        DataRefused: a series is incomplete, irregular or damaged, or no expert's label fits.
    """
    selection = read_selection(work)
    scratch = work.out / "scratch"
    converted: dict[str, Converted] = {}
    for kind in selection.inputs:
        files = selection.files(work, kind)
        converted[kind] = convert_series(files, work.out / f"{kind}.nii", work=scratch)
        source = json.dumps(converted[kind].source.to_json())
        (work.out / f"{SOURCE_PREFIX}{kind}.json").write_text(source, encoding="utf-8")
        _sidecar(work, kind, converted[kind])
    shutil.rmtree(scratch, ignore_errors=True)
    frames = frames_of({k: made.source.FrameOfReferenceUID for k, made in converted.items()})
    (work.out / FRAMES_FILE).write_text(json.dumps(frames), encoding="utf-8")
    sources = {kind: made.source for kind, made in converted.items()}
    labels = write_labels(work, selection.labels, sources)
    engines: JSON = {
        kind: f"{made.engine} {made.engine_version}" for kind, made in converted.items()
    }
    shapes: JSON = {kind: list(made.geometry.shape) for kind, made in converted.items()}
    spacings: JSON = {
        kind: [round(edge, 4) for edge in made.geometry.spacing] for kind, made in converted.items()
    }
    return StageResult(
        labelled=labels.voxels is not None,
        facts={
            "engines": engines,
            "shapes": shapes,
            "spacings_mm": spacings,
            "label_voxels": labels.voxels or 0,
            "label_raters": labels.raters,
            "label_notes": [*selection.notes, *labels.notes],
        },
        detail="; ".join(f"{kind} by {made.engine}" for kind, made in converted.items()),
    )


def _sidecar(work: StageWork, kind: str, made: Converted) -> None:
    """The de-identified header's side-car, with the engine that converted the image."""
    earlier = work.of(Stage.DEIDENTIFY) / f"{kind}.json"
    fields = json.loads(earlier.read_bytes()) if earlier.exists() else {}
    fields |= {
        "ConversionSoftware": made.engine,
        "ConversionSoftwareVersion": made.engine_version,
    }
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (work.out / f"{kind}.json").write_text(text, encoding="utf-8")


def frames_of(uids: Mapping[str, str]) -> dict[str, int]:
    """Frames of reference as numbers from 1 in the order of their first image; 0 for unknown.

    Examples:
        >>> frames_of({"T2w": "1.2", "ADC": "1.2", "DWI": "1.3", "CT": ""})
        {'T2w': 1, 'ADC': 1, 'DWI': 2, 'CT': 0}
    """
    known = {uid: place for place, uid in enumerate(dict.fromkeys(filter(None, uids.values())), 1)}
    return {kind: known.get(uid, 0) for kind, uid in uids.items()}
