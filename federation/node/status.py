"""What the agent is doing, as the control API shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the agent is doing, for the control API.

    Attributes:
        connected: whether the last call was answered.
        activity: ``waiting``, or a task's kind.
        run_id: the task's run, or "".
        round: the task's round.
        deferred: tasks that wait for a person.
        last_contact: UTC ISO 8601, or "".
        words: why the agent ended, or "".
        waits: what the agent waits for, in words, or "".
        clock_words: what is said about a clock that differs from the coordinator's, or "".
    """

    connected: bool = False
    activity: str = "starting"
    run_id: str = ""
    round: int = 0
    deferred: int = 0
    last_contact: str = ""
    words: str = ""
    waits: str = ""
    clock_words: str = ""
