"""What `classify` found, as the later stages read it (stays in the identified zone)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import StageFailed
from appliance.home import write_atomic
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageWork

FORMAT = 1
FILE = "selection.json"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which received files are what.

    Attributes:
        inputs: canonical modality to the series' files, relative to the spool.
        labels: expert segmentations, relative to the spool.
        notes: why segmentations were passed over, in words.
    """

    inputs: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def files(self, work: StageWork, kind: str) -> list[Path]:
        """The files of one input."""
        return [work.received / name for name in self.inputs[kind]]


def write_selection(work: StageWork, selection: Selection) -> None:
    """Write the selection into the stage's temporary folder."""
    document = {
        "format": FORMAT,
        "inputs": {kind: list(files) for kind, files in selection.inputs.items()},
        "labels": list(selection.labels),
        "notes": list(selection.notes),
    }
    write_atomic(work.out / FILE, json.dumps(document, indent=1).encode())


def read_selection(work: StageWork) -> Selection:
    """The selection that `classify` wrote.

    Raises:
        StageFailed: it is absent or of another version.
    """
    path = work.of(Stage.CLASSIFY) / FILE
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StageFailed("the selection of series is absent or damaged: retry classify") from error
    if document.get("format") != FORMAT:
        raise StageFailed(f"the selection of series has not format {FORMAT}: retry classify")
    inputs = {kind: tuple(files) for kind, files in document["inputs"].items()}
    return Selection(inputs, tuple(document["labels"]), tuple(document["notes"]))
