"""One round of training at a site."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from federation.errors import PreparedDataRefused, TrainingDiverged
from federation.learning.losses import DiceCrossEntropy
from federation.learning.networks import MEMORY_FORMAT, is_finite
from federation.learning.patches import PatchSampler
from federation.learning.prepared import PreparedFolder, Split
from federation.learning.schedule import learning_rate
from federation.learning.state import SiteState, capture, restore
from federation.plan import OptimiserSpec, Plan

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What :func:`train_round` did; the network has been changed in place.

    Attributes:
        cases: Distinct cases that patches were drawn from.
        patches: Patches drawn.
        steps: Optimiser steps.
        loss: Mean loss over the steps.
        learning_rate: Of the last step.
        state: Optimiser and random state after the round.
    """

    cases: int
    patches: int
    steps: int
    loss: float
    learning_rate: float
    state: SiteState


def make_optimiser(network: nn.Module, spec: OptimiserSpec) -> Optimizer:
    """The plan's optimiser over all parameters of the network."""
    parameters = list(network.parameters())
    if spec.key == "sgd":
        return SGD(
            parameters,
            lr=spec.learning_rate,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            nesterov=spec.momentum > 0.0,
        )
    return AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)


def first_generator(plan: Plan, folder: PreparedFolder) -> np.random.Generator:
    """The sampler's generator before the first round.

    It is seeded by the plan and by the names of the site's own training cases, so that sites draw
    different patches and a site draws the same ones again.
    """
    names = "\n".join(entry.case for entry in folder.manifest.of_split(Split.TRAIN))
    digest = hashlib.sha256(names.encode()).digest()
    return np.random.default_rng([plan.seed, int.from_bytes(digest[:8], "big")])


def train_round(
    network: nn.Module,
    plan: Plan,
    folder: PreparedFolder,
    round_number: int,
    *,
    state: SiteState | None,
    on_step: OnStep | None = None,
) -> RoundOutcome:
    """Train the network in place for one round.

    Args:
        network: The plan's network holding the global weights.
        plan: The plan.
        folder: The site's prepared folder.
        round_number: 0 .. rounds - 1; chooses the learning rate.
        state: State after the site's round before, or None at the first.
        on_step: Called after each step with (steps done, steps, loss).

    Raises:
        PreparedDataRefused: when there are fewer training cases than the plan demands.
        TrainingDiverged: when the loss or the weights are not finite.
    """
    entries = folder.manifest.of_split(Split.TRAIN)
    least = plan.privacy.minimum_training_cases
    if len(entries) < least:
        raise PreparedDataRefused(
            f"the plan demands at least {least} training cases, this site has {len(entries)}"
        )
    optimiser = make_optimiser(network, plan.optimiser)
    generator = first_generator(plan, folder)
    torch.manual_seed(int(generator.integers(2**62)))
    if state is not None:
        _resume(plan, state, optimiser, generator)
    sampler = PatchSampler(plan, folder, entries, generator)
    losses = _run_steps(network, plan, round_number, _Tools(sampler, optimiser, on_step))
    if not is_finite(network):
        raise TrainingDiverged(f"round {round_number}: the weights are not finite any more")
    return RoundOutcome(
        cases=len(sampler.used),
        patches=sampler.drawn,
        steps=len(losses),
        loss=sum(losses) / len(losses),
        learning_rate=learning_rate(plan, round_number, len(losses) - 1),
        state=capture(round_number, optimiser, generator),
    )


@dataclass(frozen=True, slots=True)
class _Tools:
    sampler: PatchSampler
    optimiser: Optimizer
    on_step: OnStep | None


def _resume(
    plan: Plan, state: SiteState, optimiser: Optimizer, generator: np.random.Generator
) -> None:
    """Restore the random state and, where the plan keeps it at the site, the optimiser's."""
    if plan.optimiser.state == "reset":
        state = SiteState(state.round, {}, state.numpy_rng, state.torch_rng)
    restore(state, optimiser, generator)


def _run_steps(network: nn.Module, plan: Plan, round_number: int, tools: _Tools) -> list[float]:
    loss_of = DiceCrossEntropy(plan.loss)
    device = next(network.parameters()).device
    network.train()
    losses: list[float] = []
    steps = plan.training.steps_per_round
    for step in range(steps):
        for group in tools.optimiser.param_groups:
            group["lr"] = learning_rate(plan, round_number, step)
        batch = tools.sampler.batch()
        tools.optimiser.zero_grad(set_to_none=True)
        image = torch.from_numpy(batch.image).to(device, memory_format=MEMORY_FORMAT)
        logits = network(image)
        loss = loss_of(logits, torch.from_numpy(batch.target).to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), plan.optimiser.gradient_clip)
        tools.optimiser.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingDiverged(
                f"round {round_number}: the loss was {losses[-1]} at step {step}"
            )
        if tools.on_step is not None:
            tools.on_step(step + 1, steps, losses[-1])
    return losses
