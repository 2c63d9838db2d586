"""Where an error came from, for logs: code places only, no values of variables or messages."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

DEPTH: Final = 4


def where(error: BaseException) -> str:
    """The innermost frames of an error's traceback as ``file:line function``, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-DEPTH:]
    return " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)
