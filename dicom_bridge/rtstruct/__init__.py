"""RT Structure Sets: regions drawn as contours, read onto the grid of their series."""

from dicom_bridge.rtstruct.expert import creator_of, expert_rois, region_name
from dicom_bridge.rtstruct.model import Contour, Filled, Roi, StructuresRefused
from dicom_bridge.rtstruct.raster import fill_region
from dicom_bridge.rtstruct.read import (
    RTSTRUCT_STORAGE,
    check_belongs,
    check_images,
    contours_of,
    open_structures,
    referenced_series,
    rois_of,
)

__all__ = [
    "RTSTRUCT_STORAGE",
    "Contour",
    "Filled",
    "Roi",
    "StructuresRefused",
    "check_belongs",
    "check_images",
    "contours_of",
    "creator_of",
    "expert_rois",
    "fill_region",
    "open_structures",
    "referenced_series",
    "region_name",
    "rois_of",
]
