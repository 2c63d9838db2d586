"""Process-wide switches of pynetdicom and pydicom, set once when this package is imported.

pynetdicom logs request and response identifiers by default, and pydicom puts offending values into
its warnings. Both would carry patients' values into logs, so both are switched off here and nowhere
else. pynetdicom's own messages are replaced by the errors and log events of this package.
"""

from __future__ import annotations

import contextlib
import logging
import socket

import pydicom.config
import pynetdicom
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.transport import AssociationSocket

MAXIMUM_PDU_BYTES = 131_072
"""The PDU length that we announce (PS3.8 D.1); DCMTK and what builds on it send up to this."""


VERIFICATION = UID("1.2.840.10008.1.1")
STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
PATIENT_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.1.1")
STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
STORAGE_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
"""The well-known instance of storage commitment by the push model (PS3.4 J.3.5)."""

PROPOSED = (
    VERIFICATION,
    STUDY_ROOT_FIND,
    PATIENT_ROOT_FIND,
    STUDY_ROOT_MOVE,
    STUDY_ROOT_GET,
    STORAGE_COMMITMENT,
)
"""What we ask for as SCU, besides storage classes; the conformance statement lists it."""


def configure() -> None:
    """Apply the switches; calling it again changes nothing."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # Any storage class is taken: what arrives is judged by what was asked for, not by its class.
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    # Files are sent as they lie on disk, without decoding.
    _config.STORE_SEND_CHUNKED_DATASET = True
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logger = logging.getLogger(pynetdicom.__name__)
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    AssociationSocket._shutdown_socket = _shut_down_and_close  # type: ignore[method-assign, assignment]


def _shut_down_and_close(transport: AssociationSocket) -> None:
    """Close a socket even if it was never connected; pynetdicom 3.0 leaves such sockets open."""
    connection = transport.socket
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


configure()
