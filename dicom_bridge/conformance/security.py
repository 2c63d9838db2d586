"""Annex C: security, with Table C-6, the elements and what de-identification does with them."""

from __future__ import annotations

from dicom_bridge.conformance.facts import Facts
from dicom_bridge.conformance.text import paragraphs, table
from dicom_bridge.deid.statement import StatementRow, elements_and_actions
from dicom_bridge.deid.table import OPTION_CODES
from dicom_bridge.net.tls import CIPHERS


def annex_c(facts: Facts) -> str:
    """Security profiles, and attribute confidentiality (Table N.11-6 of the template)."""
    options = ", ".join(
        f"{option} ({OPTION_CODES[option][0]})" for option in sorted(facts.profile.options)
    )
    return "\n".join(
        (
            "## Annex C. Security\n",
            "### C.1 Introduction\n",
            paragraphs(
                """Only configured AE titles may call. Outside the hospital the node opens
                connections to its coordinator alone, and no DICOM object travels on them."""
            ),
            "### C.2 Security Profiles\n",
            "#### C.2.1 Secure Transport Connection\n",
            _transport(facts),
            "#### C.2.5 Audit Trail\n",
            paragraphs(
                """Audit Trail Message Format Profile (PS3.15 A.5) and Audit Trail Message
                Transmission Profile SYSLOG-TLS or SYSLOG-UDP (A.6, A.7). Messages name studies
                by keys of the node, not by Study Instance UID or Patient ID."""
            ),
            "#### C.2.6 Attribute Confidentiality Details\n",
            paragraphs(
                f"""Basic Application Level Confidentiality Profile (113100) with the options:
                {options or "none"}. What no rule names is removed, whatever its tag. Encrypted
                Attributes are not written. Replacement UIDs, pseudonyms and offsets of dates
                follow from the project's key: they are the same across series, studies, visits
                and repeated runs of one project, and unrelated between projects."""
            ),
            table(
                "Table C-6. De-identified Elements and Actions",
                ("Attribute Name", "Tag", "Action", "Encrypted", "Comments"),
                (
                    (row.name, row.tag, row.action, row.encrypted, _comments(row))
                    for row in elements_and_actions(facts.profile)
                ),
            ),
        )
    )


def _comments(row: StatementRow) -> str:
    return "; ".join(text for text in (row.dummy, row.integrity) if text)


def _transport(facts: Facts) -> str:
    if not facts.tls_profile:
        return paragraphs(
            """TLS is off in this configuration. It can be switched on for both roles with the
            profiles below."""
        ) + "\n".join(f"- {name}" for name in CIPHERS)
    return paragraphs(
        f"""Profile {facts.tls_profile}: TLS 1.2 or 1.3, certificates on both sides, in both
        roles. Suites of TLS 1.2: {", ".join(CIPHERS[facts.tls_profile])}."""  # type: ignore[index]
    )
