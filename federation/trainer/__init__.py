"""The trainer: a process of its own that learns on prepared cases and reaches nothing else.

The node holds a :class:`Trainer`; ``python -m federation.trainer FOLDER`` is the process. Only the
process loads torch.
"""

from federation.trainer.client import Trainer
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
    "TrainJob",
    "TrainResult",
    "Trainer",
    "TrainerResources",
]
