"""What every part of a plan has in common."""

from pydantic import BaseModel, ConfigDict


class PlanPart(BaseModel):
    """A frozen, closed section of a plan: unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
