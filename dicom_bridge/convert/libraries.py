"""The process-wide settings of the DICOM libraries, set in this one place.

pydicom's and dicom2nifti's settings are module globals. Conversion runs in a worker process of its
own, so setting pydicom's touches nothing else there; in other processes it only silences warnings
about values that break a VR's rules. dicom2nifti's are put back after every use.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pydicom.config

_SWITCHES = {
    "validate_slicecount": True,
    "validate_orientation": True,
    "validate_orthogonal": True,
    "validate_slice_increment": True,
    "validate_instance_number": False,
    "validate_multiframe_implicit": True,
    "pydicom_read_force": False,
    "resample": False,
}


def configure_reading() -> None:
    """Read values that break their VR's rules as they are, without a warning that quotes them."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\b")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextmanager
def strict_dicom2nifti() -> Iterator[None]:
    """Every check of dicom2nifti on and its resampling off, for as long as the block runs.

    Its switches are globals of its module: what they were before comes back afterwards.
    """
    from dicom2nifti import settings

    before = {name: getattr(settings, name) for name in _SWITCHES}
    logger = logging.getLogger("dicom2nifti")
    level = logger.level
    try:
        for name, value in _SWITCHES.items():
            setattr(settings, name, value)
        logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
        logger.setLevel(level)
