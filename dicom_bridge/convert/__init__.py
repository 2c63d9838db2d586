"""DICOM series to NIfTI, verified against the instances' own geometry and pixels."""

from dicom_bridge.convert.series import Converted, convert_series, save_nifti
from dicom_bridge.convert.source import SourceFrame, SourceSeries

__all__ = ["Converted", "SourceFrame", "SourceSeries", "convert_series", "save_nifti"]
