"""Naming series from their headers, and choosing a study's inputs."""

from dicom_bridge.classify.choice import Choice, choose, choose_inputs, select_inputs
from dicom_bridge.classify.kinds import Classification, SeriesFiles, SeriesKind, StudyScan
from dicom_bridge.classify.rules import classify_series
from dicom_bridge.classify.site import NameAttribute, SiteName
from dicom_bridge.classify.study import scan_studies, scan_study

__all__ = [
    "Choice",
    "Classification",
    "NameAttribute",
    "SeriesFiles",
    "SeriesKind",
    "SiteName",
    "StudyScan",
    "choose",
    "choose_inputs",
    "classify_series",
    "scan_studies",
    "scan_study",
    "select_inputs",
]
