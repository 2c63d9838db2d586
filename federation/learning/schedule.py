"""Learning rate over the steps of a whole run: pure arithmetic, no torch."""

import math

from federation.plan import Plan


def learning_rate(plan: Plan, round_number: int, step: int) -> float:
    """Learning rate of one optimiser step.

    Args:
        plan: The plan; its schedule runs over all steps of all rounds.
        round_number: 0 .. rounds - 1; later rounds keep the last value.
        step: 0 .. steps_per_round - 1 inside the round.
    """
    training = plan.training
    total = training.rounds * training.steps_per_round
    position = min(1.0, (round_number * training.steps_per_round + step) / total)
    return plan.optimiser.learning_rate * _factor(plan, position)


def _factor(plan: Plan, position: float) -> float:
    spec = plan.training.schedule
    warmup = spec.warmup_fraction
    total = plan.training.rounds * plan.training.steps_per_round
    if position < warmup:
        share = min(1.0, (position + 1.0 / total) / warmup)
        return 0.5 * (1.0 - math.cos(math.pi * share)) if spec.key == "one-cycle" else share
    if spec.key == "constant":
        return 1.0
    share = (position - warmup) / (1.0 - warmup)
    return spec.final_fraction + (1.0 - spec.final_fraction) * 0.5 * (
        1.0 + math.cos(math.pi * share)
    )
