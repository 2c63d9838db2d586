"""The border to SimpleITK: images, transforms and its global thread count.

ITK works in LPS (x left, y posterior, z superior) and stores arrays as (Z, Y, X); everything else
here works in RAS and (X, Y, Z). Source: ITK Software Guide, section "Image orientation".
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.volume import Affine, Array, Volume

sitk: Any = importlib.import_module("SimpleITK")
"""SimpleITK, which carries no type annotations."""

Image = Any
Transform = Any

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS to LPS and back."""

_threads_lock = threading.RLock()


@contextmanager
def itk_threads(count: int) -> Iterator[None]:
    """Run ITK filters with this many threads and restore the former number.

    The number is global to the process: calls from several Python threads wait for each other.

    Raises:
        ValueError: fewer than one thread.
    """
    if count < 1:
        raise ValueError(f"at least one thread is needed, got {count}")
    with _threads_lock:
        before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def to_itk(volume: Volume, kind: type[np.generic] = np.float32) -> Image:
    """An ITK image with the same voxels and place.

    Raises:
        ImageRefused: the axes are not perpendicular (ITK has no shear).
    """
    lps = FLIP @ volume.affine
    spacing = np.array(volume.spacing)
    direction = lps[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
        raise ImageRefused("the image's axes are not perpendicular (sheared or tilted acquisition)")
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T, dtype=kind))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def from_itk(image: Image) -> Volume:
    """The volume of a three-dimensional ITK image."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    data: Array = sitk.GetArrayFromImage(image).T
    return Volume(np.ascontiguousarray(data), FLIP @ affine)


def to_itk_transform(matrix: Affine) -> Transform:
    """An ITK affine transform (LPS) of a RAS matrix; both map fixed points to moving points."""
    lps = FLIP @ matrix @ FLIP
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def from_itk_transform(transform: Transform) -> Affine:
    """The 4 x 4 RAS matrix of any linear ITK transform, found by mapping four points.

    Raises:
        ImageRefused: the transform is not linear.
    """
    if not transform.IsLinear():
        raise ImageRefused("a rigid or affine transform is needed, this one is not linear")
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, 3] = origin
    for axis in range(3):
        point = [0.0, 0.0, 0.0]
        point[axis] = 100.0
        lps[:3, axis] = (np.array(transform.TransformPoint(point)) - origin) / 100.0
    return np.asarray(FLIP @ lps @ FLIP, dtype=np.float64)


def save_matrix(matrix: Affine, path: Path) -> None:
    """Write a RAS matrix as an ITK transform file (LPS; `.tfm`, `.txt` or `.mat`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteTransform(to_itk_transform(matrix), str(path))


def load_matrix(path: Path) -> Affine:
    """Read a linear ITK transform file as a RAS matrix.

    Raises:
        ImageRefused: the file is not an ITK transform, or not a linear one.
    """
    if not path.is_file() or path.stat().st_size > 1_000_000:
        raise ImageRefused("an ITK transform file of at most 1 MB is needed")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise ImageRefused("the file is not an ITK transform file") from error
    return from_itk_transform(transform)
