"""What the agent is doing, as the control API shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LARGEST_SKEW_S: Final = 60.0
"""Clocks that differ by more are told to the operator."""


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
        skew_s: seconds that this clock is ahead of the coordinator's; None before it was compared.
    """

    connected: bool = False
    activity: str = "starting"
    run_id: str = ""
    round: int = 0
    deferred: int = 0
    last_contact: str = ""
    words: str = ""
    waits: str = ""
    skew_s: float | None = None

    @property
    def clock_words(self) -> str:
        """What is said about a wrong clock, or "".

        >>> AgentStatus(skew_s=-90.0).clock_words
        "this node's clock is 90 s behind the coordinator's: set it by NTP"
        """
        if self.skew_s is None or abs(self.skew_s) <= LARGEST_SKEW_S:
            return ""
        side = "ahead of" if self.skew_s > 0 else "behind"
        seconds = f"{abs(self.skew_s):.0f} s"
        return f"this node's clock is {seconds} {side} the coordinator's: set it by NTP"
