"""Opening an association to a peer, with every failure said in one sentence.

Each call opens an association of its own and shares nothing, so calls may come from any thread.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from dicom_bridge.errors import AssociationRejected, PeerError, PeerUnreachable
from dicom_bridge.net.guard import GuardedSocket, RequestorDimse
from dicom_bridge.net.model import OurAddress, RemoteAE, Timeouts
from dicom_bridge.net.stack import MAXIMUM_PDU_BYTES
from dicom_bridge.net.tls import describe_tls_failure
from dicom_bridge.net.words import Rejection, describe_abort, describe_rejection

_ALERT_WAIT_S = 2.0
_aborts: WeakKeyDictionary[Association, tuple[int, int]] = WeakKeyDictionary()
_rejections: WeakKeyDictionary[Association, Rejection] = WeakKeyDictionary()
"""As they arrive: pynetdicom takes a rejection that comes before its own thread has noticed the
connection for a connection that was never made."""


@dataclass(frozen=True, slots=True)
class Link:
    """Who calls whom, and how long to wait.

    Attributes:
        remote: the peer.
        calling_ae: our AE title as SCU.
        timeouts: how long to wait.
        tls: the context of an SCU (:func:`dicom_bridge.net.tls.client_context`); None without TLS.
        ours: where our receiver listens, for the words that tell a peer's administrator.
    """

    remote: RemoteAE
    calling_ae: str
    timeouts: Timeouts
    tls: ssl.SSLContext | None = None
    ours: OurAddress | None = None


@dataclass(frozen=True, slots=True)
class Extras:
    """What some services need of an association beyond presentation contexts.

    Attributes:
        response_s: how long to wait for a DIMSE response; by default the link's time-out.
        roles: role selections to propose (PS3.7 D.3.3.4).
        handlers: event handlers, as pynetdicom takes them.
        dimse: makes what gathers messages.
    """

    response_s: float | None = None
    roles: tuple[SCP_SCU_RoleSelectionNegotiation, ...] = ()
    handlers: tuple[tuple[evt.EventType, Callable[[evt.Event], Any]], ...] = ()
    dimse: Callable[[Association], DIMSEServiceProvider] = field(default=RequestorDimse)


def _opener(extras: Extras) -> Callable[[evt.Event], None]:
    def opened(event: evt.Event) -> None:
        event.assoc.dimse = extras.dimse(event.assoc)
        transport = event.assoc.dul.socket
        if transport is None or transport.socket is None:
            return
        if isinstance(transport.socket, ssl.SSLSocket):
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            transport.socket = GuardedSocket.over(transport.socket)

    return opened


def _note_end(event: evt.Event) -> None:
    pdu = event.pdu
    if isinstance(pdu, A_ABORT_RQ):
        _aborts[event.assoc] = (pdu.source or 0, pdu.reason_diagnostic or 0)
    elif isinstance(pdu, A_ASSOCIATE_RJ):
        told = Rejection(pdu.result or 0, pdu.source or 0, pdu.reason_diagnostic or 0)
        _rejections[event.assoc] = told


@contextmanager
def associate(
    link: Link, contexts: Sequence[PresentationContext], extras: Extras | None = None
) -> Iterator[Association]:
    """Open an association, hand it out, release it; abort it when the body fails.

    Args:
        link: whom to call and as whom.
        contexts: the presentation contexts to propose, 1 to 128.
        extras: what else to propose and handle.

    Raises:
        PeerUnreachable: nothing there speaks DICOM, or the connection broke.
        AssociationRejected: the peer refused us or everything that we proposed.
    """
    extras = extras or Extras()
    entity = AE(ae_title=link.calling_ae)
    entity.maximum_pdu_size = MAXIMUM_PDU_BYTES
    entity.connection_timeout = link.timeouts.connect_s
    entity.acse_timeout = link.timeouts.association_s
    wait = extras.response_s
    entity.dimse_timeout = link.timeouts.response_s if wait is None else wait
    entity.network_timeout = None
    try:
        association = entity.associate(
            link.remote.host,
            link.remote.port,
            contexts=list(contexts),
            ae_title=link.remote.ae_title,
            max_pdu=MAXIMUM_PDU_BYTES,
            ext_neg=list(extras.roles),
            tls_args=None if link.tls is None else (link.tls, link.remote.host),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _opener(extras)),
                (evt.EVT_PDU_RECV, _note_end),
                *extras.handlers,
            ],
        )
    except socket.gaierror as error:
        raise PeerUnreachable(
            f"no address is known for the host of {link.remote}; correct the host name or the DNS"
        ) from error
    if not association.is_established:
        raise _refusal(association, link)
    finished = False
    try:
        yield association
        finished = True
    finally:
        _end(association, link, whole=finished)


def _end(association: Association, link: Link, *, whole: bool) -> None:
    """Release an association whose work is done, abort another, and close what is left of it."""
    if whole and association.is_established:
        association.release()
    elif association.is_established:
        association.abort()
    else:
        # After an abort pynetdicom waits for the peer to close, and then leaves its own end open.
        association.join(link.timeouts.cancel_grace_s)
        transport = association.dul.socket
        if transport is not None:
            transport.close()


def _refusal(association: Association, link: Link) -> PeerError:
    answer = association.acceptor.primitive
    if association in _rejections:
        rejection = _rejections[association]
        words = describe_rejection(
            rejection,
            calling_ae=link.calling_ae,
            called_ae=link.remote.ae_title,
            ours=link.ours,
        )
        return AssociationRejected(
            f"{link.remote} {words}", result=rejection.result, reason=rejection.reason
        )
    if answer is not None and association.rejected_contexts:
        return AssociationRejected(
            f"{link.remote} took the association but none of the services that were asked for; "
            f"ask its administrator to enable them for our AE title {link.calling_ae}",
            result=1,
        )
    if association in _aborts:
        return PeerUnreachable(f"{link.remote} {describe_abort(*_aborts[association])}")
    return PeerUnreachable(_diagnose(link))


def _diagnose(link: Link) -> str:
    """Why no association came about: a second look at the connection alone."""
    where = str(link.remote)
    address = (link.remote.host, link.remote.port)
    try:
        with socket.create_connection(address, timeout=link.timeouts.connect_s) as plain:
            if link.tls is not None:
                return f"{where}: {_diagnose_tls(link, link.tls, plain)}"
            if _wants_tls(plain):
                return (
                    f"{where} speaks TLS on this port; set tls = true for this PACS, "
                    "or use its port without TLS"
                )
            return (
                f"{where} takes the connection but ended or did not answer our association "
                f"request; check that this port speaks DICOM without TLS and that our AE title "
                f"{link.calling_ae} is registered there"
            )
    except ConnectionRefusedError:
        return f"{where}: connection refused; check that the PACS runs and that the port is right"
    except TimeoutError:
        return f"{where}: no answer; check host, port and the firewall between"
    except OSError as error:
        return f"{where} cannot be reached ({error.strerror or type(error).__name__})"


def _diagnose_tls(link: Link, context: ssl.SSLContext, plain: socket.socket) -> str:
    """The cause of a failed TLS connection; with TLS 1.3 a refusal comes at the first read."""
    try:
        with context.wrap_socket(plain, server_hostname=link.remote.host) as secure:
            secure.settimeout(_ALERT_WAIT_S)
            try:
                if secure.recv(1):
                    return "it sends something before it was asked; check that the port is DICOM"
            except TimeoutError:
                pass
            return (
                "it takes the TLS connection but ended or did not answer our association request; "
                f"check that our AE title {link.calling_ae} is registered there, with our "
                "certificate"
            )
    except OSError as error:
        return describe_tls_failure(error)


def _wants_tls(plain: socket.socket) -> bool:
    """Whether the peer answers a TLS greeting; nothing is sent over such a connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain.settimeout(_ALERT_WAIT_S)
    try:
        context.wrap_socket(plain).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "").upper()
    except OSError:
        return False
    return True


def lost(link: Link, service: str, association: Association | None = None) -> PeerUnreachable:
    """The error for an association that broke or fell silent during a request."""
    if association is not None and association in _aborts:
        words = describe_abort(*_aborts[association])
        return PeerUnreachable(f"{link.remote}: during {service} it {words}")
    return PeerUnreachable(
        f"{link.remote} ended the connection or did not answer during {service} within "
        f"{link.timeouts.response_s:g} s; try again, then look into its log"
    )
