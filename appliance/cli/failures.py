"""Errors of all packages as one sentence and an exit code."""

from __future__ import annotations

import os
import traceback

from appliance.cli.output import print_error
from appliance.errors import ApplianceError


def exit_code_of(error: Exception) -> int:
    """Say what went wrong in one sentence.

    An error that is none of ours is a defect: its class is named, and its trace is printed where
    ``CLINODE_DEBUG`` is set (a trace may hold file paths, so not by default).

    Returns:
        2 for wrong settings, 1 for everything else.
    """
    from appliance.settings import SettingsInvalid
    from dicom_bridge.errors import DicomBridgeError
    from dicom_bridge.errors import SettingsRefused as BridgeSettings
    from federation.errors import FederationError
    from federation.errors import SettingsRefused as FederationSettings

    if isinstance(error, (ApplianceError, DicomBridgeError, FederationError)):
        print_error(str(error))
        refused = isinstance(error, (BridgeSettings, FederationSettings, SettingsInvalid))
        return 2 if refused else 1
    if isinstance(error, OSError):
        print_error(os_error_words(error))
        return 1
    print_error(
        f"an internal error ({type(error).__name__}): this is a defect of clinode; "
        "set CLINODE_DEBUG=1 to see where it happened"
    )
    if os.environ.get("CLINODE_DEBUG"):
        traceback.print_exception(error)
    return 1


def os_error_words(error: OSError) -> str:
    """What the system refused, and on which file where it says so.

    >>> os_error_words(FileNotFoundError(2, "No such file or directory", "plan.toml"))
    'plan.toml: No such file or directory'
    >>> os_error_words(OSError("the disk went away"))
    'the disk went away'
    """
    if error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
