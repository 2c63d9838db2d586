"""A known mask written on a real series by ``clinode tools seg-write`` is what dcmqi reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.studies import raw_ms_pairs, write_raw_ms_study
from tests.system.test_demonstration import world_points
from tests.tools import REPOSITORY, require_tool, shared_dir

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def clinode(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "tools", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr


def enhanced_flair(folder: Path) -> Path:
    """The FLAIR of the real enhanced study, in a folder of its own."""
    source = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study", "BRTUM003")
    folder.mkdir()
    shutil.copy(source, folder)
    return folder


def raw_flair(folder: Path) -> Path:
    """The FLAIR of a raw MS pair."""
    pair = next(p for p in raw_ms_pairs() if p.patient == "patient04")
    return write_raw_ms_study(pair, folder).series["FLAIR"][0].parent


@pytest.mark.parametrize(
    "series_of", [enhanced_flair, pytest.param(raw_flair, marks=pytest.mark.long)]
)
def test_known_mask_is_voxel_equal_in_dcmqi(
    series_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    tool = require_tool("segimage2itkimage")
    series = series_of(tmp_path / "series")
    clinode("convert", str(series), str(tmp_path / "nifti"))
    image = nib.load(next((tmp_path / "nifti").glob("*.nii.gz")))
    mask = np.zeros(image.shape, dtype=np.uint8)
    i, j, k = (size // 2 for size in image.shape)
    mask[i - 9 : i - 2, j : j + 5, k - 2 : k + 2] = 1
    mask[i + 4, j - 7 : j - 3, k - 1] = 1
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "mask.nii.gz")
    seg = tmp_path / "seg.dcm"
    clinode("seg-write", str(series), str(tmp_path / "mask.nii.gz"), str(seg))
    clinode("seg-check", str(series), str(seg))
    out = tmp_path / "dcmqi"
    out.mkdir()
    command = [str(tool), "--inputDICOM", str(seg), "--outputDirectory", str(out)]
    subprocess.run([*command, "--outputType", "nifti"], check=True, capture_output=True)
    read = nib.load(next(out.glob("*.nii*")))
    ours = world_points(mask, image.affine)
    theirs = world_points(np.asanyarray(read.dataobj), read.affine)
    assert len(ours) == int(mask.sum()) > 100
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-2)
