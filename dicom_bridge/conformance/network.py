"""Sections 4, 6 and 7: application entities, configuration, associations."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from dicom_bridge.conformance.facts import Facts
from dicom_bridge.conformance.text import paragraphs, table
from dicom_bridge.net import stack
from dicom_bridge.net.model import Timeouts

_LITTLE = "Implicit VR LE, Explicit VR LE"


def implementation_model(facts: Facts) -> str:
    """Section 4: the application entity and what it does."""
    del facts
    return "\n".join(
        (
            "## 4 Implementation Model\n",
            "### 4.1 Application Data Flow\n",
            "```",
            " PACS  <-- C-FIND, C-MOVE, C-GET, C-ECHO, N-ACTION ---  node (SCU)",
            " PACS  --- C-STORE, C-ECHO, N-EVENT-REPORT ---------->  node (SCP)",
            " PACS  <-- C-STORE of results ------------------------  node (SCU)",
            "```\n",
            "### 4.2 Functional Definition\n",
            paragraphs(
                """One application entity does it all. On its schedule, or when an operator asks,
                it queries each configured PACS, retrieves studies that it does not have, and
                processes them. Results that a person or a rule has released are sent to the PACS
                that the settings name."""
            ),
            "### 4.3 Sequencing\n",
            paragraphs(
                """C-FIND of studies; C-FIND of series and instances of one study; C-MOVE or C-GET
                of what is not here; again for what is missing. Later: C-FIND of the study for its
                present patient and accession values; C-STORE of the result; C-FIND or N-ACTION to
                see that it is there."""
            ),
        )
    )


def configuration(facts: Facts) -> str:
    """Section 6: what can be set, and how it is now."""
    rows: list[tuple[object, ...]] = [
        ("AE title", "dicom.ae_title", facts.ae_title),
        ("Port of the Storage SCP", "dicom.port", facts.port),
        ("Associations accepted at once", "dicom.max_associations", facts.max_associations),
        ("Receiver processes", "dicom.receiver_processes", facts.receiver_processes),
        ("TLS profile", "dicom.tls.profile", facts.tls_profile or "TLS is off"),
        ("Objects of a result", "results.form", ", ".join(facts.form)),
        ("Commitment reports waited for, h", "results.commitment_hours", facts.commitment_hours),
    ]
    peers = [
        (
            peer.name,
            ", ".join(peer.roles),
            peer.transport,
            f"C-{peer.retrieve.upper()}" if peer.transport == "dimse" else "WADO-RS",
            peer.associations,
            "yes" if peer.commitment else "no",
            "yes" if peer.tls else "no",
        )
        for peer in facts.peers
    ]
    head = ("Name", "Roles", "Transport", "Retrieval", "Associations", "Commitment", "TLS")
    return "\n".join(
        (
            "## 6 Configuration\n",
            table("Table 6-1. Local settings", ("Setting", "Key", "Value"), rows),
            table("Table 6-2. Configured remote systems", head, peers or [("none",) + ("",) * 6]),
            paragraphs("IPv4 and IPv6 are supported; host names are resolved at each use."),
        )
    )


def communication(facts: Facts) -> str:
    """Section 7: association parameters and presentation contexts."""
    times = Timeouts()
    parameters = [
        ("Application Context Name", "1.2.840.10008.3.1.1.1"),
        ("Implementation Class UID", PYNETDICOM_IMPLEMENTATION_UID),
        ("Implementation Version Name", PYNETDICOM_IMPLEMENTATION_VERSION),
        ("Maximum PDU Length", f"{stack.MAXIMUM_PDU_BYTES} bytes"),
        ("Associations initiated at once", "1 for each PACS unless its administrator allows more"),
        ("Associations accepted at once", facts.max_associations),
        ("Asynchronous operations", "not negotiated: one operation at a time"),
        ("Connection timeout", f"{times.connect_s:g} s"),
        ("Association timeout (ARTIM)", f"{times.association_s:g} s"),
        ("Response timeout", f"{times.response_s:g} s"),
        ("C-MOVE without progress", f"{times.move_idle_s:g} s, then C-CANCEL"),
    ]
    head = ("Abstract Syntax", "UID", "Transfer Syntaxes", "Role", "Extended Negotiation")
    return "\n".join(
        (
            "## 7 Network and Media Communication Details\n",
            "### 7.1 Interfaces\n",
            paragraphs("TCP/IP over IPv4 and IPv6. No media interchange."),
            "### 7.2 Specifications\n",
            f"#### 7.2.1 {facts.ae_title} Application Entity\n",
            table("Table 7-2. Association parameters", ("Name", "Value"), parameters),
            "##### Association initiation\n",
            paragraphs(
                """A new association for each activity, released when it ends. Failures that may
                pass are repeated with growing waits; a refusal that only a person can change is
                told in words and not repeated."""
            ),
            table("Table 7-3. Proposed presentation contexts", head, _proposed()),
            "##### Association acceptance\n",
            paragraphs(
                """Rejected: a called AE title that is not ours, a calling AE title that is not
                configured (both permanent), and more associations than allowed (transient). A PDU
                that is longer than negotiated or not complete in time, and a message larger than
                allowed, end the association."""
            ),
            table("Table 7-4. Accepted presentation contexts", head, _accepted()),
        )
    )


def _proposed() -> Iterator[tuple[object, ...]]:
    for uid in stack.PROPOSED:
        yield UID(uid).name, uid, _LITTLE, "SCU", "none"
    yield "storage classes of the listed instances (with C-GET)", "", "all", "SCP", "role selection"
    yield "SOP class of each file sent", "", "the file's own", "SCU", "none"


def _accepted() -> Iterator[tuple[object, ...]]:
    yield UID(stack.VERIFICATION).name, stack.VERIFICATION, _LITTLE, "SCP", "none"
    yield "every storage SOP class", "", "every one that is proposed", "SCP", "none"
    commitment = stack.STORAGE_COMMITMENT
    yield UID(commitment).name, commitment, _LITTLE, "SCU", "role selection"
