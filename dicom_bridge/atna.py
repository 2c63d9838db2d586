"""Audit messages in ATNA form: the XML of PS3.15 A.5.1 and the syslog line around it (A.6).

Pure: values in, text out. Objects are named by the node's own keys under a code of its own, never
by Study Instance UID or Patient ID; who may know them asks the vault. RFC 5424 gives the line,
RFC 5425 its frame over TLS.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

PRIORITY = 85
"""Facility 10 (security and authorisation), severity 5 (notice), as PS3.15 A.6 asks."""

MESSAGE_ID = "DICOM+RFC3881"
"""MSGID of the syslog line (PS3.15 A.6)."""

APPLICATION = "clinode"


@dataclass(frozen=True, slots=True)
class Term:
    """A coded term: value, coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str


APPLICATION_ACTIVITY = Term("110100", "DCM", "Application Activity")
AUDIT_LOG_USED = Term("110101", "DCM", "Audit Log Used")
INSTANCES_ACCESSED = Term("110103", "DCM", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Term("110104", "DCM", "DICOM Instances Transferred")
STUDY_DELETED = Term("110105", "DCM", "DICOM Study Deleted")
EXPORT = Term("110106", "DCM", "Export")
QUERY = Term("110112", "DCM", "Query")
SECURITY_ALERT = Term("110113", "DCM", "Security Alert")
PATIENT_RECORD = Term("110110", "DCM", "Patient Record")

APPLICATION_START = Term("110120", "DCM", "Application Start")
APPLICATION_STOP = Term("110121", "DCM", "Application Stop")
NODE_AUTHENTICATION = Term("110126", "DCM", "Node Authentication")
SOFTWARE_CONFIGURATION = Term("110131", "DCM", "Software Configuration")

APPLICATION_ROLE = Term("110150", "DCM", "Application")
LAUNCHER_ROLE = Term("110151", "DCM", "Application Launcher")
DESTINATION_ROLE = Term("110152", "DCM", "Destination Role ID")
SOURCE_ROLE = Term("110153", "DCM", "Source Role ID")

STUDY_KEY = Term("STUDY", "99CLINODE", "Study key of this node")
OTHER_KEY = Term("KEY", "99CLINODE", "Name in this node")
AUDIT_LOG = Term("12", "RFC-3881", "URI")

SYSTEM_OBJECT = "2"
ROLE_REPORT, ROLE_SECURITY_RESOURCE, ROLE_JOB = "3", "13", "20"


@dataclass(frozen=True, slots=True)
class Participant:
    """An ActiveParticipant: a person, a process, an application entity.

    Attributes:
        user: UserID: user name, process or AE title.
        requestor: whether it started the event.
        role: RoleIDCode.
        address: host name or address, with `address_kind` 1 (name) or 2 (IP); empty for none.
    """

    user: str
    requestor: bool
    role: Term | None = None
    address: str = ""
    address_kind: str = "1"


@dataclass(frozen=True, slots=True)
class AuditObject:
    """A ParticipantObjectIdentification: what the event was about.

    Attributes:
        key: ParticipantObjectID: the node's own name for it.
        kind: ParticipantObjectIDTypeCode.
        role: ParticipantObjectTypeCodeRole.
        life_cycle: ParticipantObjectDataLifeCycle, 1 to 15; empty for none.
        details: further facts, name and value.
    """

    key: str
    kind: Term
    role: str = ROLE_REPORT
    life_cycle: str = ""
    details: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One event.

    Attributes:
        event: EventID (CID 400).
        action: EventActionCode: C, R, U, D or E.
        at: EventDateTime, RFC 3339 with zone.
        outcome: 0 success, 4 minor, 8 serious, 12 major failure.
        source: AuditSourceID: the node.
        site: AuditEnterpriseSiteID.
        participants: at least one.
        kind: EventTypeCode (CID 401).
        objects: what it was about.
        words: EventOutcomeDescription.
    """

    event: Term
    action: str
    at: str
    outcome: int
    source: str
    site: str
    participants: Sequence[Participant]
    kind: Term | None = None
    objects: Sequence[AuditObject] = field(default=())
    words: str = ""


def to_xml(message: AuditMessage) -> str:
    """The message as one line of XML, elements in the schema's order (PS3.15 A.5.1)."""
    root = ET.Element("AuditMessage")
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=message.at,
        EventOutcomeIndicator=str(message.outcome),
    )
    _term(event, "EventID", message.event)
    if message.kind is not None:
        _term(event, "EventTypeCode", message.kind)
    if message.words:
        ET.SubElement(event, "EventOutcomeDescription").text = message.words
    for participant in message.participants:
        _participant(root, participant)
    source = ET.SubElement(
        root,
        "AuditSourceIdentification",
        AuditEnterpriseSiteID=message.site,
        AuditSourceID=message.source,
    )
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    for entry in message.objects:
        _object(root, entry)
    return ET.tostring(root, encoding="unicode")


def _term(parent: ET.Element, name: str, term: Term) -> None:
    attributes = {
        "csd-code": term.value,
        "codeSystemName": term.scheme,
        "originalText": term.meaning,
    }
    ET.SubElement(parent, name, attributes)


def _participant(root: ET.Element, participant: Participant) -> None:
    attributes = {
        "UserID": participant.user,
        "UserIsRequestor": "true" if participant.requestor else "false",
    }
    if participant.address:
        attributes["NetworkAccessPointID"] = participant.address
        attributes["NetworkAccessPointTypeCode"] = participant.address_kind
    element = ET.SubElement(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        _term(element, "RoleIDCode", participant.role)


def _object(root: ET.Element, entry: AuditObject) -> None:
    attributes = {
        "ParticipantObjectID": entry.key,
        "ParticipantObjectTypeCode": SYSTEM_OBJECT,
        "ParticipantObjectTypeCodeRole": entry.role,
    }
    if entry.life_cycle:
        attributes["ParticipantObjectDataLifeCycle"] = entry.life_cycle
    element = ET.SubElement(root, "ParticipantObjectIdentification", attributes)
    _term(element, "ParticipantObjectIDTypeCode", entry.kind)
    ET.SubElement(element, "ParticipantObjectName").text = entry.key
    for name, value in entry.details:
        encoded = base64.b64encode(value.encode()).decode()
        ET.SubElement(element, "ParticipantObjectDetail", type=name, value=encoded)


def syslog_line(message: AuditMessage, *, host: str, number: int) -> str:
    """The message as one RFC 5424 line, without its line end.

    Args:
        message: the event.
        host: the node's host name.
        number: the entry's number in the audit log, given as PROCID: a receiver can tell by it
            that a line came twice or that one is missing.
    """
    head = f"<{PRIORITY}>1 {message.at} {host or '-'} {APPLICATION} {number} {MESSAGE_ID} -"
    return f"{head} \ufeff{to_xml(message)}"


def octet_counted(line: str) -> bytes:
    """The line in the frame of RFC 5425 (length, space, message)."""
    content = line.encode()
    return str(len(content)).encode() + b" " + content
