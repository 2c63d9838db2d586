"""A phantom T1 series to NIfTI, next to dicom2nifti and dcm2niix on the same files."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import dicom2nifti
from dcm2niix import bin as dcm2niix

from appliance.demo.phantom import PhantomRequest, make_study, write_study
from benchmarks.table import Row, in_turn
from dicom_bridge.convert import convert_series


def measure() -> list[Row]:
    """One half-resolution GE study's T1."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = make_study(PhantomRequest(index=0, style="ge"))
        files = write_study(study, folder / "dicom", segmentation=False).t1w
        series = folder / "series"
        series.mkdir()
        for path in files:
            shutil.copy(path, series)

        def plain() -> str:
            dicom2nifti.dicom_series_to_nifti(str(series), str(folder / "plain.nii.gz"))
            return f"{len(files)} slices, unverified, no geometry side-car"

        def ours() -> str:
            convert_series(files, folder / "ours.nii.gz", work=folder / "work")
            return "verified, with geometry side-car"

        def chris() -> str:
            out = folder / "niix"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            command = [str(dcm2niix), "-z", "y", "-o", str(out), str(series)]
            subprocess.run(command, check=True, capture_output=True)
            return "unverified, own side-car"

        return in_turn({"dicom2nifti": plain, "clinode": ours, "dcm2niix": chris})
