"""De-identification of a phantom series on one core, next to pydicom's bare read and save."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pydicom

from appliance.demo.phantom import PhantomRequest, make_study, write_study
from benchmarks.table import Row, in_turn
from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_file


def measure() -> list[Row]:
    """One half-resolution GE study's FLAIR."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = make_study(PhantomRequest(index=0, style="ge"))
        files = write_study(study, folder / "dicom", segmentation=False).flair
        out = folder / "out"
        out.mkdir()
        profile = Profile.basic()
        pseudonymizer = Pseudonymizer(bytes(range(32)), "bench")

        def floor() -> str:
            for path in files:
                pydicom.dcmread(path).save_as(out / path.name)
            return f"{len(files)} instances, nothing removed"

        def ours() -> str:
            for path in files:
                deidentify_file(path, out / path.name, profile, pseudonymizer)
            return "full Basic Profile"

        return in_turn({"pydicom read and save": floor, "clinode": ours})
