"""The two converters behind one call: dicom2nifti at array level, dcm2niix as a process.

Each returns values and affine as it made them; `verify` compares them with the instances.
"""

from __future__ import annotations

import copy
import importlib.metadata
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge.convert.dcmtk import decode_with_dcmtk
from dicom_bridge.convert.frames import READ_ERRORS, attribute
from dicom_bridge.convert.libraries import strict_dicom2nifti
from dicom_bridge.convert.pixels import Pixels
from dicom_bridge.convert.split import Run
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


def _instances(run: Run) -> list[tuple[Dataset, Path]]:
    """The run's distinct instances in order of volume, then space."""
    seen: dict[int, tuple[Dataset, Path]] = {}
    for frame in run.frames:
        seen.setdefault(id(frame.dataset), (frame.dataset, frame.path))
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


def _numbered(dataset: Dataset, number: int, decoded: NDArray[np.generic]) -> _Instance:
    made = _Instance()
    made._dict = dict(dataset._dict)
    made._private_blocks = dataset._private_blocks
    made.file_meta = dataset.file_meta
    made.decoded = decoded
    made.InstanceNumber = number
    return made


def with_dicom2nifti(run: Run, pixels: Pixels) -> list[EngineVolume]:
    """Convert by dicom2nifti.

    InstanceNumber is overwritten in shallow copies by the place in the run, since dicom2nifti
    groups slices by it and fails where it is absent.

    Raises:
        EngineRefused: dicom2nifti refuses or fails, with its cause.
    """
    from dicom2nifti import convert_dicom
    from dicom2nifti.exceptions import ConversionError, ConversionValidationError

    try:
        numbered = [
            _numbered(data, place, pixels.of_instance(data, path))
            for place, (data, path) in enumerate(_instances(run), start=1)
        ]
        with warnings.catch_warnings(), strict_dicom2nifti():
            warnings.simplefilter("ignore")
            made = convert_dicom.dicom_array_to_nifti(numbered, None, reorient_nifti=False)
        image = made["NII"]
        data, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except (ConversionError, ConversionValidationError) as error:
        raise EngineRefused(f"dicom2nifti refuses the series ({error})") from None
    except READ_ERRORS as error:
        raise EngineRefused(f"dicom2nifti fails ({type(error).__name__})") from None
    return [EngineVolume(data, affine, "dicom2nifti", importlib.metadata.version("dicom2nifti"))]


def _write_plain(run: Run, folder: Path) -> None:
    """Put instances uncompressed under neutral names; what is plain already is linked."""
    folder.mkdir(parents=True)
    for number, (dataset, path) in enumerate(_instances(run), start=1):
        target = folder / f"{number:06d}.dcm"
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            plain = copy.deepcopy(dataset)
            try:
                plain.decompress(generate_instance_uid=False)
            except READ_ERRORS:
                decoded = decode_with_dcmtk(path, str(syntax), folder.parent)
                if decoded is None:
                    raise
                plain = decoded
            plain.save_as(target, enforce_file_format=True)
        elif syntax == ExplicitVRLittleEndian or (
            syntax.is_implicit_VR and syntax.is_little_endian
        ):
            target.symlink_to(path.resolve())
        else:
            raise EngineRefused("dcm2niix is not asked to read this transfer syntax")


def with_dcm2niix(run: Run, work: Path) -> list[EngineVolume]:
    """Convert by dcm2niix, one image per call, on uncompressed copies.

    Args:
        run: the volumes of one image.
        work: an existing empty folder on the identified side; the caller removes it.

    Returns:
        Every image that dcm2niix made, without the resampled (`_Eq`) and tilt-corrected ones.

    Raises:
        EngineRefused: another return code than 0, or no image.
    """
    import dcm2niix

    source, target = work / "dicom", work / "nifti"
    target.mkdir(parents=True)
    try:
        _write_plain(run, source)
    except READ_ERRORS as error:
        raise EngineRefused(f"instances cannot be rewritten ({type(error).__name__})") from None
    precise = "n" if _philips(run.frames[0].dataset) else "y"
    options = ["-z", "n", "-b", "n", "-p", precise, "-f", "volume", "-o", str(target)]
    command = [dcm2niix.bin, *options]
    try:
        done = subprocess.run(
            [*command, str(source)], capture_output=True, timeout=DCM2NIIX_SECONDS, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise EngineRefused(f"dcm2niix did not run ({type(error).__name__})") from None
    made = [
        path for path in sorted(target.glob("*.nii")) if not path.stem.endswith(("_Eq", "Tilt"))
    ]
    if done.returncode != 0 or not made:
        raise EngineRefused(
            f"dcm2niix made {len(made)} images with return code {done.returncode}: expected one"
        )
    return [_loaded(path, dcm2niix.__version__) for path in made]


def _philips(dataset: Dataset) -> bool:
    """Whether dcm2niix would scale by Philips' private slope instead of RescaleSlope.

    `-p n` stops that, but makes it take the first slice's slope for all where slopes differ.
    """
    return "philips" in str(attribute(dataset, "Manufacturer") or "").lower()


def _loaded(path: Path, version: str) -> EngineVolume:
    image: Any = nibabel.load(path, mmap=False)
    data = np.asanyarray(image.dataobj)
    return EngineVolume(data, np.asarray(image.affine, dtype=np.float64), "dcm2niix", version)
