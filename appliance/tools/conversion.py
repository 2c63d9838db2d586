"""Side-cars for ``clinode tools convert``: from a header that was de-identified first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydicom.dataset import Dataset

from dicom_bridge.convert.source import JSON
from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_dataset, header_sidecar
from dicom_bridge.errors import DataRefused


def sidecar_by(secret: bytes) -> Callable[[Dataset], Mapping[str, JSON]]:
    """A function that makes BIDS fields of a header, by an allow-list, after de-identification.

    Args:
        secret: 32 bytes; pseudonyms do not appear in side-cars, so a passing one will do.
    """
    profile, pseudonymizer = Profile.basic(), Pseudonymizer(secret, "tools")

    def _make(header: Dataset) -> Mapping[str, JSON]:
        try:
            return header_sidecar(deidentify_dataset(header, profile, pseudonymizer).dataset)
        except DataRefused as error:
            return {"SidecarRefused": str(error)}

    return _make
