"""``python -m tests.system.killable_node HOME MARKERS``: a node that SIGKILLs itself.

It runs the product's own service; only the observer, a constructor argument, is the test's. Each
planned point kills once, in whichever life it is reached first.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from appliance.pipeline.states import ARROWS, Point, Stage, StageEvent
from appliance.service import Node, NodeOptions


def planned_kills() -> dict[Stage, Point]:
    """One instant for every stage of the table, all instants in turn.

    The runner's own tests go through all instants of all stages with quick stages.
    """
    points = list(Point)
    return {arrow.stage: points[n % len(points)] for n, arrow in enumerate(ARROWS)}


def main() -> None:
    """Run until SIGTERM, or until the next planned kill."""
    home, markers = Path(sys.argv[1]), Path(sys.argv[2])
    kills = planned_kills()

    def observe(event: StageEvent) -> None:
        if kills[event.stage] is not event.point:
            return
        marker = markers / f"{event.stage}-{event.point}"
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    node = Node(home, options=NodeOptions(observer=observe))
    signal.signal(signal.SIGTERM, lambda *_: node.request_stop())
    node.start()
    node.wait()
    node.stop()


if __name__ == "__main__":
    main()
