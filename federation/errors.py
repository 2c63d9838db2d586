"""Errors of the federation package: one root, classes by cause.

```
FederationError
├── PlanRefused            a plan breaks the format, the registry or a limit (all problems listed)
├── SignatureRefused       a signed plan's bytes, hash or signature do not match
├── LearningError          training, evaluation or inference cannot go on
│   ├── PreparedDataRefused    a prepared folder or case file breaks its format
│   ├── WeightsRefused         a weights file does not fit the plan's network
│   └── TrainingDiverged       the loss or the weights are no longer finite
└── TrainerError           the trainer process
    ├── TrainerFailed          the job ended with an error of its own (not repeated)
    └── TrainerLost            the process died more often than allowed
```

Messages name what was expected, what came and what to do. They never hold a patient's value.
"""

from collections.abc import Sequence


class FederationError(Exception):
    """Root of all errors that the federation package raises."""


class PlanRefused(FederationError):
    """A plan is not acceptable.

    Attributes:
        problems: Every problem found, each one sentence naming the field.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        super().__init__(f"the plan has {count} {noun}: " + "; ".join(self.problems))


class SignatureRefused(FederationError):
    """A signed plan was changed, is not canonical, or was signed by another key."""


class LearningError(FederationError):
    """Training, evaluation or inference cannot go on."""


class PreparedDataRefused(LearningError):
    """A prepared folder or one of its case files breaks the format."""


class WeightsRefused(LearningError):
    """A weights file does not fit the network of the plan."""


class TrainingDiverged(LearningError):
    """The loss or the weights are no longer finite numbers."""


class TrainerError(FederationError):
    """The trainer process could not do its job."""


class TrainerFailed(TrainerError):
    """The job itself ended with an error; repeating it would end the same way."""


class TrainerLost(TrainerError):
    """The trainer process died more often than the client may restart it."""
