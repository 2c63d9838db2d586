"""What an amended plan may change in a run under way, and whether a site takes it by itself.

An amended plan takes the place of another one in the same run: signed by the same key, equal to it
but for the learning rate and the number of rounds. Nothing here loads torch, grpc or a socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from federation.errors import PlanRefused
from federation.plan import Plan, SignedPlan

AMENDABLE: Final = ("optimiser.learning_rate", "training.rounds")
"""Fields of a plan that may change while its run is under way."""
ENVELOPE: Final = ("amends",)
"""Fields that say which plan this one takes the place of."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field that two plans differ in."""

    field: str
    before: Any
    after: Any

    @property
    def words(self) -> str:
        """The change for a person.

        >>> Change("optimiser.learning_rate", 0.001, 0.002).words
        'learning rate 0.001 -> 0.002 (x 2)'
        >>> Change("training.rounds", 12, 20).words
        'rounds 12 -> 20 (+8)'
        """
        name = self.field.rpartition(".")[2].replace("_", " ")
        text = f"{name} {_short(self.before)} -> {_short(self.after)}"
        if self.field == AMENDABLE[0]:
            return f"{text} (x {self.after / self.before:.4g})"
        if self.field == AMENDABLE[1]:
            return f"{text} ({self.after - self.before:+d})"
        return text


@dataclass(frozen=True, slots=True)
class AmendmentLimits:
    """What a site takes without asking a person.

    Attributes:
        learning_rate_factor: largest learning rate as a multiple of the one that was approved.
        rounds: largest number of rounds.
    """

    learning_rate_factor: float
    rounds: int


def changes(before: Plan, after: Plan) -> tuple[Change, ...]:
    """Every field that differs, by its dotted name; what names the amended plan is left out."""
    one, other = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    return tuple(
        Change(name, one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name) and name.partition(".")[0] not in ENVELOPE
    )


def check_amendment(before: SignedPlan, after: SignedPlan) -> tuple[Change, ...]:
    """The changes of an amended plan.

    Args:
        before: the plan that ``after`` says it amends.
        after: the amended plan; its signature was verified when it was read.

    Raises:
        PlanRefused: it amends another plan, was signed by another key, or changes what may not
            change in a run under way.
    """
    if after.plan.amends != before.hash:
        raise PlanRefused("the amended plan does not name the plan of this run")
    if after.public_key != before.public_key:
        raise PlanRefused("the amended plan was signed by another key than the plan of this run")
    found = changes(before.plan, after.plan)
    others = [change.field for change in found if change.field not in AMENDABLE]
    if others:
        raise PlanRefused(
            f"an amendment may change learning rate and rounds only, this one changes"
            f" {', '.join(others[:5])}"
        )
    return found


def inside(approved: Plan, after: Plan, limits: AmendmentLimits | None) -> bool:
    """Whether an amended plan lies inside what the site takes without asking.

    Args:
        approved: the plan that a person (or the site's rule for signers) approved last; amendments
            that were taken without asking do not count, so that small steps cannot add up.
        after: the amended plan.
        limits: the site's; None asks always.
    """
    if limits is None:
        return False
    largest = approved.optimiser.learning_rate * limits.learning_rate_factor
    if after.optimiser.learning_rate > largest * (1.0 + 1e-9):
        return False
    return after.training.rounds <= max(limits.rounds, approved.training.rounds)


def change_words(found: Sequence[Change]) -> str:
    """All changes in one line; says so where there is none."""
    return "; ".join(change.words for change in found) or "nothing but its name changes"


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names; lists are compared whole."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
