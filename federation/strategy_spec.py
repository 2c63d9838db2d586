"""The section of a plan that says how updates are joined; loads neither torch nor numpy."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from federation.plan_part import PlanPart

Mode = Literal["synchronous", "asynchronous"]
LateUpdates = Literal["drop", "keep"]
MODES: Final[tuple[str, ...]] = ("synchronous", "asynchronous")
LATE_UPDATES: Final[tuple[str, ...]] = ("drop", "keep")

_SiteName = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\z")]


class StrategySpec(PlanPart):
    """How the coordinator joins updates.

    Attributes:
        weight_cap: Largest number of training cases that counts as a site's weight.
        minimum_sites: Sites without which a run neither starts nor closes a round. In mode
            ``asynchronous`` it counts the sites that take part, not those of one model.
        round_deadline_s: Seconds after which a round goes on without who has not answered.
        mandatory_sites: Sites without whose update no round closes.
        late_updates: What becomes of an update that comes after its round was closed: ``drop``,
            or ``keep``: the difference to the model that it started from goes into the next round.
        mode: ``synchronous``: rounds, each of one update per site. ``asynchronous``: every site
            goes on as soon as it has reported, and every ``buffer_size`` updates make a model
            (FedBuff, Nguyen et al., AISTATS 2022, arXiv 2106.06639).
        buffer_size: Updates that make a model in mode ``asynchronous``.
        staleness_power: The weight of an update is multiplied with ``(1 + staleness) ** -power``,
            staleness being the number of models made since the one that it started from.
        maximum_staleness: An update that is staler is not taken.
    """

    key: Literal["fedavg"] = "fedavg"
    weight_cap: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    minimum_sites: Annotated[int, Field(ge=1, le=1000)] = 2
    round_deadline_s: Annotated[int, Field(ge=1, le=7 * 86_400)] = 3600
    mandatory_sites: Annotated[tuple[_SiteName, ...], Field(max_length=1000)] = ()
    late_updates: LateUpdates = "drop"
    mode: Mode = "synchronous"
    buffer_size: Annotated[int, Field(ge=1, le=1000)] = 2
    staleness_power: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    maximum_staleness: Annotated[int, Field(ge=0, le=5000)] = 20

    @property
    def asynchronous(self) -> bool:
        """Whether sites do not wait for each other."""
        return self.mode == "asynchronous"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = []
        if len(set(self.mandatory_sites)) != len(self.mandatory_sites):
            problems.append("mandatory_sites: the same site stands there twice")
        if self.asynchronous and self.mandatory_sites:
            problems.append("mandatory_sites: in mode asynchronous no model waits for one site")
        if self.asynchronous and self.late_updates == "keep":
            problems.append("late_updates: in mode asynchronous every update is kept")
        if not self.asynchronous and self.buffer_size != 2:
            problems.append("buffer_size is for mode asynchronous only")
        if not self.asynchronous and self.late_updates == "drop":
            problems += [
                f"{name} is for mode asynchronous or late_updates keep only"
                for name in ("staleness_power", "maximum_staleness")
                if getattr(self, name) != type(self).model_fields[name].default
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans signed before a key came keep their bytes, hash and signature."""
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            key: value
            for key, value in written.items()
            if key not in LATER_STRATEGY_KEYS or getattr(self, key) != fields[key].default
        }


LATER_STRATEGY_KEYS: Final = frozenset(
    {"mandatory_sites", "late_updates", "mode"}
    | {"buffer_size", "staleness_power", "maximum_staleness"}
)
"""Keys that came after the first plans: left out of the canonical form at their defaults."""
