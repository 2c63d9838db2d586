"""Where a control socket lies: a short path that only its owner can reach."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from appliance.errors import ControlError

LONGEST_SOCKET_PATH = 107
"""Bytes that ``sun_path`` holds on Linux without its closing zero (unix(7))."""


def control_socket(home: Path) -> Path:
    """The control socket of the home folder ``home``.

    The home's own path may be long, so the socket stands in a runtime folder under a name that is
    derived from the home's real path: ``$XDG_RUNTIME_DIR/clinode`` where that is set, else
    ``clinode-<uid>`` in the system's folder for temporary files.

    Returns:
        The path; its folder is made with mode 0700 if it is missing.

    Raises:
        ControlError: the folder cannot be made, belongs to somebody else, is open to others, or
            has too long a path.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = (
        Path(runtime) / "clinode"
        if runtime
        else Path(tempfile.gettempdir()) / f"clinode-{os.getuid()}"
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ControlError(
            f"the runtime folder {folder} cannot be made ({error.strerror}); "
            "set XDG_RUNTIME_DIR to a private folder"
        ) from error
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ControlError(
            f"the runtime folder {folder} must belong to this account with mode 0700; "
            "remove it or set XDG_RUNTIME_DIR to a private folder"
        )
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16] + ".sock"
    path = folder / name
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise ControlError(
            f"the control socket's path has more than {LONGEST_SOCKET_PATH} bytes; "
            "set XDG_RUNTIME_DIR to a shorter folder"
        )
    return path
