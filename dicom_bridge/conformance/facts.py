"""What a conformance statement is made from: the configuration, in plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from dicom_bridge.deid.profile import Profile


@dataclass(frozen=True, slots=True)
class Peer:
    """A configured PACS; its address is not part of a statement.

    Attributes:
        name: its name in the settings.
        transport: ``dimse`` or ``dicomweb``.
        retrieve: ``move`` or ``get``.
        associations: how many at once.
        commitment: whether storage commitment is asked for.
        tls: whether TLS is used.
        roles: ``query``, ``results``.
    """

    name: str
    transport: str
    retrieve: str
    associations: int
    commitment: bool
    tls: bool
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """The configuration that the statement describes.

    Attributes:
        version: of the software.
        ae_title: of the node.
        port: where the receiver listens.
        max_associations: that it holds at once.
        receiver_processes: that share the port.
        tls_profile: of ``[dicom.tls]``, empty where TLS is off.
        peers: the configured PACS.
        profile: of de-identification.
        form: what a result is made of: ``seg``, ``sr``, ``sc``.
        disclaimer: wording in reports and pictures.
        commitment_hours: how long a commitment report is waited for.
    """

    version: str
    ae_title: str = "CLINODE"
    port: int = 11112
    max_associations: int = 8
    receiver_processes: int = 1
    tls_profile: str = ""
    peers: tuple[Peer, ...] = ()
    profile: Profile = field(default_factory=Profile)
    form: tuple[str, ...] = ("seg", "sr")
    disclaimer: str = "Research result of clinode. Not for diagnostic use."
    commitment_hours: float = 24.0

    @property
    def web(self) -> bool:
        """Whether a PACS is talked to over DICOMweb."""
        return any(peer.transport == "dicomweb" for peer in self.peers)
