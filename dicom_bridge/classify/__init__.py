"""Naming series from their headers, and choosing a study's inputs."""

from dicom_bridge.classify.kinds import Classification, SeriesFiles, SeriesKind, StudyScan
from dicom_bridge.classify.rules import classify_series
from dicom_bridge.classify.study import scan_study, select_inputs

__all__ = [
    "Classification",
    "SeriesFiles",
    "SeriesKind",
    "StudyScan",
    "classify_series",
    "scan_study",
    "select_inputs",
]
