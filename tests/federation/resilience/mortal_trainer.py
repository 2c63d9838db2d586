"""The real trainer process, with an observer that dies by SIGKILL at the point armed.

``PYTHON_TRAINER_TRACE`` names the folder of its trace and of the file that arms it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from federation.trainer.__main__ import main


def seen(point: str) -> None:
    """Note a step; die here if this is the point armed."""
    folder = Path(os.environ["PYTHON_TRAINER_TRACE"])
    folder.mkdir(parents=True, exist_ok=True)
    armed = folder / "kill"
    wanted = armed.read_text() if armed.exists() else ""
    with (folder / "trace").open("a") as stream:
        if wanted == point:
            armed.unlink()
            stream.write(f"{time.monotonic():.6f} killed {point}\n")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        stream.write(f"{time.monotonic():.6f} {point}\n")


if __name__ == "__main__":
    raise SystemExit(main(seen))
