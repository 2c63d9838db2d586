"""DIMSE services of the node; the only modules that import pynetdicom."""

from dicom_bridge.net import stack as _stack
from dicom_bridge.net.client import PacsClient, PacsOptions
from dicom_bridge.net.find import FindRules
from dicom_bridge.net.intake import Inbox
from dicom_bridge.net.model import (
    CommitmentReport,
    CommitmentRequest,
    EchoResult,
    InstanceRef,
    MoveOutcome,
    MoveWatch,
    OurAddress,
    RemoteAE,
    RetryPolicy,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
    Timeouts,
)
from dicom_bridge.net.move import MoveTarget
from dicom_bridge.net.pace import Pace, Schedule
from dicom_bridge.net.receiver import Receiver, ReceiverCounts, ReceiverSettings
from dicom_bridge.net.retrieve import RetrievePolicy, RetrieveReport, Traffic, retrieve_study
from dicom_bridge.net.tls import TlsFiles, client_context, server_context
from dicom_bridge.net.words import describe_rejection, describe_status

_stack.configure()

__all__ = [
    "CommitmentReport",
    "CommitmentRequest",
    "EchoResult",
    "FindRules",
    "Inbox",
    "InstanceRef",
    "MoveOutcome",
    "MoveTarget",
    "MoveWatch",
    "OurAddress",
    "Pace",
    "PacsClient",
    "PacsOptions",
    "Receiver",
    "ReceiverCounts",
    "ReceiverSettings",
    "RemoteAE",
    "RetrievePolicy",
    "RetrieveReport",
    "RetryPolicy",
    "Schedule",
    "SendOutcome",
    "StudyCriteria",
    "StudyMatch",
    "Timeouts",
    "TlsFiles",
    "Traffic",
    "client_context",
    "describe_rejection",
    "describe_status",
    "retrieve_study",
    "server_context",
]
