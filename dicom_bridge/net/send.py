"""C-STORE of files to a peer, as they lie on disk where the peer accepts their transfer syntax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicom_bridge.errors import PeerError, PeerUnreachable
from dicom_bridge.net.association import Link, associate, lost
from dicom_bridge.net.model import SendOutcome
from dicom_bridge.net.words import describe_status

_CONTEXTS_PER_ASSOCIATION = 126
_NATIVE = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian})


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A file and what its meta information says (PS3.10 7.1)."""

    path: Path
    sop_class: UID
    sop_instance: UID
    syntax: UID


def send_files(link: Link, paths: Sequence[Path]) -> list[SendOutcome]:
    """Send files, on as few associations as their presentation contexts allow (usually one).

    A file that cannot be read or is refused does not stop the others. When the connection breaks,
    the files not yet answered are reported as not sent.

    Returns:
        One outcome per path, in the order of ``paths``.

    Raises:
        PeerUnreachable: no association came about at all.
        AssociationRejected: the peer refused us.
    """
    outcomes: dict[int, SendOutcome] = {}
    parcels: list[tuple[int, _Parcel]] = []
    for position, path in enumerate(paths):
        read = _read(path)
        if isinstance(read, SendOutcome):
            outcomes[position] = read
        else:
            parcels.append((position, read))
    first = True
    for group in _groups(parcels):
        try:
            outcomes.update(_send_group(link, group))
        except PeerError as error:
            if first:
                raise
            outcomes.update(
                {at: SendOutcome(p.path, p.sop_instance, None, str(error)) for at, p in group}
            )
        first = False
    return [outcomes[position] for position in range(len(paths))]


def _read(path: Path) -> _Parcel | SendOutcome:
    try:
        meta = read_file_meta_info(path)
        return _Parcel(
            path,
            UID(meta.MediaStorageSOPClassUID),
            UID(meta.MediaStorageSOPInstanceUID),
            UID(meta.TransferSyntaxUID),
        )
    except (OSError, InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        return SendOutcome(
            path, "", None, f"not sent: the file is no complete DICOM file ({type(error).__name__})"
        )


def _syntaxes(parcel: _Parcel) -> list[tuple[UID, tuple[UID, ...]]]:
    """The contexts that a file needs: its own encoding, and for native ones either native form."""
    contexts: list[tuple[UID, tuple[UID, ...]]] = [(parcel.sop_class, (parcel.syntax,))]
    if parcel.syntax in _NATIVE:
        contexts.append((parcel.sop_class, (ImplicitVRLittleEndian,)))
    return contexts


def _groups(parcels: Sequence[tuple[int, _Parcel]]) -> list[list[tuple[int, _Parcel]]]:
    """Group files so that each group's presentation contexts fit one association (PS3.8 9.3.2)."""
    groups: list[list[tuple[int, _Parcel]]] = []
    used: set[tuple[UID, tuple[UID, ...]]] = set()
    for position, parcel in parcels:
        needed = set(_syntaxes(parcel))
        if not groups or len(used | needed) > _CONTEXTS_PER_ASSOCIATION:
            groups.append([])
            used = set()
        used |= needed
        groups[-1].append((position, parcel))
    return groups


def _contexts(group: Sequence[tuple[int, _Parcel]]) -> list[PresentationContext]:
    wanted = dict.fromkeys(pair for _, parcel in group for pair in _syntaxes(parcel))
    return [build_context(sop_class, list(syntaxes)) for sop_class, syntaxes in wanted]


def _send_group(link: Link, group: Sequence[tuple[int, _Parcel]]) -> dict[int, SendOutcome]:
    outcomes: dict[int, SendOutcome] = {}
    broken = ""
    with associate(link, _contexts(group)) as association:
        for number, (position, parcel) in enumerate(group):
            try:
                outcomes[position] = _send_one(association, link, parcel, number % 65535 + 1)
            except PeerUnreachable as error:
                broken = f"not stored: {error}"
                association.abort()
                break
    for position, parcel in group:
        if position not in outcomes:
            outcomes[position] = SendOutcome(parcel.path, parcel.sop_instance, None, broken)
    return outcomes


def _send_one(
    association: Association, link: Link, parcel: _Parcel, message_id: int
) -> SendOutcome:
    """Send one file; a file that cannot be sent is an outcome, a lost connection an error.

    Raises:
        PeerUnreachable: the association ended or no answer came.
    """
    exact = any(
        context.abstract_syntax == parcel.sop_class and parcel.syntax in context.transfer_syntax
        for context in association.accepted_contexts
    )
    try:
        what = parcel.path if exact else dcmread(parcel.path)
        status = association.send_c_store(what, msg_id=message_id)
    except RuntimeError as error:
        raise lost(link, "C-STORE", association) from error
    except (ValueError, AttributeError, OSError, InvalidDicomError):
        words = (
            f"not sent: {link.remote} accepts neither this SOP class nor this transfer syntax "
            "for it; ask its administrator to enable it"
        )
        return SendOutcome(parcel.path, parcel.sop_instance, None, words)
    if "Status" not in status:
        raise lost(link, "C-STORE", association)
    code = int(status.Status)
    words = describe_status("C-STORE", code)
    return SendOutcome(parcel.path, parcel.sop_instance, code, words)
