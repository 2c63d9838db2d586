"""Prepared cases: the one form in which training and inference meet a hospital's images.

A folder ``prepared-<hash>`` holds ``manifest.json`` and one safetensors file per case:

* ``image`` float32 (C, X, Y, Z), channels in the order of the plan's inputs, axes R, A, S,
  normalised; a missing optional input is a channel of zeros;
* ``brain`` uint8 (X, Y, Z), 1 inside the brain;
* ``label`` uint8 (X, Y, Z), the plan's label values, only where the case is labelled;
* one metadata entry ``prepared``: JSON with ``format`` and ``affine``, the 4 x 4 matrix voxel to
  RAS mm (one entry, because safetensors does not order several).

Cases are named by pseudonym (``sub-x_ses-y``). Nothing is resampled here and torch is not loaded.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from federation.errors import PreparedDataRefused
from federation.plan import Preparation

PREPARED_FORMAT: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 16 * 1024 * 1024
MAX_CASE_BYTES: Final = 2 * 1024**3
"""A case file larger than this is refused before it is mapped."""
MAX_EDGE: Final = 1024
"""Longest edge of a prepared grid in voxels."""

_CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_CHANNEL = re.compile(r"[A-Za-z0-9]{1,16}")


class Split(StrEnum):
    """What a case may be used for. ``infer``: no label, gets a result only."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    INFER = "infer"


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """One case in memory.

    Attributes:
        case: Pseudonymous name, also the file's stem.
        image: float32 (C, X, Y, Z), axes R, A, S.
        brain: uint8 (X, Y, Z).
        label: uint8 (X, Y, Z) or None.
        affine: float64 (4, 4), voxel index to RAS mm.
    """

    case: str
    image: NDArray[np.float32]
    brain: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        problems = _case_problems(self)
        if problems:
            raise PreparedDataRefused("prepared case: " + "; ".join(problems))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True, slots=True)
class CaseEntry:
    """A case's line in the manifest."""

    case: str
    split: Split
    labelled: bool

    def __post_init__(self) -> None:
        if _CASE.fullmatch(self.case) is None:
            raise PreparedDataRefused(
                "a case name holds other characters than letters, digits, - and _"
            )
        if not self.labelled and self.split is not Split.INFER:
            raise PreparedDataRefused(f"a case without label cannot be in the {self.split} split")

    @property
    def file(self) -> str:
        """Name of the case's file beside the manifest."""
        return f"{self.case}.safetensors"


@dataclass(frozen=True, slots=True)
class PreparedManifest:
    """What a prepared folder holds.

    Attributes:
        preparation: The plan's preparation section that the cases follow.
        cases: One entry per case, any order; names differ.
        channels: Modality of each channel, in order; empty when not recorded.
    """

    preparation: Preparation
    cases: tuple[CaseEntry, ...]
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({entry.case for entry in self.cases}) != len(self.cases):
            raise PreparedDataRefused("the manifest lists a case twice")

    def of_split(self, split: Split) -> tuple[CaseEntry, ...]:
        """The split's entries, sorted by name so that their order never depends on the writer."""
        return tuple(sorted((e for e in self.cases if e.split is split), key=lambda e: e.case))

    def entry(self, case: str) -> CaseEntry:
        """The entry of one case.

        Raises:
            PreparedDataRefused: when the manifest has no such case.
        """
        for entry in self.cases:
            if entry.case == case:
                return entry
        raise PreparedDataRefused("a case was asked for that the manifest does not list")


def _case_problems(case: PreparedCase) -> list[str]:
    problems = []
    if _CASE.fullmatch(case.case) is None:
        problems.append("the name holds other characters than letters, digits, - and _")
    image = case.image
    if image.ndim != 4 or image.dtype != np.float32:
        problems.append(
            f"image must be float32 (C, X, Y, Z), not {image.dtype} with {image.ndim} axes"
        )
        return problems
    grid = image.shape[1:]
    if min(image.shape) < 1 or max(grid) > MAX_EDGE:
        problems.append(f"the grid {grid} is empty or longer than {MAX_EDGE} voxels")
    for name, mask in (("brain", case.brain), ("label", case.label)):
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != grid):
            problems.append(f"{name} must be uint8 {grid}, not {mask.dtype} {tuple(mask.shape)}")
    affine = case.affine
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        problems.append("affine must be a finite 4 x 4 matrix")
    elif abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        problems.append("affine is singular")
    if not np.isfinite(image).all():
        problems.append("image holds values that are not finite")
    return problems


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, flush it to disk and rename it into place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def write_case(folder: Path, case: PreparedCase) -> Path:
    """Write one case file into a prepared folder; an older one of the same name is replaced."""
    tensors: dict[str, NDArray[Any]] = {
        "image": np.ascontiguousarray(case.image),
        "brain": np.ascontiguousarray(case.brain),
    }
    if case.label is not None:
        tensors["label"] = np.ascontiguousarray(case.label)
    path = folder / f"{case.case}.safetensors"
    write_atomically(path, serialise(tensors, _metadata(case.affine)))
    return path


def _metadata(affine: NDArray[np.float64]) -> dict[str, str]:
    text = json.dumps({"affine": affine.tolist(), "format": PREPARED_FORMAT})
    return {"prepared": text}


def _affine(metadata: Mapping[str, str] | None) -> NDArray[np.float64]:
    document = json.loads((metadata or {})["prepared"])
    if document["format"] != PREPARED_FORMAT:
        raise PreparedDataRefused("a prepared file has an unknown format version")
    return np.array(document["affine"], dtype=np.float64)


def read_case(path: Path) -> PreparedCase:
    """Read one case file; sizes are checked before anything is allocated.

    Raises:
        PreparedDataRefused: when the file breaks the format (see the module's docstring).
    """
    try:
        if path.stat().st_size > MAX_CASE_BYTES:
            raise PreparedDataRefused("a prepared case file is larger than the limit")
        with safe_open(path, framework="np") as stream:
            affine = _affine(stream.metadata())
            names = set(stream.keys())
            if not {"image", "brain"} <= names <= {"image", "brain", "label"}:
                raise PreparedDataRefused("a prepared case file holds other arrays than expected")
            return PreparedCase(
                case=path.stem,
                image=stream.get_tensor("image"),
                brain=stream.get_tensor("brain"),
                label=stream.get_tensor("label") if "label" in names else None,
                affine=affine,
            )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise PreparedDataRefused("a prepared case file cannot be read") from error


@dataclass(frozen=True, slots=True)
class PredictedMask:
    """A model's answer for one case on its prepared grid.

    Attributes:
        mask: uint8 (X, Y, Z), the plan's label values, axes R, A, S.
        affine: float64 (4, 4), voxel index to RAS mm.
    """

    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def write_mask(path: Path, predicted: PredictedMask) -> None:
    """Write a predicted mask as safetensors (array ``mask``, metadata as a case file)."""
    tensors = {"mask": np.ascontiguousarray(predicted.mask)}
    write_atomically(path, serialise(tensors, _metadata(predicted.affine)))


def read_mask(path: Path) -> PredictedMask:
    """Read what :func:`write_mask` wrote.

    Raises:
        PreparedDataRefused: when the file breaks the format.
    """
    try:
        if path.stat().st_size > MAX_CASE_BYTES:
            raise PreparedDataRefused("a mask file is larger than the limit")
        with safe_open(path, framework="np") as stream:
            mask = stream.get_tensor("mask")
            affine = _affine(stream.metadata())
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise PreparedDataRefused("a mask file cannot be read") from error
    if mask.dtype != np.uint8 or mask.ndim != 3 or affine.shape != (4, 4):
        raise PreparedDataRefused("a mask file must hold uint8 (X, Y, Z) and a 4 x 4 affine")
    return PredictedMask(mask, affine)


def write_manifest(folder: Path, manifest: PreparedManifest) -> Path:
    """Write ``manifest.json``; do it last, it makes the folder valid."""
    document = {
        "format": PREPARED_FORMAT,
        "preparation": manifest.preparation.model_dump(mode="json"),
        "channels": list(manifest.channels),
        "cases": [
            {
                "case": entry.case,
                "file": entry.file,
                "split": entry.split.value,
                "labelled": entry.labelled,
            }
            for entry in manifest.cases
        ],
    }
    path = folder / MANIFEST_NAME
    write_atomically(path, json.dumps(document, indent=1).encode())
    return path


def read_manifest(folder: Path) -> PreparedManifest:
    """Read and check ``manifest.json`` of a prepared folder.

    Raises:
        PreparedDataRefused: when it is missing, too large or breaks the format.
    """
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise PreparedDataRefused("the manifest of the prepared folder is too large")
        document = json.loads(path.read_bytes())
        if document["format"] != PREPARED_FORMAT:
            raise PreparedDataRefused("the prepared folder has an unknown format version")
        preparation = Preparation.model_validate_json(json.dumps(document["preparation"]))
        channels = tuple(_channel(name) for name in document.get("channels", ()))
        return PreparedManifest(preparation, _entries(document["cases"]), channels)
    except ValidationError as error:
        raise PreparedDataRefused("the manifest's preparation section is not valid") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PreparedDataRefused("the manifest of the prepared folder cannot be read") from error


def _channel(name: object) -> str:
    if not isinstance(name, str) or _CHANNEL.fullmatch(name) is None:
        raise PreparedDataRefused("the manifest names a channel that is no modality")
    return name


def _entries(lines: Sequence[Mapping[str, Any]]) -> tuple[CaseEntry, ...]:
    entries = []
    for line in lines:
        entry = CaseEntry(str(line["case"]), Split(line["split"]), line["labelled"] is True)
        if line["file"] != entry.file:
            raise PreparedDataRefused("the manifest names a file that is not its case's")
        entries.append(entry)
    return tuple(entries)


class PreparedFolder:
    """A prepared folder opened for reading, with a bounded cache of cases.

    Args:
        folder: The folder.
        cache_bytes: Cases are kept in memory up to this many bytes, least recently used out first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cache_bytes: int = 1024**3,
    ) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._cache: dict[str, PreparedCase] = {}
        self._cache_bytes = cache_bytes

    def case(self, entry: CaseEntry) -> PreparedCase:
        """One case, from memory or from its file.

        Raises:
            PreparedDataRefused: when the file breaks the format or lacks its label.
        """
        found = self._cache.pop(entry.case, None)
        if found is None:
            found = read_case(self.folder / entry.file)
            if entry.labelled and found.label is None:
                raise PreparedDataRefused("a case listed as labelled has no label array")
            if self.manifest.channels and found.image.shape[0] != len(self.manifest.channels):
                raise PreparedDataRefused(
                    f"a case has {found.image.shape[0]} channels,"
                    f" the manifest lists {len(self.manifest.channels)}"
                )
        self._cache[entry.case] = found
        self._shrink()
        return found

    def _shrink(self) -> None:
        total = sum(case.image.nbytes + 2 * case.brain.nbytes for case in self._cache.values())
        while total > self._cache_bytes and len(self._cache) > 1:
            oldest = self._cache.pop(next(iter(self._cache)))
            total -= oldest.image.nbytes + 2 * oldest.brain.nbytes
