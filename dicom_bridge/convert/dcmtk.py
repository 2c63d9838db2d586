"""DCMTK's decoders, where they are installed, for pixel data that pydicom's cannot read."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from dicom_bridge.convert.frames import read_dataset
from dicom_bridge.errors import DataRefused

SECONDS = 60


def decoder_for(syntax: str) -> str | None:
    """Path of the DCMTK program that decodes a transfer syntax; None where there is none."""
    if syntax in JPEGTransferSyntaxes:
        return shutil.which("dcmdjpeg")
    return shutil.which("dcmdjpls") if syntax in JPEGLSTransferSyntaxes else None


def decode_with_dcmtk(path: Path, syntax: str, work: Path) -> Dataset | None:
    """An instance with uncompressed pixel data.

    Args:
        path: the compressed file.
        syntax: its transfer syntax.
        work: folder on the identified side; emptied again.

    Returns:
        The decoded data set, None where DCMTK is absent or fails too.
    """
    program = decoder_for(syntax)
    if program is None:
        return None
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dcmtk-", dir=work) as folder:
        plain = Path(folder) / "plain.dcm"
        try:
            done = subprocess.run(
                [program, str(path), str(plain)], capture_output=True, timeout=SECONDS, check=False
            )
            return read_dataset(plain, pixels=True) if done.returncode == 0 else None
        except (subprocess.TimeoutExpired, OSError, DataRefused):
            return None
