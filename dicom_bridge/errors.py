"""Error classes of the DICOM side, by cause.

No text here or in a subclass ever holds a patient's value: no name, id, date, original UID or path.
"""

from __future__ import annotations


class DicomBridgeError(Exception):
    """Root of everything that this package raises on purpose."""


class DataRefused(DicomBridgeError):
    """This study, series or file cannot be used: quarantine it; ``str(error)`` is the reason."""


class SegRefused(DataRefused):
    """A segmentation object cannot be read or must not be written."""


class ReportRefused(DataRefused):
    """A measurement report must not be written, or does not read back."""


class CaptureRefused(DataRefused):
    """Pictures of a result must not be written."""


class SettingsRefused(DicomBridgeError):
    """Wrong configuration or arguments: a person must correct them, retrying is vain."""


class VaultError(DicomBridgeError):
    """The identity vault cannot be read or written, or what it holds was altered."""


class RecordAbsent(VaultError):
    """The vault has no record of this name."""


class PeerError(DicomBridgeError):
    """A PACS or the network failed: what was asked may be asked again later."""


class PeerUnreachable(PeerError):
    """Nothing answered at the peer's address, or the connection broke."""


class AssociationRejected(PeerError):
    """The peer answered, but refused the association or the service that was asked for.

    Attributes:
        result: PS3.8 9.3.4 Result (1 permanent, 2 transient), 0 where there was none.
        reason: PS3.8 9.3.4 Reason/Diag, 0 where there was none.
    """

    def __init__(self, message: str, *, result: int = 0, reason: int = 0) -> None:
        super().__init__(message)
        self.result = result
        self.reason = reason


class PeerFailure(PeerError):
    """The peer carried out the request and answered with a failure status.

    Attributes:
        status: the DIMSE status (PS3.7 annex C), 0 to 0xFFFF.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
