"""DIMSE statuses, association rejections and aborts in words, with what to do.

Sources: PS3.4 B.2.3, C.4.1.1.4, C.4.2.1.5, C.4.3.1.4, J.3.2.1.3, J.3.3.1.3; PS3.7 annex C; PS3.8
9.3.4 and 9.3.8; PS3.3 C.14.1.1; PS3.18 I.2.2. The texts are ours: what it means; what to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_bridge.net.model import OurAddress

SERVICES = (
    "C-ECHO",
    "C-FIND",
    "C-GET",
    "C-MOVE",
    "C-STORE",
    "N-ACTION",
    "N-EVENT-REPORT",
    "STOW-RS",
    "storage commitment",
)
"""What :func:`describe_status` knows tables for."""

_LOG = "look into the peer's log at this time"
_AGAIN = "try again later"
_REPORT = "report it with the node's log"

_GENERAL: dict[int, str] = {
    0x0000: "success",
    0x0001: "done, but the peer does not support some optional attributes; nothing to do",
    0x0105: f"the peer does not know an attribute that we sent; {_REPORT}",
    0x0106: f"the peer refuses a value that we sent; {_LOG}",
    0x0107: "done, but the peer did not take every attribute that we sent; nothing to do",
    0x0110: "processing failure inside the peer; try again, then look into the peer's log",
    0x0111: "the peer already holds an instance of that UID; nothing to send again",
    0x0112: "the peer does not hold the instance; send or list it again",
    0x0113: f"the peer does not know this kind of event; {_REPORT}",
    0x0114: f"the peer does not know an argument that we sent; {_REPORT}",
    0x0115: f"the peer refuses an argument that we sent; {_LOG}",
    0x0116: "done, but the peer changed a value that was out of its range; nothing to do",
    0x0117: "the peer says that the instance UID is not valid; correct the UID at its source",
    0x0118: "the peer does not know this SOP class; ask its administrator to enable it",
    0x0119: "the peer knows the instance under another SOP class; look for a duplicated UID",
    0x0120: f"the peer requires an attribute that is missing; {_LOG}",
    0x0121: f"the peer requires a value for an attribute that has none; {_LOG}",
    0x0122: "the peer does not support this SOP class; "
    "ask its administrator to enable it for our AE title",
    0x0123: f"the peer does not know this kind of action; {_REPORT}",
    0x0124: "not authorised; ask the peer's administrator to grant our AE title this operation",
    0x0131: "the transaction UID was used before; the request is made anew with another one",
    0x0210: "duplicate invocation: the message id is in use; try again",
    0x0211: "the peer does not know this operation; ask its administrator to enable the service",
    0x0212: f"the peer does not accept this argument; {_REPORT}",
    0x0213: f"the peer is short of resources; {_AGAIN}",
    0xFE00: "cancelled before it was complete; ask again for the rest",
    0xFF00: "in progress; wait",
    0xFF01: "in progress, the peer does not support some of the optional keys; wait",
}

_C_STORE: dict[int, str] = {
    0xB000: "stored, but the peer changed values of the wrong type; compare before relying on it",
    0xB006: "stored, but the peer discarded some elements; compare before relying on it",
    0xB007: "stored, but the peer finds that the data set does not match its SOP class; "
    "check the object with dciodvfy",
    0xC122: "the peer does not take this transfer syntax; "
    "ask its administrator to enable it or send uncompressed",
}

_RETRIEVE: dict[int, str] = {
    0xA701: f"the PACS is out of resources and cannot count the matches; {_AGAIN}",
    0xA900: "the PACS finds the request inconsistent with its information model; it may not "
    "support retrieval at this level, another level is tried",
    0xAA00: "none of the requested frames exist in the instance; ask for the whole instance",
    0xAA01: "the PACS cannot make a new object of this SOP class; ask for the whole instance",
    0xAA02: "the PACS cannot extract frames; ask for the whole instance",
    0xAA03: "the PACS has no times in this instance; ask for the whole instance",
    0xAA04: f"the PACS finds the request invalid; {_LOG}",
    0xB000: "finished, but some instances could not be sent; they are asked for again",
    0xFE00: "cancelled; what had arrived before is kept, the rest is asked for again",
}

_C_MOVE: dict[int, str] = {
    **_RETRIEVE,
    0xA702: "the PACS cannot send the instances; check that it can reach our Storage SCP "
    "(host, port, firewall) and that our AE title there is the one we listen under",
    0xA801: "the PACS does not know the move destination; ask the PACS administrator "
    "to add our AE title with our host and port",
    0xC000: "the PACS could not process the request; most often it does not know the move "
    "destination: ask the PACS administrator to add our AE title with our host and port",
}

_C_GET: dict[int, str] = {
    **_RETRIEVE,
    0xA702: "the PACS cannot send the instances on this connection; "
    "try again later, or use retrieve = 'move'",
    0x0122: "the PACS does not offer C-GET to us; ask its administrator to enable it for our AE "
    "title, or use retrieve = 'move'",
}

_C_FIND: dict[int, str] = {
    0xA700: "the PACS is out of resources; narrow the criteria or try again later",
    0xA900: "the PACS finds the query inconsistent with its information model; it may not support "
    "this level or one of the keys, ask its administrator which it supports",
    0xB001: "the PACS stopped at its own limit of answers; narrow the criteria",
    0xFE00: "the PACS ended the query before its last answer; narrow the criteria",
}

_COMMITMENT: dict[int, str] = {
    0x0110: "the PACS could not check this instance; it is asked again, then look into its log",
    0x0112: "the PACS does not hold this instance; it is sent again",
    0x0119: "the PACS knows this instance under another SOP class; look for a duplicated UID",
    0x0122: "the PACS does not commit to this SOP class; ask its administrator to enable it",
    0x0213: f"the PACS is short of resources; {_AGAIN}",
}


@dataclass(frozen=True, slots=True)
class _Range:
    """Statuses from ``first`` to ``last``, both included, that share one meaning."""

    services: tuple[str, ...]
    first: int
    last: int
    words: str


_STORING = ("C-STORE", "STOW-RS")
_RANGES: tuple[_Range, ...] = (
    _Range(
        _STORING,
        0xA700,
        0xA7FF,
        "the peer is out of resources; its disk may be full, tell its administrator",
    ),
    _Range(
        _STORING,
        0xA900,
        0xA9FF,
        "the data set does not match its SOP class; check the object with dciodvfy",
    ),
    _Range(_STORING, 0xB000, 0xBFFF, "stored with a warning; look into the peer's log"),
    _Range(
        _STORING,
        0xC000,
        0xCFFF,
        "the peer cannot understand the data set; check the object with dciodvfy",
    ),
    _Range(
        ("C-MOVE", "C-GET"),
        0xC000,
        0xCFFF,
        "the PACS could not process the request; look into its log",
    ),
    _Range(
        ("C-FIND",),
        0xC000,
        0xCFFF,
        "the PACS could not process the query; look into its log",
    ),
)

_BY_SERVICE: dict[str, dict[int, str]] = {
    "C-STORE": _C_STORE,
    "STOW-RS": _C_STORE,
    "C-MOVE": _C_MOVE,
    "C-GET": _C_GET,
    "C-FIND": _C_FIND,
    "storage commitment": _COMMITMENT,
}

_PERMANENT_MOVE = frozenset({0xA801, 0x0118, 0x0122, 0x0124, 0x0211, 0x0212})
_UNDEFINED = f"a status that the standard does not define for this service; {_LOG}"


def describe_status(service: str, status: int, *, ours: OurAddress | None = None) -> str:
    """Say what a DIMSE status means and what to do.

    Args:
        service: one of :data:`SERVICES`.
        status: the 16-bit status.
        ours: where our receiver listens; named where the PACS must be told about it.

    Example:
        >>> describe_status("C-MOVE", 0xA801).startswith("C-MOVE 0xA801: the PACS does not know")
        True
        >>> ours = OurAddress("CLINODE", "10.0.0.7", 11112)
        >>> describe_status("C-MOVE", 0xA801, ours=ours)[-47:]
        'add AE title CLINODE, host 10.0.0.7, port 11112'
    """
    words = _BY_SERVICE.get(service, {}).get(status)
    if words is None:
        words = next(
            (r.words for r in _RANGES if service in r.services and r.first <= status <= r.last),
            None,
        )
    if words is None:
        words = _GENERAL.get(status, _UNDEFINED)
    if ours is not None:
        words = words.replace("to add our AE title with our host and port", f"to add {ours}")
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


def describe_rejection(
    rejection: Rejection, *, calling_ae: str, called_ae: str, ours: OurAddress | None = None
) -> str:
    """Say why a peer refused the association and what to do.

    Example:
        >>> describe_rejection(Rejection(1, 1, 7), calling_ae="NODE", called_ae="PACS")
        'does not answer to the AE title PACS; enter the AE title that its administrator gives'
    """
    where = f"as {ours}" if ours is not None else "with our host and port"
    known = {
        (1, 1): "gave no reason; ask its administrator whether our AE title "
        f"{calling_ae} may connect",
        (1, 2): "does not support the DICOM application context; check that this port is DICOM",
        (1, 3): f"does not know our AE title {calling_ae}; ask its administrator to add it {where}",
        (1, 7): f"does not answer to the AE title {called_ae}; "
        "enter the AE title that its administrator gives",
        (2, 1): "gave no reason; look into its log",
        (2, 2): "does not support our protocol version; ask its administrator to update it",
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


_ABORTS: dict[int, str] = {
    0: "its DICOM stack gave no reason; look into its log",
    1: "it did not recognise a message of ours; look into its log",
    2: "it did not expect a message of ours at this point; look into its log",
    4: "it did not recognise a parameter of a message; look into its log",
    5: "it did not expect a parameter of a message; look into its log",
    6: "it found an invalid parameter value in a message; look into its log",
}


def describe_abort(source: int, reason: int) -> str:
    """Say why a peer aborted the association (A-ABORT, PS3.8 9.3.8) and what to do.

    Args:
        source: 0 the peer's application, 2 its protocol stack.
        reason: meaningful for source 2 only.

    Example:
        >>> describe_abort(0, 0)
        'aborted the association: its application gave up; look into its log'
    """
    if source == 2:
        return f"aborted the association: {_ABORTS.get(reason, _ABORTS[0])}"
    return "aborted the association: its application gave up; look into its log"
