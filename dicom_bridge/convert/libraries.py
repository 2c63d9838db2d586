"""The process-wide settings of the DICOM libraries, set in this one place.

pydicom's and dicom2nifti's settings are module globals. Conversion runs in a worker process of its
own, so setting them here touches nothing else there; in other processes they only silence warnings
about values that break a VR's rules and keep dicom2nifti from guessing.
"""

from __future__ import annotations

import logging
import warnings
from functools import lru_cache

import pydicom.config


def configure_reading() -> None:
    """Read values that break their VR's rules as they are, without a warning that quotes them."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\b")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@lru_cache(maxsize=1)
def configure_dicom2nifti() -> None:
    """Turn every check of dicom2nifti on and its resampling off; silence its log."""
    from dicom2nifti import settings

    settings.validate_slicecount = True
    settings.validate_orientation = True
    settings.validate_orthogonal = True
    settings.validate_slice_increment = True
    settings.validate_instance_number = False
    settings.validate_multiframe_implicit = True
    settings.pydicom_read_force = False
    settings.resample = False
    logging.getLogger("dicom2nifti").setLevel(logging.CRITICAL)
