"""``python -m tests.system.killable_results HOME MARKERS AE HOST PORT REPORT_PORT``.

The results part of a node with a real state and a real PACS; it SIGKILLs itself once at every
instant of a result's way, each in the life that reaches it first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from appliance.home import Home
from appliance.receiving import Receiving
from appliance.result_states import Instant
from appliance.store import ResultState
from dicom_bridge.net import CommitmentReport, PacsClient, RemoteAE
from tests.results import PROJECT, NodeResults, manifest

NODE_AE = "RESULTNODE"
LIFE_S = 240.0
ASKED_S = 3.0
"""A report waits so long for the request to end, so that this instant is reached, too."""


def main() -> None:
    """Run until the result is committed, or until the next planned kill."""
    root, markers, ae_title, host, port, report_port = sys.argv[1:]
    client = PacsClient(RemoteAE(ae_title, host, int(port)), calling_ae=NODE_AE)

    asked = threading.Event()

    def observe(_key: str, instant: Instant) -> None:
        if instant is Instant.ASKED:
            asked.set()
        marker = Path(markers) / instant.value
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    node = NodeResults(Home(Path(root), PROJECT), lambda _name: client, observer=observe)
    node.results.recover()

    def reported(report: CommitmentReport) -> None:
        asked.wait(ASKED_S)
        node.results.on_commitment(report)

    receiving = Receiving(
        node.settings,
        node.home,
        node.state,
        on_commitment=reported,
        port=int(report_port),
    )
    receiving.start()
    row = node.enter(manifest())
    stop = threading.Event()
    timer = threading.Timer(LIFE_S, stop.set)
    timer.start()
    while node.get(row.key).state is not ResultState.COMMITTED and not stop.is_set():
        node.results.send_due(stop)
        stop.wait(0.1)
    timer.cancel()
    finished = node.get(row.key).state is ResultState.COMMITTED
    receiving.stop()
    node.close()
    sys.exit(0 if finished else 1)


if __name__ == "__main__":
    main()
