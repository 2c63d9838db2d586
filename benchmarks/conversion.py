"""A series to NIfTI beside plain dcm2niix and dicom2nifti: CPU seconds, children included."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import dicom2nifti
import nibabel
import numpy as np
from dcm2niix import bin as dcm2niix

from benchmarks.table import Row
from dicom_bridge.convert import convert_series
from tests.dicom_bridge.convert.phantom import Layout, instance, save
from tests.tools import shared_dir

RUNS = 5


def cpu_seconds() -> float:
    """Of this process and its finished children."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def in_turn(contenders: Mapping[str, Callable[[], None]]) -> list[Row]:
    """CPU seconds of the contenders A, B, A, B, ... after one run of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(RUNS + 1):
        for name, work in contenders.items():
            begun = cpu_seconds()
            work()
            if number:
                seconds[name].append(cpu_seconds() - begun)
    return [Row(name, tuple(values)) for name, values in seconds.items()]


def measure() -> list[Row]:
    """The shared MPRAGE, and a raw FLAIR of the MS data written as DICOM."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, series in (("MPRAGE", mprage(folder)), ("raw FLAIR", raw_flair(folder))):
            for ending in (".nii.gz", ".nii"):
                rows += compared(f"{title} {ending}", series, ending, folder)
    return rows


def compared(title: str, series: Path, ending: str, folder: Path) -> list[Row]:
    """One series in one form; the note holds each contender against dcm2niix."""
    files = sorted(series.iterdir())
    target = folder / "made"

    def niix() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        packed = "y" if ending == ".nii.gz" else "n"
        command = [str(dcm2niix), "-z", packed, "-o", str(target), str(series)]
        subprocess.run(command, check=True, capture_output=True)

    def ours() -> None:
        convert_series(files, folder / f"ours{ending}", work=folder / "work")

    def nifti() -> None:
        dicom2nifti.dicom_series_to_nifti(str(series), str(folder / f"plain{ending}"))

    rows = in_turn({"dcm2niix": niix, "clinode, verified": ours, "dicom2nifti": nifti})
    base = statistics.median(rows[0].seconds)
    return [
        replace(
            row, name=f"{title}: {row.name}", note=f"{row.median / base:.2f} x dcm2niix ({ending})"
        )
        for row in rows
    ]


def mprage(folder: Path) -> Path:
    """192 slices of 256 x 256."""
    name = "siemens_prisma_mprage"
    with tarfile.open(shared_dir("data", "dicom", f"{name}.tar.xz")) as packed:
        packed.extractall(folder, filter="data")
    return folder / name


def raw_flair(folder: Path) -> Path:
    """36 slices of 320 x 320, values of a real FLAIR."""
    path = shared_dir("data", "ms", "longitudinal_raw", "patient01", "study1_FLAIR.nii.gz")
    values = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    columns, rows, slices = values.shape
    layout = Layout(
        rows=rows, columns=columns, slices=slices, spacing=(0.71875, 0.71875), distance=4.0
    )
    out = folder / "raw_flair"
    for k in range(slices):
        pixels = values[:, :, k].T.astype("<u2").tobytes()
        save(instance(layout, k, PixelData=pixels), out / f"{k:03d}.dcm")
    return out
