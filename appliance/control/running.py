"""Calls about federated runs: which there are here, leaving one, halting all, going on."""

from __future__ import annotations

from appliance.control import node_pb2 as pb
from appliance.participation import Participation
from appliance.store import LEFT, NodeState, RunRow

HALTED = "halted"


class Running:
    """The custodian's calls about runs.

    Args:
        state: the node's state.
        participation: her word on runs.
    """

    def __init__(self, state: NodeState, participation: Participation) -> None:
        self._state = state
        self._participation = participation

    def runs(self) -> pb.RunList:
        """Every run that a task ever came of."""
        return pb.RunList(runs=[self._message(row) for row in self._state.runs.select()])

    def leave(self, request: pb.ActionRequest, actor: str) -> pb.ActionReply:
        """Take no further part in a run."""
        key = self._state.runs.resolve(request.key)
        row = self._participation.leave(key, actor=actor, reason=request.reason)
        words = f"run {key} is left for good: its trainer is stopped and nothing of it leaves"
        return pb.ActionReply(key=key, state=row.state, message=words)

    def halt(self, request: pb.ActionRequest, actor: str) -> pb.ActionReply:
        """Take part in nothing."""
        halt = self._participation.halt(actor=actor, reason=request.reason)
        words = f"halted since {halt.halted_at}: nothing is trained until `clinode run resume`"
        return pb.ActionReply(state=HALTED, message=words)

    def resume(self, request: pb.ActionRequest, actor: str) -> pb.ActionReply:
        """Take part again."""
        self._participation.resume(actor=actor, reason=request.reason)
        words = "the node takes part in its runs again; runs that were left stay left"
        return pb.ActionReply(state="taking part", message=words)

    def _message(self, row: RunRow) -> pb.Run:
        plan = self._state.plans.find(row.plan_hash)
        halt = self._state.runs.halted()
        halted = halt is not None and row.state != LEFT
        return pb.Run(
            run=row.run_id,
            plan=row.plan_hash,
            name=plan.name if plan is not None else "",
            state=HALTED if halted else row.state,
            reason=halt.reason if halt is not None and halted else row.reason,
            seen_at=row.seen_at,
            decided_by=row.decided_by,
            decided_at=row.decided_at or "",
            coordinator=row.answer,
        )
