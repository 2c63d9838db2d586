"""SOP classes that several parts name (PS3.4 table B.5-1, PS3.6 table A-1)."""

from __future__ import annotations

from typing import Final

SEGMENTATION_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.4"
"""Segmentation Storage: binary and fractional segments."""

LABELMAP_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage (2024), newer than pydicom 3.0's dictionary."""
