"""SEG objects through independent programs: dciodvfy and dcmqi."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from dicom_bridge.geometry import VolumeGeometry
from tests.tools import require_tool


def validator_errors(path: Path) -> list[str]:
    """Error lines of dciodvfy."""
    done = subprocess.run(
        [require_tool("dciodvfy"), path], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert any("Segmentation" in line for line in lines), lines
    return [line for line in lines if line.startswith("Error")]


def dcmqi_masks(path: Path, folder: Path, geometry: VolumeGeometry) -> dict[int, NDArray[np.uint8]]:
    """Segments as dcmqi reads them, put on a geometry's grid by position alone.

    Fails where a voxel does not stand on the grid within 0.01 mm, or where spacing differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            *(require_tool("segimage2itkimage"), "-t", "nii", "-p", "s"),
            *("--outputDirectory", folder, "--inputDICOM", path),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[int, NDArray[np.uint8]] = {}
    for file in sorted(folder.glob("s-*.nii*")):
        image: Any = nibabel.load(file)
        values = np.asarray(image.dataobj)
        index = np.argwhere(values > 0)
        change = np.linalg.inv(geometry.affine) @ image.affine
        placed = (np.c_[index, np.ones(len(index))] @ change.T)[:, :3]
        whole = np.rint(placed).astype(int)
        assert np.max(np.abs(placed - whole) * geometry.spacing) < 0.01
        sizes = sorted(np.linalg.norm(image.affine[:3, :3], axis=0))
        assert np.allclose(sizes, sorted(geometry.spacing), atol=1e-3)
        labels = np.zeros(geometry.shape, values.dtype)
        labels[tuple(whole.T)] = values[tuple(index.T)]
        assert np.count_nonzero(labels) == len(index)
        for number in np.unique(values[values > 0]):
            found[int(number)] = (labels == number).astype(np.uint8)
    return found


def consistency_errors(paths: Sequence[Path]) -> list[str]:
    """Error lines of dcentvfy over instances of one study."""
    done = subprocess.run(
        [require_tool("dcentvfy"), *paths], capture_output=True, text=True, check=False, timeout=120
    )
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.strip().startswith("Error")]


def object_errors(path: Path, kind: str) -> list[str]:
    """Error lines of dciodvfy on an object that it must take for `kind`."""
    done = subprocess.run(
        [require_tool("dciodvfy"), "-new", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert kind in (line.strip() for line in lines), lines
    return [line for line in lines if line.startswith("Error")]
