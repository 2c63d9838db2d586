"""The trainer: a process of its own that learns on prepared cases and reaches nothing else.

The node holds a :class:`Trainer`; ``python -m federation.trainer FOLDER`` is the process. Only the
process loads torch. Names are loaded on first use, because the process must leave the network
before numpy starts threads.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federation.trainer.client import Progress, Trainer
    from federation.trainer.jobs import (
        CaseScores,
        EvaluateJob,
        EvaluateResult,
        InferJob,
        InferResult,
        InitialiseJob,
        InitialiseResult,
        TrainerResources,
        TrainJob,
        TrainResult,
    )

__all__ = [
    "CaseScores",
    "EvaluateJob",
    "EvaluateResult",
    "InferJob",
    "InferResult",
    "InitialiseJob",
    "InitialiseResult",
    "Progress",
    "TrainJob",
    "TrainResult",
    "Trainer",
    "TrainerResources",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "client" if name in ("Progress", "Trainer") else "jobs"
    found: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found
