"""Every message between a site and the coordinator lost once, by cut and by silence."""

from __future__ import annotations

from collections.abc import Sequence

from tests.federation.resilience.lives import METHODS
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig
from tests.federation.resilience.stage import Stage, Undisturbed, measured, shared_out, undisturbed
from tests.waiting import wait_for

SIDES = ("request", "reply")
ROUNDS = 2
NOT_IN_A_RUN = frozenset({"Renew", "LeaveRun", "GetChunks", "PutChunks"})
"""Calls that an ordinary run does not make through the stub.

The two of chunks go by a way of their own (`federation/node/bulk.py`): `line` cuts them in the
middle, by the link.
"""
FIRST = "Handshake"
"""The call that an agent makes only when it begins: it is killed to make it again."""
INCIDENTS = {("ReportTask", "reply"): "5", ("PutChunks", "reply"): "1, 5"}

Case = tuple[str, str, str]
"""Method, side, and how it is lost: ``cut`` or ``swallow``."""


def cases(how: Sequence[str]) -> list[Case]:
    """Every call of the protocol's description, each side, each way of losing it."""
    return [
        (method.name, side, one)
        for one in how
        for method in METHODS
        for side in SIDES
        if method.name not in NOT_IN_A_RUN
    ]


def lost_messages(stage: Stage, chosen: Sequence[Case] = ()) -> list[Outcome]:
    """One run per message: it is lost, the site notices, and nothing is trained twice.

    Args:
        stage: where.
        chosen: default is every message by a cut connection, with ``stage.full`` by silence too.
    """
    wanted = list(chosen) or cases(("cut", "swallow") if stage.full else ("cut",))

    def _share(number: int, share: Sequence[Case]) -> list[Outcome]:
        with stage.rig(f"messages-{number}") as rig:
            calm = undisturbed(rig, rounds=ROUNDS)
            return [_lost(rig, calm, case) for case in share]

    return shared_out(wanted, _share)


def _lost(rig: Rig, calm: Undisturbed, case: Case) -> Outcome:
    method, side, how = case
    name = f"lost-{method}-{side}-{how}"
    who = "coordinator" if side == "reply" else "site-a"
    began = rig.trace("coordinator")[-1][0]
    before = rig.carried()
    rig.lose("site-a", method, side, how)
    if method == FIRST:
        rig.agents["site-a"].life.kill()
    run_id = rig.submit(name, rounds=ROUNDS)
    wanted = f"lost {method} {side}"
    rig.finished(run_id, seconds=200)
    lost = rig.moment(who, wanted, began)
    if not lost:
        # An agent that waits in a long poll makes its next call when that ends.
        lost = wait_for(lambda: rig.moment(who, wanted, began), what=wanted, seconds=40)
    ways = {"cut": "its connection is cut", "swallow": "its connection falls silent"}
    return measured(
        rig,
        run_id,
        calm,
        before,
        name=f"{method} {side} lost ({'cut' if how == 'cut' else 'silence'})",
        fault=f"the {side} of one {method} is lost: {ways[how]}",
        recovery_s=rig.progress(["site-a"], lost),
        incident=INCIDENTS.get((method, side), "4"),
    )
