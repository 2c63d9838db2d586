"""Public sets with known identifiers, and real series against the standard's validator."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_bridge.deid import (
    Identifiers,
    deidentify_bytes,
    deidentify_file,
    search_bytes,
)
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC, pseudonymizer
from tests.tools import require_tool, shared_dir

SAMPLES = (
    "dicom/siemens_xa30_enhanced",
    "dicom/nema_enhanced_brain",
    "dicom/uih_dti_ap",
    "dicom/agfa_private_tags",
    "dicom/ge_discovery_epi",
    "dicom/siemens_mosaic",
    "dicom/dicom2nifti_samples",
    "seg",
)


def _errors(path: Path) -> set[str]:
    """dciodvfy's errors, without values and item numbers."""
    tool = require_tool("dciodvfy")
    done = subprocess.run(
        [str(tool), "-new", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"= <[^>]*>|\[\d+\]", "", line) for line in lines if line.startswith("Error")}


def _first_files(name: str) -> list[Path]:
    """One file of each folder below."""
    folders: dict[Path, Path] = {}
    for path in sorted(shared_dir("data", *name.split("/")).rglob("*")):
        if path.is_file() and path.suffix not in (".nrrd", ".json", ".md", ".txt"):
            folders.setdefault(path.parent, path)
    return list(folders.values())[:12]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pseudo_phi/0_ORIGINAL_compressed.dcm", "line of letters"),
        ("pseudo_phi/2_ORIGINAL.dcm", "line of letters"),
        ("pseudo_phi/RGB_ORIGINAL.dcm", "secondary capture"),
        ("pseudo_phi/0_ORIGINAL_no_pixels.dcm", "no pixel data"),
        ("fictional_names_ct/ctbrain1.dcm", "secondary capture"),
        ("dicom_cookies/image2.dcm", "secondary capture"),
    ],
)
def test_public_objects_with_text_in_their_pixels_are_refused(name: str, words: str) -> None:
    path = shared_dir("data", "phi", *name.split("/"))
    with pytest.raises(DataRefused, match=words):
        deidentify_bytes(path.read_bytes(), BASIC, pseudonymizer())


@pytest.mark.integration
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_files_leak_nothing_and_stay_as_valid_as_they_were(name: str, tmp_path: Path) -> None:
    done = 0
    for path in _first_files(name):
        try:
            encoded = deidentify_bytes(path.read_bytes(), BASIC, pseudonymizer())
        except DataRefused:
            continue
        out = tmp_path / f"{done}.dcm"
        deidentify_file(path, out, BASIC, pseudonymizer())
        done += 1
        original = dcmread(path, stop_before_pixels=True)
        known = Identifiers.from_datasets([original]) | encoded.identifiers
        header = b"".join(bytes(p) for p in encoded.parts if len(p) < 65536)
        assert search_bytes(header + b"\0", known) == []
        assert _errors(out) <= _errors(path)
        assert not [e.tag for e in dcmread(out).iterall() if e.tag.is_private]
    assert done


def test_a_class_that_pydicom_does_not_know_keeps_its_name(tmp_path: Path) -> None:
    path = shared_dir("data", "seg", "dcmqi", "sparse-labelmap-noppv.dcm")
    deidentify_file(path, tmp_path / "out.dcm", BASIC, pseudonymizer())
    after = dcmread(tmp_path / "out.dcm")
    assert after.SOPClassUID == after.file_meta.MediaStorageSOPClassUID
    assert after.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.mark.integration
def test_a_whole_real_series_keeps_pixels_and_geometry(tmp_path: Path) -> None:
    archive = shared_dir("data", "dicom", "siemens_prisma_mprage.tar.xz")
    with tarfile.open(archive) as packed:
        for member in [m for m in packed if m.isfile()][:12]:
            packed.extract(member, tmp_path / "in", filter="data")
    series, study = set(), set()
    for path in sorted(p for p in (tmp_path / "in").rglob("*") if p.is_file()):
        out = tmp_path / "out" / path.name
        deidentify_file(path, out, BASIC, pseudonymizer())
        before, after = dcmread(path), dcmread(out)
        assert np.array_equal(before.pixel_array, after.pixel_array)
        assert before.ImagePositionPatient == after.ImagePositionPatient
        assert before.ImageOrientationPatient == after.ImageOrientationPatient
        assert before.SOPInstanceUID != after.SOPInstanceUID
        series.add(after.SeriesInstanceUID)
        study.add(after.StudyInstanceUID)
    assert len(series) == len(study) == 1


def _every_series(folder: Path) -> dict[str, list[Path]]:
    """All series of the shared data, packed ones unpacked into a folder."""
    for archive in sorted(shared_dir("data", "dicom").glob("*.tar.xz")):
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    found: dict[str, list[Path]] = {}
    for root in (folder, shared_dir("data", "dicom"), shared_dir("data", "seg")):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.read_bytes()[128:132] == b"DICM":
                found.setdefault(str(path.parent), []).append(path)
    return found


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_real_series_comes_out_as_valid_as_it_was(tmp_path: Path) -> None:
    series = _every_series(tmp_path / "in")
    done, refused = 0, 0
    for paths in series.values():
        for path in paths[:: max(1, len(paths) // 10)]:
            out = tmp_path / f"{done}.dcm"
            try:
                deidentify_file(path, out, BASIC, pseudonymizer())
            except DataRefused:
                refused += 1
                continue
            done += 1
            assert _errors(out) <= _errors(path), path
            out.unlink()
    assert done > 300
    assert refused <= 0.1 * done
