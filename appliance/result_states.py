"""A result's way from a model's mask to the PACS: states, transitions and instants. No sockets.

```
made -> validated -> held -> released -> sending -> sent -> stored -> committed
```

`sent`: the PACS took every object. `stored`: the PACS lists every object when asked. `committed`:
the PACS has taken responsibility (storage commitment, PS3.4 Annex J). Besides these: `no finding`
(nothing is sent), `failed` (tried again later), `refused` (needs a person), `superseded` (a newer
result stands in its place) and `withdrawn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from appliance.pipeline.states import TransitionRefused


class ResultState(StrEnum):
    """Where a result is."""

    MADE = "made"
    VALIDATED = "validated"
    NO_FINDING = "no finding"
    HELD = "held"
    RELEASED = "released"
    SENDING = "sending"
    SENT = "sent"
    STORED = "stored"
    COMMITTED = "committed"
    FAILED = "failed"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class Verb(StrEnum):
    """What happens to a result."""

    VALIDATE = "validate"
    REFUSE = "refuse"
    CLOSE = "close"
    HOLD = "hold"
    RECHECK = "recheck"
    RELEASE = "release"
    START = "start"
    FAIL = "fail"
    FINISH = "finish"
    CONFIRM = "confirm"
    LOSE = "lose"
    COMMIT = "commit"
    RESEND = "resend"
    SUPERSEDE = "supersede"
    WITHDRAW = "withdraw"


_S, _V = ResultState, Verb

TABLE: Mapping[Verb, Mapping[ResultState, ResultState]] = MappingProxyType(
    {
        # the files were read back and agree with the source series
        _V.VALIDATE: {_S.MADE: _S.VALIDATED},
        # they do not; or the PACS refused the objects again and again
        _V.REFUSE: {_S.MADE: _S.REFUSED, _S.SENDING: _S.REFUSED, _S.SENT: _S.REFUSED},
        # nothing was found and nothing is to be sent
        _V.CLOSE: {_S.VALIDATED: _S.NO_FINDING},
        # a person's word, or an obstacle met while sending
        _V.HOLD: dict.fromkeys(
            (_S.VALIDATED, _S.HELD, _S.RELEASED, _S.FAILED, _S.SENDING), _S.HELD
        ),
        # a person releases what was refused: it is checked once more first
        _V.RECHECK: {_S.REFUSED: _S.MADE},
        _V.RELEASE: dict.fromkeys((_S.HELD, _S.FAILED, _S.NO_FINDING), _S.RELEASED),
        _V.START: {_S.RELEASED: _S.SENDING, _S.FAILED: _S.SENDING},
        # a passing fault: again later
        _V.FAIL: {_S.SENDING: _S.FAILED},
        _V.FINISH: {_S.SENDING: _S.SENT},
        # the PACS lists every object
        _V.CONFIRM: {_S.SENT: _S.STORED},
        # the PACS does not list, or does not commit to, what it took
        _V.LOSE: dict.fromkeys((_S.SENT, _S.STORED), _S.FAILED),
        _V.COMMIT: dict.fromkeys((_S.SENT, _S.STORED), _S.COMMITTED),
        # a person, or a node that died while sending
        _V.RESEND: dict.fromkeys(
            (_S.RELEASED, _S.FAILED, _S.SENDING, _S.SENT, _S.STORED), _S.RELEASED
        ),
        _V.SUPERSEDE: dict.fromkeys((s for s in _S if s is not _S.WITHDRAWN), _S.SUPERSEDED),
        _V.WITHDRAW: dict.fromkeys(_S, _S.WITHDRAWN),
    }
)
"""Verb, then the states in which it is possible with the state that follows."""

IN_PACS = frozenset({_S.SENT, _S.STORED, _S.COMMITTED})
"""The PACS has every object."""

UNSENT = frozenset({_S.MADE, _S.VALIDATED, _S.HELD, _S.RELEASED, _S.FAILED, _S.REFUSED})
"""Work that has not left the node, or not all of it."""

OPEN = frozenset({_S.MADE, _S.VALIDATED, _S.RELEASED, _S.SENDING, _S.FAILED, _S.SENT})
"""The node itself still has something to do."""


def allowed(verb: Verb) -> frozenset[ResultState]:
    """The states in which something can happen."""
    return frozenset(TABLE[verb])


def after(state: ResultState, verb: Verb) -> ResultState:
    """The state that follows.

    Raises:
        TransitionRefused: this cannot happen in this state.

    Examples:
        >>> after(ResultState.HELD, Verb.RELEASE).value
        'released'
    """
    try:
        return TABLE[verb][state]
    except KeyError:
        raise TransitionRefused(f"the result is '{state}': '{verb}' is not possible now") from None


class Instant(StrEnum):
    """Every instant at which a death leaves something different on disk or in the PACS."""

    WRITTEN = "written"
    """The files lie in their folder; no row says so."""
    MADE = "made"
    VALIDATED = "validated"
    HELD = "held"
    RELEASED = "released"
    STARTED = "started"
    REFRESHED = "refreshed"
    """The copies with fresh values are written."""
    TRANSMITTED = "transmitted"
    """The PACS took an object; no row says so."""
    RECORDED = "recorded"
    SENT = "sent"
    LISTED = "listed"
    """The PACS lists every object; no row says so."""
    STORED = "stored"
    PLANNED = "planned"
    """A commitment transaction is in the state; the PACS was not asked."""
    ASKED = "asked"
    """The PACS was asked for commitment."""
    COMMITTED = "committed"
    CLEARED = "cleared"
    """The local copy is gone."""


def kill_points() -> tuple[Instant, ...]:
    """Every instant, in order, for tests that kill the process there."""
    return tuple(Instant)
