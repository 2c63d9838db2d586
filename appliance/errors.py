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
