"""The acceptor's half of the upper layer's state table (PS3.8 9.2, Table 9-10), pure.

States and actions keep the standard's names. Two deviations, both allowed to a local user: a
release is confirmed at once (AR-2 and AR-4 in one step, so Sta8 does not exist), and silence in an
open association is answered with AA-1.
"""

from __future__ import annotations

from enum import Enum

from dicom_bridge.net.scp.pdu import PduType


class State(Enum):
    """Where the association stands."""

    IDLE = "Sta1"
    AWAIT_REQUEST = "Sta2"
    AWAIT_DECISION = "Sta3"
    OPEN = "Sta6"
    AWAIT_CLOSE = "Sta13"


class Event(Enum):
    """What can happen."""

    REQUEST = "A-ASSOCIATE-RQ"
    DATA = "P-DATA-TF"
    RELEASE = "A-RELEASE-RQ"
    ABORT = "A-ABORT"
    UNEXPECTED = "A-ASSOCIATE-AC, A-ASSOCIATE-RJ or A-RELEASE-RP"
    INVALID = "unknown or invalid PDU"
    CLOSED = "transport connection closed"
    EXPIRED = "timer expired"
    ACCEPTED = "A-ASSOCIATE response primitive (accept)"
    REJECTED = "A-ASSOCIATE response primitive (reject)"
    STOPPED = "A-ABORT request primitive"


class Action(Enum):
    """What to do."""

    DECIDE = "AE-6"
    SEND_ACCEPT = "AE-7"
    SEND_REJECT = "AE-8"
    DELIVER = "DT-2"
    CONFIRM_RELEASE = "AR-2, AR-4"
    SEND_ABORT = "AA-1"
    SEND_PROVIDER_ABORT = "AA-8"
    CLOSE = "AA-2"
    IGNORE = "AA-6"
    NOTHING = "AR-5"


_ABORTED = (Action.SEND_ABORT, State.AWAIT_CLOSE)
_BROKEN = (Action.SEND_PROVIDER_ABORT, State.AWAIT_CLOSE)
_CLOSED = (Action.CLOSE, State.IDLE)
_GONE = (Action.NOTHING, State.IDLE)
_IGNORED = (Action.IGNORE, State.AWAIT_CLOSE)

TABLE: dict[tuple[State, Event], tuple[Action, State]] = {
    (State.AWAIT_REQUEST, Event.REQUEST): (Action.DECIDE, State.AWAIT_DECISION),
    (State.AWAIT_REQUEST, Event.DATA): _ABORTED,
    (State.AWAIT_REQUEST, Event.RELEASE): _ABORTED,
    (State.AWAIT_REQUEST, Event.ABORT): _CLOSED,
    (State.AWAIT_REQUEST, Event.UNEXPECTED): _ABORTED,
    (State.AWAIT_REQUEST, Event.INVALID): _ABORTED,
    (State.AWAIT_REQUEST, Event.CLOSED): _GONE,
    (State.AWAIT_REQUEST, Event.EXPIRED): _CLOSED,
    (State.AWAIT_REQUEST, Event.STOPPED): _ABORTED,
    (State.AWAIT_DECISION, Event.ACCEPTED): (Action.SEND_ACCEPT, State.OPEN),
    (State.AWAIT_DECISION, Event.REJECTED): (Action.SEND_REJECT, State.AWAIT_CLOSE),
    (State.AWAIT_DECISION, Event.STOPPED): _ABORTED,
    (State.AWAIT_DECISION, Event.ABORT): _CLOSED,
    (State.AWAIT_DECISION, Event.CLOSED): _GONE,
    (State.AWAIT_DECISION, Event.REQUEST): _BROKEN,
    (State.AWAIT_DECISION, Event.DATA): _BROKEN,
    (State.AWAIT_DECISION, Event.RELEASE): _BROKEN,
    (State.AWAIT_DECISION, Event.UNEXPECTED): _BROKEN,
    (State.AWAIT_DECISION, Event.INVALID): _BROKEN,
    (State.AWAIT_DECISION, Event.EXPIRED): _ABORTED,
    (State.OPEN, Event.DATA): (Action.DELIVER, State.OPEN),
    (State.OPEN, Event.RELEASE): (Action.CONFIRM_RELEASE, State.AWAIT_CLOSE),
    (State.OPEN, Event.ABORT): _CLOSED,
    (State.OPEN, Event.CLOSED): _GONE,
    (State.OPEN, Event.REQUEST): _BROKEN,
    (State.OPEN, Event.UNEXPECTED): _BROKEN,
    (State.OPEN, Event.INVALID): _BROKEN,
    (State.OPEN, Event.EXPIRED): _ABORTED,
    (State.OPEN, Event.STOPPED): _ABORTED,
    (State.AWAIT_CLOSE, Event.REQUEST): _ABORTED,
    (State.AWAIT_CLOSE, Event.INVALID): _ABORTED,
    (State.AWAIT_CLOSE, Event.DATA): _IGNORED,
    (State.AWAIT_CLOSE, Event.RELEASE): _IGNORED,
    (State.AWAIT_CLOSE, Event.UNEXPECTED): _IGNORED,
    (State.AWAIT_CLOSE, Event.STOPPED): _IGNORED,
    (State.AWAIT_CLOSE, Event.ABORT): _CLOSED,
    (State.AWAIT_CLOSE, Event.CLOSED): _GONE,
    (State.AWAIT_CLOSE, Event.EXPIRED): _CLOSED,
}

EVENT_OF = {
    PduType.ASSOCIATE_RQ: Event.REQUEST,
    PduType.ASSOCIATE_AC: Event.UNEXPECTED,
    PduType.ASSOCIATE_RJ: Event.UNEXPECTED,
    PduType.P_DATA: Event.DATA,
    PduType.RELEASE_RQ: Event.RELEASE,
    PduType.RELEASE_RP: Event.UNEXPECTED,
    PduType.ABORT: Event.ABORT,
}


def event_of(kind: int) -> Event:
    """The event that a PDU of this type is."""
    return EVENT_OF.get(kind, Event.INVALID)  # type: ignore[call-overload, no-any-return]


class Machine:
    """The state of one association.

    Example:
        >>> machine = Machine()
        >>> machine.on(Event.REQUEST)
        <Action.DECIDE: 'AE-6'>
        >>> machine.on(Event.ACCEPTED), machine.state
        (<Action.SEND_ACCEPT: 'AE-7'>, <State.OPEN: 'Sta6'>)
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.AWAIT_REQUEST

    def on(self, event: Event) -> Action:
        """Take a step; what the table does not know in a state closes the connection."""
        action, self.state = TABLE.get((self.state, event), _CLOSED)
        return action
