"""The custodian's word on runs: leave one for good, halt all of them, let them go on.

Each word is in the state and in the audit log before anything else happens; the federation's agent
looks at the state and stops the trainer (`federation.node.watch`).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from appliance.errors import NotAllowed
from appliance.store import LEFT, Halt, NodeState, RunRow
from federation.audit_chain import AuditChain
from federation.node.site_port import Parting, Stand, Standing

_log = structlog.get_logger(__name__)


class Participation:
    """Runs that this site takes part in.

    Args:
        state: the node's state.
        audit: the node's audit log.
        on_change: called after each word, so that the agent looks at once.
    """

    def __init__(
        self,
        state: NodeState,
        audit: AuditChain,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._state = state
        self._audit = audit
        self._on_change = on_change

    def leave(self, run_id: str, *, actor: str, reason: str = "") -> RunRow:
        """Take no further part in a run, for good.

        Raises:
            NotFound: no task of such a run ever came.
        """
        known = self._state.runs.get(run_id)
        if known.state == LEFT:
            return known
        row = self._state.runs.leave(run_id, actor=actor, reason=reason)
        self._audit.append(actor, "run.left", run_id, {"reason": reason})
        _log.info("run_left", run=run_id)
        self._on_change()
        return row

    def halt(self, *, actor: str, reason: str = "") -> Halt:
        """Take part in nothing until `resume`; a halt that stands is kept."""
        known = self._state.runs.halted()
        if known is not None:
            return known
        halt = self._state.runs.halt(actor=actor, reason=reason)
        self._audit.append(actor, "runs.halted", "all", {"reason": reason})
        _log.info("runs_halted")
        self._on_change()
        return halt

    def resume(self, *, actor: str, reason: str = "") -> None:
        """Take part again.

        Raises:
            NotAllowed: nothing is halted.
        """
        if not self._state.runs.resume():
            raise NotAllowed("nothing is halted here: the node takes part in its runs")
        self._audit.append(actor, "runs.resumed", "all", {"reason": reason})
        _log.info("runs_resumed")
        self._on_change()

    def standing(self, run_id: str, plan_hash: str) -> Standing:
        """How a run stands here; a run that was never seen is remembered."""
        self._state.runs.seen(run_id, plan_hash)
        plan = self._state.plans.find(plan_hash)
        dataset = plan.dataset if plan is not None else None
        withdrawn = self._state.datasets.gone(dataset) if dataset else 0
        run, halt = self._state.runs.get(run_id), self._state.runs.halted()
        if run.state == LEFT:
            return Standing(Stand.LEFT, left_words(run.reason), withdrawn)
        if halt is not None:
            words = "the custodian has halted this site"
            return Standing(Stand.HALTED, _with(words, halt.reason), withdrawn)
        return Standing(Stand.TAKING_PART, "", withdrawn)

    def partings(self) -> list[Parting]:
        """Left runs of which the coordinator does not know."""
        return [Parting(row.run_id, left_words(row.reason)) for row in self._state.runs.untold()]

    def parted(self, run_id: str, words: str) -> None:
        """The coordinator knows."""
        self._state.runs.told(run_id, words)
        self._audit.append("node", "run.leaving-told", run_id, {"answer": words})


def left_words(reason: str) -> str:
    """What the coordinator hears of a site that left.

    >>> left_words("ethics vote ended")
    'the custodian left this run: ethics vote ended'
    """
    return _with("the custodian left this run", reason)


def _with(words: str, reason: str) -> str:
    return f"{words}: {reason.strip()}" if reason.strip() else words
