"""The service's log: JSON lines on standard error, never an identifier in them.

Events are names with key-value fields. A value of a type that may carry patient data (a DICOM
data set, bytes, an exception's arguments) is replaced by its type's name before it is written.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import TextIO

import structlog
from structlog.typing import WrappedLogger

PLAIN = (str, int, float, bool, type(None))


def configure_log(stream: TextIO | None = None, *, level: str = "info") -> None:
    """Send every event of this process to ``stream`` as one JSON object a line.

    Args:
        stream: default standard error.
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            only_plain_values,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries that log by the standard library may put identifiers into their messages.
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    logging.getLogger("pynetdicom").disabled = True
    logging.getLogger("pydicom").disabled = True


def only_plain_values(
    _logger: WrappedLogger, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """Keep strings, numbers and lists of them; name the type of everything else.

    >>> only_plain_values(None, "info", {"event": "x", "n": 1, "raw": b"secret"})
    {'event': 'x', 'n': 1, 'raw': '<bytes>'}
    """
    for key, value in event.items():
        if isinstance(value, PLAIN):
            continue
        if isinstance(value, (list, tuple)) and all(isinstance(v, PLAIN) for v in value):
            continue
        event[key] = f"<{type(value).__name__}>"
    return event
