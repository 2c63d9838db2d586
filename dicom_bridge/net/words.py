"""DIMSE statuses and association rejections in words, with what to do.

Sources: PS3.4 B.2.3, C.4.1.1.4, C.4.2.1.5; PS3.7 annex C; PS3.8 9.3.4. The texts are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

_GENERAL: dict[int, str] = {
    0x0000: "success",
    0x0105: "no such attribute; the peer does not know an attribute that we sent",
    0x0106: "invalid attribute value; the peer refuses a value that we sent",
    0x0107: "attribute list error; the peer does not take every attribute that we sent",
    0x0110: "processing failure inside the peer; try again, then look into the peer's log",
    0x0111: "the peer already holds an instance of that UID",
    0x0112: "the peer does not hold the instance",
    0x0115: "invalid argument value; the peer refuses an argument that we sent",
    0x0117: "the instance UID is not valid",
    0x0118: "the peer does not know this SOP class",
    0x0119: "the SOP class does not belong to the instance",
    0x0120: "an attribute is missing that the peer requires",
    0x0121: "an attribute has no value, but the peer requires one",
    0x0122: "the peer does not support this SOP class; "
    "ask its administrator to enable it for our AE title",
    0x0124: "not authorised; ask the peer's administrator to grant our AE title this operation",
    0x0210: "duplicate invocation: the message id is in use; try again",
    0x0211: "the peer does not know this operation",
    0x0212: "the peer does not accept this argument",
    0x0213: "the peer is short of resources; try again later",
    0xFE00: "cancelled before it was complete",
    0xFF00: "in progress",
    0xFF01: "in progress; the peer does not support some of the optional keys",
}

_C_STORE: dict[int, str] = {
    0xB000: "stored, but the peer changed values of the wrong type",
    0xB006: "stored, but the peer discarded some elements",
    0xB007: "stored, but the data set does not match its SOP class",
}

_C_MOVE: dict[int, str] = {
    0xA701: "the PACS is out of resources and cannot count the matches; try again later",
    0xA702: "the PACS cannot send the instances; check that it can reach our Storage SCP "
    "(host, port, firewall) and that our AE title there is the one we listen under",
    0xA801: "the PACS does not know the move destination; ask the PACS administrator "
    "to add our AE title with our host and port",
    0xA900: "the PACS finds the request inconsistent with its information model; "
    "it may not support retrieval at this level",
    0xAA00: "none of the requested frames exist in the instance",
    0xAA04: "the PACS finds the request invalid",
    0xB000: "finished, but some instances could not be sent; they are asked for again",
    0xC000: "the PACS could not process the request; most often it does not know the move "
    "destination: ask the PACS administrator to add our AE title with our host and port",
    0xFE00: "cancelled; what had arrived before is kept",
}

_C_FIND: dict[int, str] = {
    0xA700: "the PACS is out of resources; narrow the criteria or try again later",
    0xA900: "the PACS finds the query inconsistent with its information model; "
    "it may not support this level or one of the keys",
    0xB001: "the PACS stopped at its own limit of answers; narrow the criteria",
}


@dataclass(frozen=True, slots=True)
class _Range:
    """Statuses from ``first`` to ``last``, both included, that share one meaning."""

    service: str
    first: int
    last: int
    words: str


_RANGES: tuple[_Range, ...] = (
    _Range("C-STORE", 0xA700, 0xA7FF, "the peer is out of resources; its disk may be full"),
    _Range("C-STORE", 0xA900, 0xA9FF, "the data set does not match its SOP class"),
    _Range("C-STORE", 0xB000, 0xBFFF, "stored with a warning"),
    _Range("C-STORE", 0xC000, 0xCFFF, "the peer cannot understand the data set"),
    _Range(
        "C-MOVE",
        0xC000,
        0xCFFF,
        "the PACS could not process the request; look into its log",
    ),
    _Range("C-FIND", 0xC000, 0xCFFF, "the PACS could not process the query; look into its log"),
)

_BY_SERVICE: dict[str, dict[int, str]] = {
    "C-STORE": _C_STORE,
    "C-MOVE": _C_MOVE,
    "C-FIND": _C_FIND,
}

_PERMANENT_MOVE = frozenset({0xA801, 0x0118, 0x0122, 0x0124, 0x0211, 0x0212})


def describe_status(service: str, status: int) -> str:
    """Say what a DIMSE status means and what to do.

    Args:
        service: ``C-ECHO``, ``C-FIND``, ``C-MOVE`` or ``C-STORE``.
        status: the 16-bit status.

    Example:
        >>> describe_status("C-MOVE", 0xA801).startswith("C-MOVE 0xA801: the PACS does not know")
        True
        >>> describe_status("C-STORE", 0xA712)
        'C-STORE 0xA712: the peer is out of resources; its disk may be full'
    """
    words = _BY_SERVICE.get(service, {}).get(status)
    if words is None:
        words = next(
            (r.words for r in _RANGES if r.service == service and r.first <= status <= r.last),
            None,
        )
    if words is None:
        words = _GENERAL.get(status, "a status that the standard does not define for this service")
    return f"{service} 0x{status:04X}: {words}"


def is_permanent_move_failure(status: int) -> bool:
    """Whether asking again is vain until somebody changes a setting at the PACS."""
    return status in _PERMANENT_MOVE


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4).

    Attributes:
        result: 1 permanent, 2 transient.
        source: 1 service user, 2 ACSE, 3 presentation.
        reason: meaning depends on ``source``.
    """

    result: int
    source: int
    reason: int


def describe_rejection(rejection: Rejection, *, calling_ae: str, called_ae: str) -> str:
    """Say why a peer refused the association and what to do.

    Example:
        >>> describe_rejection(Rejection(1, 1, 7), calling_ae="NODE", called_ae="PACS")
        'does not answer to the AE title PACS; enter the AE title that its administrator gives'
    """
    known = {
        (1, 1): "gave no reason; ask its administrator whether our AE title "
        f"{calling_ae} may connect",
        (1, 2): "does not support the DICOM application context",
        (1, 3): f"does not know our AE title {calling_ae}; ask its administrator to add it "
        "with our host and port",
        (1, 7): f"does not answer to the AE title {called_ae}; "
        "enter the AE title that its administrator gives",
        (2, 1): "gave no reason; look into its log",
        (2, 2): "does not support our protocol version",
        (3, 1): "is congested; try again later",
        (3, 2): "has reached its limit of associations; try again later",
    }
    words = known.get((rejection.source, rejection.reason))
    if words is not None:
        return words
    return (
        f"refused the association (result {rejection.result}, source {rejection.source}, "
        f"reason {rejection.reason}); look into its log"
    )
