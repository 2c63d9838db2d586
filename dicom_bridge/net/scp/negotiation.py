"""The answer to an A-ASSOCIATE-RQ (PS3.8 7.1, PS3.7 D.3.3), by pynetdicom's codecs.

One rule per proposed context instead of a product of lists: any storage class, known, private or
newer than this program, in the first transfer syntax proposed that pydicom knows; Verification;
Storage Commitment push model, where the PACS calls us as the SCP that it is (role selection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import _STORAGE_CLASSES

from dicom_bridge.net.scp.pdu import HEADER, PduInvalid, PduType, reject
from dicom_bridge.net.scp.sink import Titles
from dicom_bridge.net.stack import MAXIMUM_PDU_BYTES, STORAGE_COMMITMENT, VERIFICATION

_STANDARD_ROOT = "1.2.840.10008."
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_STORAGE_UIDS = frozenset(str(uid) for uid in _STORAGE_CLASSES.values())
_SHORTEST_REQUEST = 68
_ABSTRACT_SYNTAX_REFUSED, _TRANSFER_SYNTAXES_REFUSED = 0x03, 0x04

APPLICATION_CONTEXT_UNKNOWN = (1, 1, 2)
CALLING_TITLE_UNKNOWN = (1, 1, 3)
CALLED_TITLE_UNKNOWN = (1, 1, 7)
PROTOCOL_VERSION_UNKNOWN = (1, 2, 2)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
"""A-ASSOCIATE-RJ (PS3.8 9.3.4): Result, Source, Reason/Diag."""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: UID

    @property
    def stores(self) -> bool:
        """Whether it is one of a storage class."""
        return self.abstract_syntax not in (VERIFICATION, STORAGE_COMMITMENT)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The association is accepted.

    Attributes:
        pdu: the A-ASSOCIATE-AC.
        contexts: accepted contexts by id.
        longest: the longest P-DATA-TF that the peer takes, 0 for any.
        calling: the peer's AE title.
    """

    pdu: bytes
    contexts: dict[int, Context]
    longest: int
    calling: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The association is rejected.

    Attributes:
        pdu: the A-ASSOCIATE-RJ.
        reason: why, for the log.
        calling: the peer's AE title as it says.
    """

    pdu: bytes
    reason: str
    calling: str


Negotiator = Callable[[memoryview], Accepted | Rejected]


def negotiate(
    body: memoryview, titles: Titles, room: Callable[[], bool] = lambda: True
) -> Accepted | Rejected:
    """Judge an association request.

    Args:
        body: the A-ASSOCIATE-RQ without its first six bytes.
        titles: who we are and who may call.
        room: asked last: whether there is place for one more association.

    Raises:
        PduInvalid: the bytes are no A-ASSOCIATE-RQ.
    """
    asked, version = _decode(body)
    calling = str(asked.calling_ae_title or "").strip()
    called = str(asked.called_ae_title or "").strip()
    refusals: tuple[tuple[bool, tuple[int, int, int], str], ...] = (
        (not version & 1, PROTOCOL_VERSION_UNKNOWN, "protocol version"),
        (
            asked.application_context_name != APPLICATION_CONTEXT_NAME,
            APPLICATION_CONTEXT_UNKNOWN,
            "application context",
        ),
        (called != titles.ours, CALLED_TITLE_UNKNOWN, "called AE title"),
        (calling not in titles.allowed, CALLING_TITLE_UNKNOWN, "calling AE title"),
    )
    for refused, code, reason in refusals:
        if refused:
            return Rejected(reject(*code), f"{reason} not recognised", _printable(calling))
    if not room():
        return Rejected(reject(*LOCAL_LIMIT_EXCEEDED), "local limit exceeded", _printable(calling))
    return _accept(asked, calling)


def _printable(title: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in title[:16])


def _decode(body: memoryview) -> tuple[A_ASSOCIATE, int]:
    if len(body) < _SHORTEST_REQUEST:
        raise PduInvalid("an association request is shorter than its fixed part")
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(HEADER.pack(PduType.ASSOCIATE_RQ, len(body)) + bytes(body))
        return pdu.to_primitive(), int(pdu.protocol_version)
    except Exception as error:  # edge: hostile bytes; the codec raises whatever it stumbles over
        raise PduInvalid("an association request cannot be read") from error


def _accept(asked: A_ASSOCIATE, calling: str) -> Accepted:
    proposed = [
        context
        for context in asked.presentation_context_definition_list
        if context.context_id is not None and context.abstract_syntax is not None
    ]
    answers = [_answer(context) for context in proposed]
    given = A_ASSOCIATE()
    given.application_context_name = UID(APPLICATION_CONTEXT_NAME)
    given.calling_ae_title = asked.calling_ae_title
    given.called_ae_title = asked.called_ae_title
    given.result, given.result_source = 0x00, 0x01
    given.presentation_context_definition_results_list = answers
    given.user_information = [*_ourselves(), *_roles(asked, answers)]
    contexts = {
        int(context.context_id or 0): Context(
            str(context.abstract_syntax), UID(context.transfer_syntax[0])
        )
        for context in answers
        if context.result == 0
    }
    longest = int(asked.maximum_length_received or 0)
    return Accepted(A_ASSOCIATE_AC(given).encode(), contexts, longest, _printable(calling))


def _answer(asked: PresentationContext) -> PresentationContext:
    context = PresentationContext()
    context.context_id = asked.context_id
    context.abstract_syntax = asked.abstract_syntax
    taken = next((uid for uid in asked.transfer_syntax if is_known_syntax(str(uid))), None)
    if not is_served(str(asked.abstract_syntax)):
        context.result = _ABSTRACT_SYNTAX_REFUSED
    elif taken is None:
        context.result = _TRANSFER_SYNTAXES_REFUSED
    else:
        context.result = 0x00
    # The field is not significant in a refusal, but must be there (PS3.8 9.3.3.2).
    context.transfer_syntax = [taken or UID("1.2.840.10008.1.2")]
    return context


def _ourselves() -> tuple[
    MaximumLengthNotification,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
]:
    length = MaximumLengthNotification()
    length.maximum_length_received = MAXIMUM_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(PYNETDICOM_IMPLEMENTATION_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = PYNETDICOM_IMPLEMENTATION_VERSION
    return length, implementation, version


def _roles(
    asked: A_ASSOCIATE, answers: Iterable[PresentationContext]
) -> list[SCP_SCU_RoleSelectionNegotiation]:
    """Grant the roles that were proposed for accepted classes (PS3.7 D.3.3.4)."""
    accepted = {str(context.abstract_syntax) for context in answers if context.result == 0}
    granted = []
    for item in asked.user_information:
        if not isinstance(item, SCP_SCU_RoleSelectionNegotiation):
            continue
        if str(item.sop_class_uid) not in accepted:
            continue
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = item.sop_class_uid
        reports = str(item.sop_class_uid) == STORAGE_COMMITMENT
        # We call no service as SCU on an association that a peer opened, and are SCP of storage
        # and verification only: commitment is the one class where the peer is the SCP.
        role.scu_role = bool(item.scu_role) and not reports
        role.scp_role = bool(item.scp_role) and reports
        if role.scu_role or role.scp_role:
            granted.append(role)
    return granted


@lru_cache(maxsize=512)
def is_served(abstract_syntax: str) -> bool:
    """Whether a presentation context of this abstract syntax is accepted."""
    if abstract_syntax in (VERIFICATION, STORAGE_COMMITMENT) or abstract_syntax in _STORAGE_UIDS:
        return True
    if abstract_syntax.startswith(_STORAGE_ROOT):
        return True
    return not abstract_syntax.startswith(_STANDARD_ROOT)


@lru_cache(maxsize=512)
def is_known_syntax(transfer_syntax: str) -> bool:
    """Whether a data set in this transfer syntax is understood far enough to find its UIDs."""
    uid = UID(transfer_syntax)
    return not uid.is_private and uid.is_transfer_syntax
