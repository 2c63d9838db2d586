"""The two converters as anybody would run them, and how their images differ from ours.

Nothing of `dicom_bridge.convert` takes part here but its file list: dicom2nifti reads the files
itself, dcm2niix gets them as they are (`-p n` for Philips: values by RescaleSlope), one series per
call.
"""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray

from tests.tools import shared_dir

AFFINE_MM = 1e-3
SINGLE_OBJECTS = ("compressed_nema", "nema_enhanced_brain")


def shared_series(unpacked: Path) -> dict[str, list[Path]]:
    """Every series of the shared data's `dicom/`, by its folder (by its file for single objects).

    Args:
        unpacked: where packed folders were unpacked.
    """
    found: dict[str, list[Path]] = {}
    here = shared_dir("data", "dicom")
    tops = {path.name.removesuffix(".tar.xz") for path in here.iterdir()}
    for top in sorted(tops):
        root = here / top if (here / top).is_dir() else unpacked / top
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = str(path.parent.relative_to(root.parent))
            single = top in SINGLE_OBJECTS
            found.setdefault(f"{name}/{path.name}" if single else name, []).append(path)
    return found


def by_dicom2nifti(files: Sequence[Path]) -> list[Any] | str:
    """Its image, or why there is none."""
    from dicom2nifti import convert_dicom
    from dicom2nifti.exceptions import ConversionError, ConversionValidationError

    logging.getLogger("dicom2nifti").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            datasets = [pydicom.dcmread(path) for path in files]
            made = convert_dicom.dicom_array_to_nifti(datasets, None, reorient_nifti=False)
        except (ConversionError, ConversionValidationError) as error:
            return f"fails ({error})"
        except Exception as error:  # edge: whatever a foreign program raises is its answer
            return f"fails ({type(error).__name__})"
    return [made["NII"]]


def by_dcm2niix(files: Sequence[Path], work: Path) -> list[Any] | str:
    """Its images, or its return code."""
    source, target = work / "in", work / "out"
    source.mkdir(parents=True)
    target.mkdir()
    for number, path in enumerate(files):
        (source / f"{number:06d}.dcm").symlink_to(path.resolve())
    philips = (
        "philips"
        in str(pydicom.dcmread(files[0], stop_before_pixels=True).get("Manufacturer")).lower()
    )
    precise = "n" if philips else "y"
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-p", precise, "-f", "v", "-o", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, check=False)
    made = sorted(target.glob("*.nii"))
    if not made:
        return f"no image (return code {done.returncode})"
    return [nibabel.load(path, mmap=False) for path in made]  # type: ignore[attr-defined]


def compared(ours: Sequence[Path], theirs: list[Any] | str) -> str:
    """ "same", or what differs, after both were turned to RAS+."""
    if isinstance(theirs, str):
        return theirs
    if not ours:
        shapes = ", ".join("x".join(map(str, image.shape)) for image in theirs)
        return f"makes {shapes}"
    differences = [
        min((difference(nibabel.load(path), image) for image in theirs), key=len)  # type: ignore[attr-defined]
        for path in ours
    ]
    same = sum(not difference for difference in differences)
    if same == len(ours):
        return "same" if len(theirs) == len(ours) else f"same, and {len(theirs) - same} more"
    if same:
        return f"same for {same} of {len(ours)}, the others are not made"
    return differences[0]


def difference(ours: Any, theirs: Any) -> str:  # noqa: ANN401
    """ "" where two images agree: whole values exactly, scaled ones to float32's rounding."""
    one, other = (nibabel.as_closest_canonical(image) for image in (ours, theirs))  # type: ignore[attr-defined]
    if one.shape != other.shape:
        return f"makes {'x'.join(map(str, theirs.shape))}"
    away = float(np.max(np.abs(one.affine - other.affine)))
    if away > 10 * AFFINE_MM:
        return f"same size, {away:.3f} mm elsewhere"
    first, second = values_of(one), values_of(other)
    if first.shape != second.shape:
        return "other kind of pixels"
    allowed = 0.0 if np.all(first == np.rint(first)) else 2e-6 * float(np.max(np.abs(first)))
    volumes = np.abs(first - second).reshape(*first.shape[:3], -1).max(axis=(0, 1, 2))
    wrong = int(np.sum(volumes > allowed))
    if wrong == 0:
        return "" if away <= AFFINE_MM else f"same values, affine {away:.4f} mm off"
    return "same place, other values" + (f" in {wrong} of {volumes.size}" if wrong > 1 else "")


def values_of(image: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """Values as numbers, colours along a last axis."""
    data = np.asanyarray(image.dataobj)
    if data.dtype.fields is None:
        return np.asarray(data, dtype=np.float64)
    return np.stack([data[name].astype(np.float64) for name in "RGB"], axis=-1)
