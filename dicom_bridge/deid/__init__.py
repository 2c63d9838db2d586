"""De-identification by DICOM PS3.15 Annex E: what no rule names does not come out."""

from __future__ import annotations

from dicom_bridge.deid.engine import (
    Deidentified,
    Proof,
    deidentify_bytes,
    deidentify_dataset,
    deidentify_file,
)
from dicom_bridge.deid.identifiers import Identifiers
from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.table import Option

__all__ = [
    "Deidentified",
    "Identifiers",
    "Option",
    "Profile",
    "Proof",
    "Pseudonymizer",
    "deidentify_bytes",
    "deidentify_dataset",
    "deidentify_file",
]
