"""The two converters behind one call: dicom2nifti at array level, dcm2niix as a process.

Each returns values and affine as it made them; `verify` compares them with the instances.
"""

from __future__ import annotations

import copy
import importlib.metadata
import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge.convert.frames import READ_ERRORS
from dicom_bridge.convert.libraries import configure_dicom2nifti
from dicom_bridge.convert.pixels import stored_pixels
from dicom_bridge.convert.stack import Stack
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray

Engine = Literal["dicom2nifti", "dcm2niix"]
DCM2NIIX_SECONDS = 120


class EngineRefused(DataRefused):
    """A converter would not convert this series; the other one may."""


@dataclass(frozen=True, slots=True, eq=False)
class EngineVolume:
    """What a converter made.

    Attributes:
        data: values in the converter's own axis order.
        affine: (4, 4) its index to RAS mm.
        engine: which converter.
        version: its version.
    """

    data: NDArray[np.generic]
    affine: FloatArray
    engine: Engine
    version: str


def _instances(stack: Stack) -> list[Dataset]:
    """The stack's distinct data sets in spatial order."""
    seen: dict[int, Dataset] = {}
    for frame in stack.frames:
        seen.setdefault(id(frame.dataset), frame.dataset)
    return list(seen.values())


class _Instance(Dataset):
    """An instance as dicom2nifti sees it: decoded once, never copied, numbered by position."""

    decoded: NDArray[np.generic]

    @property
    def pixel_array(self) -> NDArray[np.generic]:
        """The pixels, decoded before."""
        return self.decoded

    def __deepcopy__(self, memo: dict[int, Any] | None) -> _Instance:
        """Itself: dicom2nifti copies every slice in full before it reads its pixels."""
        return self


def _numbered(dataset: Dataset, number: int) -> _Instance:
    made = _Instance()
    made._dict = dict(dataset._dict)
    made.file_meta = dataset.file_meta
    made.decoded = stored_pixels(dataset)
    made.InstanceNumber = number
    return made


def with_dicom2nifti(stack: Stack) -> EngineVolume:
    """Convert by dicom2nifti.

    InstanceNumber is overwritten in shallow copies by the place in space, since dicom2nifti groups
    slices by it and fails where it is absent.

    Raises:
        EngineRefused: dicom2nifti refuses or fails, with its cause.
    """
    from dicom2nifti import convert_dicom
    from dicom2nifti.exceptions import ConversionError, ConversionValidationError

    configure_dicom2nifti()
    try:
        numbered = [_numbered(data, place) for place, data in enumerate(_instances(stack), start=1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = convert_dicom.dicom_array_to_nifti(numbered, None, reorient_nifti=False)
        image = made["NII"]
        data, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except (ConversionError, ConversionValidationError) as error:
        raise EngineRefused(f"dicom2nifti refuses the series ({error})") from None
    except READ_ERRORS as error:
        raise EngineRefused(f"dicom2nifti fails ({type(error).__name__})") from None
    return EngineVolume(data, affine, "dicom2nifti", importlib.metadata.version("dicom2nifti"))


def _write_plain(datasets: Sequence[Dataset], folder: Path) -> None:
    """Write instances uncompressed under neutral names."""
    folder.mkdir(parents=True)
    for number, dataset in enumerate(datasets, start=1):
        plain = copy.deepcopy(dataset)
        syntax = plain.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            plain.decompress(generate_instance_uid=False)
        elif syntax.is_implicit_VR and syntax.is_little_endian:
            pass
        elif syntax != ExplicitVRLittleEndian:
            raise EngineRefused("dcm2niix is not asked to read this transfer syntax")
        plain.save_as(folder / f"{number:06d}.dcm", enforce_file_format=True)


def with_dcm2niix(stack: Stack, work: Path) -> EngineVolume:
    """Convert by dcm2niix, one series per call, on uncompressed copies.

    Args:
        stack: the series.
        work: an existing empty folder on the identified side; the caller removes it.

    Raises:
        EngineRefused: another return code than 0, or not exactly one image.
    """
    import dcm2niix

    source, target = work / "dicom", work / "nifti"
    target.mkdir(parents=True)
    try:
        _write_plain(_instances(stack), source)
    except READ_ERRORS as error:
        raise EngineRefused(f"instances cannot be rewritten ({type(error).__name__})") from None
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-p", "n", "-f", "volume", "-o", str(target)]
    try:
        done = subprocess.run(
            [*command, str(source)], capture_output=True, timeout=DCM2NIIX_SECONDS, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise EngineRefused(f"dcm2niix did not run ({type(error).__name__})") from None
    made = sorted(target.glob("*.nii"))
    if done.returncode != 0 or len(made) != 1:
        raise EngineRefused(
            f"dcm2niix made {len(made)} images with return code {done.returncode}: expected one"
        )
    image: Any = nibabel.load(made[0])
    data = np.asanyarray(image.dataobj)
    affine = np.asarray(image.affine, dtype=np.float64)
    return EngineVolume(data, affine, "dcm2niix", dcm2niix.__version__)
