"""Opening an association to a peer, with every failure said in one sentence.

Each call opens an association of its own and shares nothing, so calls may come from any thread.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicom_bridge.errors import AssociationRejected, PeerError, PeerUnreachable
from dicom_bridge.net.guard import GuardedSocket, RequestorDimse
from dicom_bridge.net.model import RemoteAE, Timeouts
from dicom_bridge.net.stack import MAXIMUM_PDU_BYTES
from dicom_bridge.net.words import Rejection, describe_rejection


@dataclass(frozen=True, slots=True)
class Link:
    """Who calls whom, and how long to wait."""

    remote: RemoteAE
    calling_ae: str
    timeouts: Timeouts


def _on_open(event: evt.Event) -> None:
    event.assoc.dimse = RequestorDimse(event.assoc)
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket = GuardedSocket.over(transport.socket)


@contextmanager
def associate(
    link: Link, contexts: Sequence[PresentationContext], *, response_s: float | None = None
) -> Iterator[Association]:
    """Open an association, hand it out, release it; abort it when the body fails.

    Args:
        link: whom to call and as whom.
        contexts: the presentation contexts to propose, 1 to 128.
        response_s: how long to wait for a DIMSE response; by default the link's time-out.

    Raises:
        PeerUnreachable: nothing there speaks DICOM, or the connection broke.
        AssociationRejected: the peer refused us or everything that we proposed.
    """
    entity = AE(ae_title=link.calling_ae)
    entity.maximum_pdu_size = MAXIMUM_PDU_BYTES
    entity.connection_timeout = link.timeouts.connect_s
    entity.acse_timeout = link.timeouts.association_s
    entity.dimse_timeout = link.timeouts.response_s if response_s is None else response_s
    entity.network_timeout = None
    try:
        association = entity.associate(
            link.remote.host,
            link.remote.port,
            contexts=list(contexts),
            ae_title=link.remote.ae_title,
            max_pdu=MAXIMUM_PDU_BYTES,
            evt_handlers=[(evt.EVT_CONN_OPEN, _on_open)],
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
        if finished and association.is_established:
            association.release()
        elif association.is_established:
            association.abort()


def _refusal(association: Association, link: Link) -> PeerError:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        rejection = Rejection(answer.result or 0, answer.result_source or 0, answer.diagnostic or 0)
        words = describe_rejection(
            rejection, calling_ae=link.calling_ae, called_ae=link.remote.ae_title
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
    return PeerUnreachable(_diagnose(link))


def _diagnose(link: Link) -> str:
    """Why no association came about: a second look with a plain TCP connection."""
    where = str(link.remote)
    try:
        with socket.create_connection(
            (link.remote.host, link.remote.port), timeout=link.timeouts.connect_s
        ):
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


def lost(link: Link, service: str) -> PeerUnreachable:
    """The error for an association that broke or fell silent during a request."""
    return PeerUnreachable(
        f"{link.remote} ended the connection or did not answer during {service} within "
        f"{link.timeouts.response_s:g} s; try again, then look into its log"
    )
