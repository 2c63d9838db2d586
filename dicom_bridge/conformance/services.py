"""Sections 1 and 5: what is exchanged, and by which service."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import UID

from dicom_bridge.conformance.facts import Facts
from dicom_bridge.conformance.text import paragraphs, table
from dicom_bridge.net import find, intake, stack
from dicom_bridge.net.words import describe_status
from dicom_bridge.sop_classes import LABELMAP_STORAGE, SEGMENTATION_STORAGE

SEG, SR, SC = (
    SEGMENTATION_STORAGE,
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.7",
)
_CREATED = {"seg": SEG, "sr": SR, "sc": SC}
_PROCESSED = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    SEGMENTATION_STORAGE,
    LABELMAP_STORAGE,
)
_NAMES = {LABELMAP_STORAGE: "Label Map Segmentation Storage"}
_SERVICES = {
    stack.VERIFICATION: "Verification",
    stack.STUDY_ROOT_FIND: "Query",
    stack.PATIENT_ROOT_FIND: "Query, where the PACS refuses the level in the Study Root",
    stack.STUDY_ROOT_MOVE: "Retrieve",
    stack.STUDY_ROOT_GET: "Retrieve",
    stack.STORAGE_COMMITMENT: "Storage Commitment",
}
STATUSES: dict[str, tuple[int, ...]] = {
    "C-ECHO": (0x0000, 0x0122, 0x0210, 0x0211),
    "C-FIND": (0x0000, 0xFF00, 0xFF01, 0xA700, 0xA900, 0xB001, 0xC000, 0xFE00, 0x0122, 0x0124),
    "C-MOVE": (
        *(0x0000, 0xFF00, 0xB000, 0xFE00, 0xA701, 0xA702, 0xA801, 0xA900, 0xC000, 0x0122, 0x0124),
    ),
    "C-GET": (0x0000, 0xFF00, 0xB000, 0xFE00, 0xA701, 0xA702, 0xA900, 0xC000, 0x0122, 0x0124),
    "C-STORE": (
        *(0x0000, 0xB000, 0xB006, 0xB007, 0xA700, 0xA900, 0xC000, 0x0122, 0x0124, 0x0110, 0x0117),
    ),
    "N-ACTION": (0x0000, 0x0110, 0x0112, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0131, 0x0213),
}
"""Statuses that a peer may answer with, by service (PS3.4, PS3.7 Annex C)."""


def overview(facts: Facts) -> str:
    """Section 1: content and transfer, network services."""
    created = [_CREATED[form] for form in ("seg", "sr", "sc") if form in facts.form]
    classes = sorted({*_PROCESSED, *created})
    rows = [
        (
            _NAMES.get(uid, UID(uid).name),
            uid,
            "SCP, SCU" if uid in created else "SCP",
            _web(facts, uid in created),
            "S" if uid in created else "",
            "Y" if uid in _PROCESSED else "",
        )
        for uid in classes
    ]
    return "\n".join(
        (
            "## 1 Overview\n",
            paragraphs(
                """clinode is a hospital node of a research federation. It queries studies in a
                PACS, retrieves them, removes identity, prepares the images and trains on them
                inside the hospital; results go back to the PACS as new series of the original
                study. It displays nothing and is no archive."""
            ),
            "### 1.1 Content and Transfer\n",
            table(
                "Table 1-1. Storage SOP Classes",
                ("SOP Class", "UID", "DIMSE", "DICOM Web", "Create", "Process"),
                rows,
            ),
            paragraphs(
                """Function columns: S is a Standard SOP Class. As Storage SCP the node takes
                every storage SOP class and every transfer syntax that the PACS offers, because
                it takes only instances that it has asked for by their UIDs; what it can process
                is listed, all else ends in quarantine with the reason. Created instances are
                written and sent in Explicit VR Little Endian. Media services: none."""
            ),
            table(
                "Table 1-2. Network Services",
                ("Service", "SOP Class", "UID", "SCU", "SCP"),
                _services(facts),
            ),
        )
    )


def _web(facts: Facts, created: bool) -> str:
    if not facts.web:
        return ""
    return "user agent: WADO-RS, STOW-RS" if created else "user agent: WADO-RS"


def _services(facts: Facts) -> Iterator[tuple[str, ...]]:
    for uid in stack.PROPOSED:
        yield _SERVICES[uid], UID(uid).name, uid, "Y", "Y" if uid == stack.VERIFICATION else ""
    yield "Storage", "see Table 1-1", "", "Y", "Y"
    if facts.web:
        yield "DICOM Web", "QIDO-RS, WADO-RS, STOW-RS", "", "user agent", ""


def services(facts: Facts) -> str:
    """Section 5: each service with its keys, statuses and what is done on them."""
    parts = [
        "## 5 Service and Interoperability Description\n",
        "### 5.1 Verification\n",
        paragraphs("Asked by `clinode pacs echo` and the node's check; answered with 0x0000."),
        _statuses(1, "C-ECHO"),
        "### 5.2 Query and Retrieve as SCU\n",
        paragraphs(
            """Study Root, hierarchical queries at the levels STUDY, SERIES and IMAGE. No optional
            key is relied upon: what a PACS leaves out is asked for at the next level or taken
            from the instances."""
        ),
        table("Table 5-2. C-FIND keys", ("Level", "Attribute", "Matching"), _keys()),
        _statuses(3, "C-FIND"),
        paragraphs(
            """Retrieval is by series; where the PACS refuses that level, by study; what is missing
            against the list that C-FIND gave is asked for again by instance. Numbers of
            sub-operations and the list of failed UIDs are read as hints only. A request without
            progress is ended by C-CANCEL, then by an abort."""
        ),
        _statuses(4, "C-MOVE"),
        _statuses(5, "C-GET"),
        *_storage(facts),
    ]
    if facts.web:
        parts.extend(("### 5.6 DICOM Web as user agent\n", _web_services()))
    return "\n".join(parts)


def _storage(facts: Facts) -> tuple[str, ...]:
    return (
        "### 5.3 Storage as SCP\n",
        paragraphs(
            """Level of conformance 2 (Full): all attributes are kept as received until they were
            converted. No attribute is coerced. Digital signatures are not checked (level 1). An
            instance is taken when an open retrieval asked for it; the answer is given after the
            object and a record of it are durable on disk."""
        ),
        table(
            "Table 5-6. C-STORE responses of the node",
            ("Status", "Meaning"),
            ((f"0x{status:04X}", words) for status, words in intake.ANSWERS.items()),
        ),
        "### 5.4 Storage as SCU\n",
        paragraphs(
            """Released results are sent, each instance with UIDs that follow from study and model:
            a repeated transfer stores the same instances again, never others."""
        ),
        _statuses(7, "C-STORE"),
        "### 5.5 Storage Commitment as SCU\n",
        paragraphs(
            f"""Asked for where the settings say so, after every instance of a result was stored.
            The report (N-EVENT-REPORT) is taken on the same association and on associations that
            the PACS opens, for {facts.commitment_hours:g} hours. Instances that the PACS does not
            commit to are sent again."""
        ),
        _statuses(8, "N-ACTION"),
    )


def _statuses(number: int, service: str) -> str:
    rows = (
        (f"0x{status:04X}", describe_status(service, status).partition(": ")[2])
        for status in STATUSES[service]
    )
    title = f"Table 5-{number}. {service} statuses and what they mean to the node"
    return table(title, ("Status", "Meaning and action"), rows)


def _keys() -> Iterator[tuple[str, str, str]]:
    matched = {
        "StudyInstanceUID": "list of UID",
        "PatientID": "single value",
        "AccessionNumber": "single value",
        "StudyDate": "range",
        "StudyDescription": "wild card",
    }
    for keyword in find.STUDY_KEYS:
        yield "STUDY", keyword, matched.get(keyword, "returned")
    yield "SERIES", "StudyInstanceUID", "unique key"
    yield "SERIES", "SeriesInstanceUID, Modality", "returned"
    yield "IMAGE", "StudyInstanceUID, SeriesInstanceUID", "unique key"
    yield "IMAGE", "SOPInstanceUID, SOPClassUID, InstanceNumber", "returned"


def _web_services() -> str:
    return table(
        "Table 5-9. DICOM Web transactions",
        ("Transaction", "Resource", "Media types"),
        (
            ("Search (QIDO-RS)", "studies, series, instances", "application/dicom+json"),
            ("Retrieve (WADO-RS)", "series, instances", 'multipart/related; "application/dicom"'),
            ("Store (STOW-RS)", "studies", 'multipart/related; "application/dicom"'),
        ),
    )
