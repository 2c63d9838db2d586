"""De-identification by DICOM PS3.15 Annex E: what no rule names does not come out."""

from __future__ import annotations

from dicom_bridge.deid.engine import (
    Deidentified,
    Proof,
    deidentify_bytes,
    deidentify_dataset,
    deidentify_file,
    deidentify_header,
)
from dicom_bridge.deid.identifiers import Identifiers
from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.residual import ResidualHit, residual_search, search_bytes
from dicom_bridge.deid.sidecar import header_sidecar
from dicom_bridge.deid.table import Option
from dicom_bridge.deid.tree import DeidentifyRequest, TreeSummary, deidentify_tree

__all__ = [
    "Deidentified",
    "DeidentifyRequest",
    "Identifiers",
    "Option",
    "Profile",
    "Proof",
    "Pseudonymizer",
    "ResidualHit",
    "TreeSummary",
    "deidentify_bytes",
    "deidentify_dataset",
    "deidentify_file",
    "deidentify_header",
    "deidentify_tree",
    "header_sidecar",
    "residual_search",
    "search_bytes",
]
