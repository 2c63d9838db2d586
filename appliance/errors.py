"""Errors of the node, by cause.

Every message says what was expected, what came and what to do about it, and never carries a
patient's value, an original UID or a path that contains one.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """Root of everything that the node raises on purpose."""


class ImageRefused(ApplianceError):
    """This image cannot be used as it is; `str(error)` is the quarantine reason in words."""


class StageFailed(ApplianceError):
    """A pipeline stage could not finish; the node tries again later with back-off."""


class ControlError(ApplianceError):
    """A control call did not succeed; the text is fit for the operator."""


class NotRunning(ControlError):
    """Nobody listens on the control socket."""


class NotFound(ControlError):
    """No item has the key that was asked for."""


class NotAllowed(ControlError):
    """The item's state or the site's policy forbids the action now."""
