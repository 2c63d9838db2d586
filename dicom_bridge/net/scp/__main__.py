"""``python -m dicom_bridge.net.scp``: a receiver process; started by the node only."""

import os

from dicom_bridge.net.scp.process import main

if __name__ == "__main__":
    # Threads that still wait for peers must not hold the end up.
    os._exit(main())
