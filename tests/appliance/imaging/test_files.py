"""The functions behind `clinode tools`, on files, and what the package may import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import ImageRefused
from appliance.imaging.files import (
    QcOptions,
    RegisterPaths,
    brain_mask_file,
    deface_file,
    qc_files,
    register_files,
)
from appliance.imaging.itk import load_matrix
from appliance.imaging.qc import report_from_json, report_json
from appliance.imaging.registration import RegistrationOptions
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import load_volume, save_volume
from tests.appliance.imaging.heads import dice, drawn_head, tilted_head

MOTION = rigid_matrix((3, 0, -4), (2, 5, -3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    head = tilted_head()
    save_volume(head.image, folder / "sub_FLAIR.nii.gz")
    moved = drawn_head(MOTION @ head.pose, inverted=True, seed=3)
    save_volume(moved.image, folder / "sub_T1w.nii.gz")
    return folder


def test_register_writes_image_and_transform(folder: Path, tmp_path: Path) -> None:
    paths = RegisterPaths(
        folder / "sub_FLAIR.nii.gz",
        folder / "sub_T1w.nii.gz",
        tmp_path / "moved.nii.gz",
        tmp_path / "t.txt",
    )
    found = register_files(paths, RegistrationOptions(profile="quick"))
    np.testing.assert_allclose(load_matrix(tmp_path / "t.txt"), found.matrix, atol=1e-6)
    assert load_volume(tmp_path / "moved.nii.gz").shape == tilted_head().image.shape


def test_mask_and_deface_write_images(folder: Path, tmp_path: Path) -> None:
    brain_mask_file(folder / "sub_FLAIR.nii.gz", tmp_path / "mask.nii.gz", profile="quick")
    mask = load_volume(tmp_path / "mask.nii.gz")
    assert dice(mask.data > 0, tilted_head().brain) > 0.95
    removed = deface_file(folder / "sub_FLAIR.nii.gz", tmp_path / "out.nii.gz", profile="quick")
    clean = load_volume(tmp_path / "out.nii.gz")
    brain = tilted_head().brain
    np.testing.assert_array_equal(clean.data[brain], tilted_head().image.data[brain])
    assert removed > 5.0


def test_qc_of_one_and_two_images_as_json(folder: Path) -> None:
    options = QcOptions(profile="quick")
    pair = qc_files(folder / "sub_FLAIR.nii.gz", folder / "sub_T1w.nii.gz", options=options)
    text = json.dumps(report_json(pair), allow_nan=False)
    assert report_from_json(json.loads(text)) == pair
    assert pair.value("registration_quality") is not None
    alone = qc_files(folder / "sub_T1w.nii.gz", options=options)
    assert all(metric.name.startswith("t1w") for metric in alone.metrics)
    with pytest.raises(ImageRefused, match="format"):
        report_from_json({"format": 2})


def test_imaging_loads_neither_torch_nor_the_template_package() -> None:
    code = (
        "import sys, appliance.imaging.files, appliance.imaging.preparation;"
        "from appliance.imaging.atlas import load_atlas; load_atlas(4.0);"
        "print([m for m in ('torch', 'nilearn', 'monai', 'textual') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
