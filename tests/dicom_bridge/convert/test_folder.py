from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_bridge.convert import convert_series
from dicom_bridge.convert.folder import convert_folder
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.convert.phantom import series
from tests.dicom_bridge.real import files_of, packed_series
from tests.tools import shared_dir


def test_one_image_and_one_sidecar_per_series(tmp_path: Path) -> None:
    study = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study")

    def sidecar(header: Dataset) -> dict[str, Any]:
        return {"MagneticFieldStrength": float(header.MagneticFieldStrength)}

    results = convert_folder(study, tmp_path / "out", work=tmp_path / "work", sidecar=sidecar)

    assert [(r.SeriesNumber, r.image.name if r.image else r.reason[:20]) for r in results] == [
        (1, "1_localiser.nii.gz"),
        (3, "3_FLAIR.nii.gz"),
        (4, "4_T2w.nii.gz"),
        (5, "5_T1w.nii.gz"),
        (8, "8_T1wCE.nii.gz"),
        (11, "the series holds no "),
        (211, "too few slices: 256 "),
    ]
    assert {r.engine for r in results if r.image} == {"dcm2niix"}
    fields = json.loads((tmp_path / "out" / "3_FLAIR.json").read_text())
    assert fields["MagneticFieldStrength"] == 1.5
    assert fields["ConversionSoftware"] == "dcm2niix"
    image: Any = nibabel.load(tmp_path / "out" / "3_FLAIR.nii.gz")
    assert image.shape == (256, 256, 24)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataRefused, match="no DICOM instance"):
        convert_folder(tmp_path, tmp_path / "out", work=tmp_path)


def test_same_number_and_kind_get_distinct_names(tmp_path: Path) -> None:
    from tests.dicom_bridge.classify.test_study import put

    series(tmp_path / "in" / "a")
    put(tmp_path / "in" / "b", 5)
    names = [
        r.image.name
        for r in convert_folder(tmp_path / "in", tmp_path / "o", work=tmp_path)
        if r.image
    ]
    assert sorted(names) == ["5_FLAIR.nii.gz", "5_FLAIR_2.nii.gz"]


SAMPLES = [
    ("failing__notavolume__001", "4 images at 1 slice positions"),
    ("failing__slicecount__001", "too few slices: 2"),
    ("failing__sliceincrement__001", "missing slice: 1 of 5"),
    ("failing__sliceorientation__001", "mixed acquisition"),
    ("ge__anatomical__001_single_slice", "too few slices: 1"),
    ("ge__dti__001", "8 images at 4 slice positions"),
    ("philips_enhanced__dti__001", "diffusion b-values"),
    ("philips_enhanced__fmri__001", "time points"),
    ("generic__rgb__001", "no MR, CT or PET image"),
    ("ge__anatomical__001", ""),
    ("generic__anatomical__001", ""),
    ("generic__anatomical__001_implicit", ""),
    ("generic__anatomical__002_non_isotropic", ""),
    ("generic__compressed__001", ""),
    ("generic__compressed_j2k__001", ""),
    ("generic__compressed_jpeg__001", ""),
    ("generic__compressed_jpegls__001", ""),
    ("generic__compressed_rle__001", ""),
    ("hitachi__anatomical__001", ""),
    ("hyperfine__anatomical__001", ""),
    ("philips__anatomical__001", ""),
    ("philips_enhanced__anatomical__001", ""),
    ("siemens__anatomical__001", ""),
    ("siemens_multiframe__anatomical__001", ""),
]


@pytest.mark.parametrize(("name", "words"), SAMPLES, ids=[row[0] for row in SAMPLES])
def test_real_samples(tmp_path: Path, name: str, words: str) -> None:
    files = files_of(shared_dir("data", "dicom", "dicom2nifti_samples", name))
    if words:
        with pytest.raises(DataRefused, match=words):
            convert_series(files, tmp_path / "o.nii", work=tmp_path / "work")
        assert not (tmp_path / "o.nii").exists()
    else:
        assert convert_series(files, tmp_path / "o.nii", work=tmp_path / "work").image.exists()


OTHERS = [
    ("nema_enhanced_brain/other/BRMULTI", "different orientations|slice positions"),
    ("siemens_xa30_enhanced/8_gre_field_mapping", "echo times"),
    ("siemens_mosaic/skyra_epi_ap", "mosaic"),
    ("ge_discovery_epi", "150 images at 15 slice positions"),
]


@pytest.mark.parametrize(("name", "words"), OTHERS, ids=[row[0] for row in OTHERS])
def test_real_series_that_are_no_single_volume(tmp_path: Path, name: str, words: str) -> None:
    path = shared_dir("data", "dicom", *name.split("/"))
    files = [path] if path.is_file() else files_of(path)
    with pytest.raises(DataRefused, match=words):
        convert_series(files, tmp_path / "o.nii", work=tmp_path / "work")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("archive", "folder", "words"),
    [
        ("siemens_prisma_mprage", "", ""),
        ("prostatex", "ProstateX-0000_missing_slice", "missing slice: 1 of 19"),
        ("ct_ge_gantry_tilt", "", "gantry tilt of 18.5 degrees"),
        ("philips_phantom", "501_T1W_FFE_classic", ""),
    ],
)
def test_real_packed_series(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    archive: str,
    folder: str,
    words: str,
) -> None:
    files = files_of(packed_series(archive, tmp_path_factory) / folder)
    if words:
        with pytest.raises(DataRefused, match=words):
            convert_series(files, tmp_path / "o.nii", work=tmp_path / "work")
        return
    converted = convert_series(files, tmp_path / "o.nii", work=tmp_path / "work")
    image: Any = nibabel.load(converted.image)
    assert np.isfinite(np.asarray(image.dataobj)).all()
