"""The DICOM Conformance Statement, generated from what runs (PS3.2 Annex N)."""

from dicom_bridge.conformance.facts import Facts, Peer
from dicom_bridge.conformance.statement import conformance_statement

__all__ = ["Facts", "Peer", "conformance_statement"]
