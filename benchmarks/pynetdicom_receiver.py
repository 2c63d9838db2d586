"""``python -m benchmarks.pynetdicom_receiver AE PORT FOLDER``: pynetdicom as its manual shows it.

Each object is decoded and saved (the handler of pynetdicom's own examples); only the settings that
cost nothing are improved: TCP_NODELAY, the PDU length, no logging.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    EnhancedMRImageStorage,
    MRImageStorage,
    Verification,
)


def main() -> None:
    """Serve until killed."""
    title, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    _config.LOG_HANDLER_LEVEL = "none"

    def store(event: evt.Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        ds.save_as(folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    def opened(event: evt.Event) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    entity = AE(ae_title=title)
    entity.maximum_pdu_size = 131_072
    for uid in (MRImageStorage, EnhancedMRImageStorage):
        entity.add_supported_context(uid, AllTransferSyntaxes)
    entity.add_supported_context(Verification)
    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_CONN_OPEN, opened)]
    entity.start_server(("127.0.0.1", port), evt_handlers=handlers)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
