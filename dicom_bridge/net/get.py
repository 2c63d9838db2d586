"""C-GET of a study, a series or single instances (PS3.4 C.4.3): nothing is configured at the PACS.

What arrives comes on our own association, as C-STORE sub-operations that we serve. They go through
the same intake as what the receiver takes: durable before success is answered, and only what was
asked for.

An association has at most 128 presentation contexts (PS3.8 9.3.2.2), one of them for C-GET itself;
a storage class needs one context per transfer syntax, because the PACS chooses one syntax for each
context and then sends everything of the class in it. So only the classes that the PACS listed are
proposed, and each gets as many syntaxes as there is room for.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from dicom_bridge.errors import DataRefused
from dicom_bridge.net.association import Extras, Link, associate, lost
from dicom_bridge.net.guard import MessageBounds, RequestorDimse, SpillBuffer
from dicom_bridge.net.intake import (
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    STORED,
    Delivery,
    StoreRefused,
    answer,
)
from dicom_bridge.net.model import MoveOutcome, MoveWatch
from dicom_bridge.net.move import MoveTarget, Request, outcome_of, watched
from dicom_bridge.net.stack import STUDY_ROOT_GET

_STORAGE_CONTEXTS = 127
_COMMAND_LIMIT = 1 << 16
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_COMPRESSED = (
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLosslessSV1,
    RLELossless,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGLSNearLossless,
    JPEGExtended12Bit,
    JPEGLossless,
    DeflatedExplicitVRLittleEndian,
)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
COMMON_CLASSES: tuple[str, ...] = tuple(
    _STORAGE + suffix
    for suffix in (
        "4",  # MR
        "4.1",  # Enhanced MR
        "4.2",  # MR spectroscopy
        "4.3",  # Enhanced MR colour
        "2",  # CT
        "2.1",  # Enhanced CT
        "128",  # PET
        "130",  # Enhanced PET
        "20",  # Nuclear medicine
        "7",  # Secondary capture
        "7.1",
        "7.2",
        "7.3",
        "7.4",
        "6.1",  # Ultrasound
        "3.1",  # Ultrasound multi-frame
        "1",  # Computed radiography
        "1.1",  # Digital X-ray
        "1.1.1",
        "1.2",  # Mammography
        "1.2.1",
        "12.1",  # X-ray angiography
        "12.2",
        "30",  # Parametric map
        "66",  # Raw data
        "66.1",  # Spatial registration
        "66.4",  # Segmentation
        "66.7",  # Label map segmentation
        "88.11",  # Basic text SR
        "88.22",  # Enhanced SR
        "88.33",  # Comprehensive SR
        "88.34",  # Comprehensive 3D SR
        "88.59",  # Key object selection
        "11.1",  # Grayscale presentation state
        "104.1",  # Encapsulated PDF
        "481.1",  # RT image
        "481.2",  # RT dose
        "481.3",  # RT structure set
        "481.5",  # RT plan
    )
)
"""Proposed where the PACS does not say which classes a series holds (PS3.4 B.5)."""

_log = structlog.get_logger(__name__)


class Taker(Protocol):
    """What stores an instance durably; :class:`dicom_bridge.net.intake.Intake` does."""

    def take(self, delivery: Delivery) -> None:
        """Store one instance or raise ``StoreRefused``."""
        ...


@dataclass(frozen=True, slots=True)
class GetBounds:
    """How much of one instance is held while it arrives.

    Attributes:
        memory_bytes: a larger data set goes to a nameless file in ``spool``.
        instance_bytes: a larger data set ends the association.
        spool: folder in the identified zone; without it ``memory_bytes`` is the largest.
    """

    memory_bytes: int = 32 << 20
    instance_bytes: int = 4 << 30
    spool: Path | None = None

    def message_bounds(self) -> MessageBounds:
        """As the message layer takes them."""
        most = self.instance_bytes if self.spool else self.memory_bytes
        return MessageBounds(self.memory_bytes, most, self.spool)


def storage_contexts(classes: Iterable[str]) -> list[PresentationContext]:
    """Presentation contexts for storage classes, 127 at most, the likeliest syntaxes first.

    Raises:
        DataRefused: more classes than contexts; no series holds so many.
    """
    unique = sorted({uid for uid in classes if uid}) or list(COMMON_CLASSES)
    if len(unique) > _STORAGE_CONTEXTS:
        raise DataRefused(
            f"C-GET: {len(unique)} storage classes do not fit one association "
            f"({_STORAGE_CONTEXTS}); use retrieve = 'move'"
        )
    room = _STORAGE_CONTEXTS // len(unique)
    contexts = [build_context(UID(uid), list(_NATIVE)) for uid in unique]
    for syntax in _COMPRESSED[: room - 1]:
        contexts += [build_context(UID(uid), [syntax]) for uid in unique]
    return contexts


class _CommandBuffer(io.BytesIO):
    """A command set: a few hundred bytes in truth (PS3.7 6.3)."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Append ``data`` within the limit."""
        if self.tell() + len(data) > _COMMAND_LIMIT:
            raise ConnectionAbortedError("the PACS sends a command set larger than allowed")
        return super().write(data)


class _GetDimse(RequestorDimse):
    """Gathers sub-operations into bounded buffers; large data sets go to nameless files."""

    def __init__(self, association: Association, bounds: MessageBounds) -> None:
        super().__init__(association)
        self._bounds = bounds
        self._ended = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a part of a message; abort where the PACS sends more than is allowed."""
        if self._ended:
            return
        try:
            if self.message is None:
                self.message = DIMSEMessage()
                self.message.data_set = SpillBuffer(self._bounds)
                self.message.encoded_command_set = _CommandBuffer()
            super().receive_primitive(primitive)
        except ConnectionAbortedError as error:
            self._ended = True
            if self.message is not None and self.message.data_set is not None:
                self.message.data_set.close()
            _log.warning("message_too_large", reason=str(error))
            # "No answer" to the request that waits: it aborts the association.
            self.msg_queue.put((None, None))


class _Arrivals:
    """Serves the C-STORE sub-operations of one C-GET."""

    def __init__(self, sink: Taker) -> None:
        self._sink = sink
        self.full: StoreRefused | None = None

    def is_set(self) -> bool:
        """Whether to stop: the disk is full, and each further instance would be sent in vain."""
        return self.full is not None

    def on_store(self, event: evt.Event) -> Dataset:
        """Take one instance and answer."""
        request = event.request
        if not isinstance(request, C_STORE) or not isinstance(request.DataSet, SpillBuffer):
            return answer(PROCESSING_FAILURE, "the request has no data set")
        content = request.DataSet
        try:
            self._sink.take(
                Delivery(
                    content,
                    UID(event.context.transfer_syntax),
                    str(request.AffectedSOPClassUID),
                    str(request.AffectedSOPInstanceUID),
                )
            )
        except StoreRefused as refusal:
            if refusal.status == OUT_OF_RESOURCES:
                self.full = refusal
            _log.warning("instance_refused", status=f"0x{refusal.status:04X}", reason=str(refusal))
            return answer(refusal.status, str(refusal))
        except Exception as error:  # edge: whatever fails here is asked for again
            _log.error("instance_failed", cause=type(error).__name__)
            return answer(PROCESSING_FAILURE, "the node failed; see its log")
        finally:
            content.close()
        return answer(STORED, "")


class _Either:
    """Set when one of several signals is."""

    def __init__(self, arrivals: _Arrivals, watch: MoveWatch) -> None:
        self._arrivals = arrivals
        self._watch = watch

    def is_set(self) -> bool:
        """Whether to stop."""
        stop = self._watch.stop
        return self._arrivals.is_set() or (stop is not None and stop.is_set())


@dataclass(frozen=True, slots=True)
class GetOrder:
    """What to get and how it is taken.

    Attributes:
        target: what to get.
        classes: its SOP Class UIDs as the PACS lists them; empty proposes the common ones.
        sink: takes what arrives.
        bounds: how much is held meanwhile.
    """

    target: MoveTarget
    classes: frozenset[str]
    sink: Taker
    bounds: GetBounds


def get(link: Link, order: GetOrder, watch: MoveWatch) -> MoveOutcome:
    """Ask the PACS for what ``order`` names, and take it, to the end.

    Raises:
        PeerUnreachable: no association, the connection broke, or nothing moved for too long.
        AssociationRejected: the PACS refused the association.
        DataRefused: our own disk is full.
    """
    contexts = [build_context(STUDY_ROOT_GET), *storage_contexts(order.classes)]
    classes = {str(context.abstract_syntax) for context in contexts[1:]}
    arrivals = _Arrivals(order.sink)
    bounds = order.bounds.message_bounds()

    def dimse(association: Association) -> _GetDimse:
        """What gathers the messages of this association."""
        return _GetDimse(association, bounds)

    extras = Extras(
        response_s=link.timeouts.move_total_s + 60.0,
        roles=tuple(build_role(UID(uid), scp_role=True) for uid in sorted(classes)),
        handlers=((evt.EVT_C_STORE, arrivals.on_store),),
        dimse=dimse,
    )
    watch = MoveWatch(progress=watch.progress, stop=_Either(arrivals, watch))
    with associate(link, contexts, extras) as association:
        with watched(association, link, watch, Request("C-GET", STUDY_ROOT_GET)) as watchdog:
            try:
                responses = association.send_c_get(
                    order.target.identifier(), STUDY_ROOT_GET, msg_id=watchdog.message_id
                )
            except ValueError:
                return MoveOutcome(0x0122, 0, 0, 0, (), _no_get(link))
            for status, identifier in responses:
                if "Status" not in status:
                    if arrivals.full is not None:
                        raise arrivals.full
                    raise watchdog.error()
                watchdog.touch()
                if int(status.Status) != 0xFF00:
                    if arrivals.full is not None:
                        raise arrivals.full
                    return outcome_of("C-GET", status, identifier, link)
        raise lost(link, "C-GET", association)


def _no_get(link: Link) -> str:
    return (
        f"{link.remote} does not offer C-GET to our AE title {link.calling_ae}; ask its "
        "administrator to enable it, or use retrieve = 'move'"
    )
