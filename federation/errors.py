"""Errors of the federation, by cause.

Every message says what was expected, what came and what to do, and never holds a patient's value.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence


class FederationError(Exception):
    """Root of every error that the federation raises."""


class SettingsRefused(FederationError):
    """Settings, arguments or a folder's format version are not usable."""


class StoreDamaged(FederationError):
    """A stored file (audit log, state, journal) is not what this program wrote."""


class PlanRefused(FederationError):
    """A plan is not valid, not signed as claimed, or names what is not in the registry.

    Attributes:
        problems: Every problem found, each one sentence naming the field.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        listed = (problems,) if isinstance(problems, str) else tuple(problems)
        self.problems: tuple[str, ...] = listed
        super().__init__("the plan is refused: " + "; ".join(listed))


class SignatureRefused(PlanRefused):
    """A signed plan was changed, is not canonical, or was signed by another key."""


class EnrolmentRefused(FederationError):
    """The coordinator, or the node itself, refused an enrolment."""


class IdentityRefused(FederationError):
    """The coordinator does not accept who calls: certificate, name or revocation."""


class VersionRefused(FederationError):
    """The two sides share no protocol version."""


class CoordinatorUnreachable(FederationError):
    """The coordinator gave no answer; the call may be repeated."""


class NameUnknown(CoordinatorUnreachable):
    """Name resolution does not know the coordinator or the proxy."""


class RouteClosed(CoordinatorUnreachable):
    """No TCP connection: a firewall, a wrong address, or nothing runs there."""


class ProxyRefused(CoordinatorUnreachable):
    """The proxy does not let us through, or is none."""


class RequestRefused(FederationError):
    """The coordinator understood a request and refused it; repeating it does not help."""


class TransferFailed(FederationError):
    """An object did not arrive as announced: size, hash or permission."""


class NoRoom(TransferFailed):
    """A disk is too full for an object; the call may be repeated once there is room."""


class TransferMoved(TransferFailed):
    """An upload does not stand where the sender thought; it asks again and goes on."""


class UpdateRefused(FederationError):
    """A model update fails a check: tensors, shapes, types, finite values, weight or norm."""


class FingerprintRefused(UpdateRefused):
    """A data set's fingerprint is not as described, too large, or cannot be merged."""


class TensorFileRefused(UpdateRefused):
    """A file is not a well-formed safetensors file within the limits."""


class RunRefused(FederationError):
    """A run does not exist or cannot do what was asked in its present state."""


class LearningError(FederationError):
    """Training, evaluation or inference cannot go on."""


class PreparedDataRefused(LearningError):
    """A prepared folder or one of its case files breaks the format."""


class WeightsRefused(LearningError):
    """A weights or state file does not fit the plan's network."""


class TrainingDiverged(LearningError):
    """The loss or the weights are no longer finite numbers."""


class TrainerFailed(FederationError):
    """The trainer process ended or refused a job; repeating the job would end the same way."""


class TrainerLost(TrainerFailed):
    """The trainer process died more often than it may be restarted."""


class SiteFailed(FederationError):
    """The site could not do a task; the text travels to the coordinator and names nobody."""


class SiteRefused(SiteFailed):
    """The site may not or will not do a task; the text travels and names nobody."""


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
