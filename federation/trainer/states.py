"""The steps of a job in the trainer process: whatever is killed between two of them is done again.

A job without an answer in the outbox is repeated from its beginning, from the same weights and the
same optimiser and random state, so it ends with the same bytes. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class JobStep(StrEnum):
    """What is done of a job."""

    TAKEN = "taken"
    """The job file is read and understood."""
    OPENED = "opened"
    """Weights and prepared images are checked and loaded."""
    WORKED = "worked"
    """The numbers are computed, in memory only."""
    WRITTEN = "written"
    """The weights' file stands whole."""
    KEPT = "kept"
    """Optimiser and random state are kept for the next round."""
    ANSWERED = "answered"
    """The answer stands in the outbox."""


JOB_STEPS: Final[Mapping[str, tuple[JobStep, ...]]] = {
    "train": (
        JobStep.TAKEN,
        JobStep.OPENED,
        JobStep.WORKED,
        JobStep.WRITTEN,
        JobStep.KEPT,
        JobStep.ANSWERED,
    ),
    "evaluate": (JobStep.TAKEN, JobStep.OPENED, JobStep.WORKED, JobStep.ANSWERED),
    "infer": (JobStep.TAKEN, JobStep.OPENED, JobStep.WORKED, JobStep.ANSWERED),
    "initialise": (JobStep.TAKEN, JobStep.WRITTEN, JobStep.ANSWERED),
}
"""The steps of each kind of job, in their order."""


def kill_points(kind: str) -> tuple[str, ...]:
    """Every point at which the trainer's observer is called in a job of a kind, from the table.

    >>> kill_points("initialise")[0]
    'initialise:taken:entering'
    """
    return tuple(
        f"{kind}:{step}:{moment}" for step in JOB_STEPS[kind] for moment in ("entering", "entered")
    )
