"""Phantom brain MR studies with MS-like lesions, and the truth about them.

Everything is made from package data (MNI152 maps that nilearn ships) and a seed: no download, no
patient. Names and numbers in the headers are fictitious.
"""

from appliance.demo.phantom.identity import Identity
from appliance.demo.phantom.model import (
    Fault,
    PhantomRefused,
    PhantomRequest,
    PhantomStudy,
    Severity,
)
from appliance.demo.phantom.series import Stored, header_from, write_mr_series
from appliance.demo.phantom.study import make_study
from appliance.demo.phantom.styles import STYLES, LesionLoad, ScannerStyle, Sequence
from appliance.demo.phantom.write import (
    EXPERT,
    CohortRequest,
    WrittenStudy,
    planted,
    write_cohort,
    write_study,
    write_truth,
)

__all__ = [
    "EXPERT",
    "STYLES",
    "CohortRequest",
    "Fault",
    "Identity",
    "LesionLoad",
    "PhantomRefused",
    "PhantomRequest",
    "PhantomStudy",
    "ScannerStyle",
    "Sequence",
    "Severity",
    "Stored",
    "WrittenStudy",
    "header_from",
    "make_study",
    "planted",
    "write_cohort",
    "write_mr_series",
    "write_study",
    "write_truth",
]
