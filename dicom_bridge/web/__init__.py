"""DICOMweb (PS3.18) in the place of DIMSE: QIDO-RS, WADO-RS, STOW-RS."""

from dicom_bridge.web.client import WebClient, WebOptions
from dicom_bridge.web.session import WebAddress

__all__ = ["WebAddress", "WebClient", "WebOptions"]
