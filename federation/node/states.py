"""A task's steps at the node: each is on disk before the next begins.

After a kill the agent finds the last step in the task's journal and goes on from there: a trained
round is never trained again, an upload continues at its byte. This module imports no socket, grpc,
torch or textual.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Step(StrEnum):
    """What is done of a task."""

    RECEIVED = "received"
    """The task is in the journal."""
    FETCHED = "fetched"
    """Every object it needs is here and verified."""
    WORKED = "worked"
    """The work is done, its result is in the journal."""
    SENT = "sent"
    """Every object of the result has arrived at the coordinator."""
    REPORTED = "reported"
    """The coordinator has the report."""


STEP_TABLE: Final[Mapping[Step, frozenset[Step]]] = {
    Step.RECEIVED: frozenset({Step.FETCHED, Step.WORKED}),
    Step.FETCHED: frozenset({Step.WORKED}),
    Step.WORKED: frozenset({Step.SENT, Step.FETCHED}),
    Step.SENT: frozenset({Step.REPORTED, Step.FETCHED}),
    Step.REPORTED: frozenset(),
}
"""What may follow each step; a task that fails or is refused goes to WORKED with its words.

A task goes back to FETCHED, and is done again, where a patient of its data was withdrawn before the
result was reported.
"""


def kill_points() -> tuple[str, ...]:
    """Every point at which the agent's observer is called, from the table alone.

    >>> "step:worked:entering" in kill_points()
    True
    """
    return tuple(f"step:{step}:{moment}" for step in Step for moment in ("entering", "entered"))
