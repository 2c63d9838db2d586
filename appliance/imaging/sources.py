"""Images that are read when they are needed, and steps whose results may be kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid, grid_of
from appliance.imaging.volume import MAX_VOXELS, Affine, Volume, load_volume, nib
from federation.canonical import JSON, canonical_json, sha256_file


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An image, read only when it is asked for.

    Attributes:
        grid: Where it stands.
        load: Reads it.
        key: SHA-256 of what it holds or is made of, hexadecimal; "" where nobody keeps results.
    """

    grid: Grid
    load: Callable[[], Volume] = field(repr=False)
    key: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A computation named by everything that its result depends on.

    Attributes:
        name: The step ("n4", "denoise", "resample").
        version: Rises when the step's code gives other results.
        sources: Keys of what it reads.
        parameters: Every number that shapes the result.
    """

    name: str
    version: int
    sources: tuple[str, ...]
    parameters: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 over name, version, sources and parameters; "" where a source has no key."""
        if not all(self.sources):
            return ""
        document: dict[str, JSON] = {
            "name": self.name,
            "version": self.version,
            "sources": list(self.sources),
            "parameters": dict(self.parameters),
        }
        return hashlib.sha256(canonical_json(document)).hexdigest()


class StepResults(Protocol):
    """Where results of steps are kept, or not."""

    def volume(self, step: Step, make: Callable[[], Volume]) -> Volume:
        """The step's result, made where it is not there yet."""


class Recompute:
    """Keeps nothing: every step is computed."""

    def volume(self, step: Step, make: Callable[[], Volume]) -> Volume:
        """The step's result, made now."""
        del step
        return make()


def memory_source(volume: Volume) -> Source:
    """An image that is in memory already; its results are not kept."""
    return Source(grid_of(volume), lambda: volume)


def file_source(path: Path) -> Source:
    """A NIfTI file: its header and hash are read now, its voxels when asked for.

    Raises:
        ImageRefused: the file is absent or its header is not that of a usable image.
    """
    return Source(load_grid(path), lambda: load_volume(path), sha256_file(path))


def load_grid(path: Path) -> Grid:
    """Shape and affine of a NIfTI file from its header alone.

    Raises:
        ImageRefused: no file, not NIfTI, not three-dimensional, or too large.
    """
    if not path.is_file():
        raise ImageRefused("the image file does not exist")
    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise ImageRefused(f"the image cannot be read as NIfTI ({type(error).__name__})") from error
    shape = [int(n) for n in image.shape]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise ImageRefused(f"the image has shape {tuple(shape)}: three dimensions are needed")
    return Grid((shape[0], shape[1], shape[2]), np.asarray(image.affine, dtype=np.float64))


def grid_json(grid: Grid) -> dict[str, JSON]:
    """A grid as JSON values for a step's parameters."""
    return {"shape": list(grid.shape), "affine": matrix_json(grid.affine)}


def matrix_json(matrix: Affine | None) -> JSON:
    """A 4 x 4 matrix as JSON values; None for the identity."""
    return None if matrix is None else [[float(v) for v in row] for row in matrix]
