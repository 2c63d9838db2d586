"""What a scenario reports: one row of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went on after a fault.

    Attributes:
        name: the scenario.
        fault: what was killed, cut or spoiled, and how.
        finished: whether the run came to the end that was due without anybody's help.
        retrained: trainings beyond the necessary.
        resent: bytes that passed the line beyond those of the same run undisturbed.
        recovery_s: from the fault's end to the next progress; None where nothing had stopped.
        told_s: from the fault to words in `run show`; None where none were seen.
        words: those words.
        identical: whether the final model has the same bytes as without the fault; None where the
            run is meant to have no model.
        cleanup: what a person had to do; empty for nothing.
        incident: rows of Appendix B (real incidents at hospitals) that this is, or "".
        user: what a person sees meanwhile.
    """

    name: str
    fault: str
    finished: bool
    retrained: int
    resent: int
    recovery_s: float | None
    identical: bool | None
    told_s: float | None = None
    words: str = ""
    cleanup: str = ""
    incident: str = ""
    user: str = ""

    def problems(self, *, recovery_s: float = 60.0, retrained: int = 0) -> list[str]:
        """What falls short of: finished by itself, nothing lost, soon, the same model."""
        found = []
        if not self.finished:
            found.append(f"{self.name}: the run did not come to its end")
        if self.retrained > retrained:
            found.append(f"{self.name}: {self.retrained} trainings were done again")
        if self.identical is False:
            found.append(f"{self.name}: the final model is another one")
        if self.recovery_s is not None and self.recovery_s > recovery_s:
            found.append(f"{self.name}: {self.recovery_s:.1f} s until it went on")
        if self.cleanup:
            found.append(f"{self.name}: a person had to {self.cleanup}")
        return found


HEADINGS = (
    "Scenario",
    "Run finished",
    "Trained again",
    "Sent again",
    "Recovery",
    "Words after",
    "Same model",
    "By hand",
    "Incident",
)


def row(outcome: Outcome) -> list[str]:
    """The outcome as cells under :data:`HEADINGS`."""
    return [
        outcome.name,
        "yes" if outcome.finished else "**no**",
        str(outcome.retrained),
        amount(outcome.resent),
        seconds(outcome.recovery_s),
        seconds(outcome.told_s),
        {True: "yes", False: "**no**", None: "-"}[outcome.identical],
        outcome.cleanup or "nothing",
        outcome.incident or "-",
    ]


def amount(count: int) -> str:
    """Bytes for people.

    >>> amount(300), amount(70_000), amount(5_000_000)
    ('0', '70 kB', '5.0 MB')
    """
    if count < 1000:
        return "0"
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def seconds(value: float | None) -> str:
    """Seconds for people.

    >>> seconds(None), seconds(0.31)
    ('-', '0.3 s')
    """
    return "-" if value is None else f"{value:.1f} s"
