"""Keyed pseudonyms: the same patient, study or UID always gets the same new name in one project.

Everything is HMAC-SHA256 over a kind and the original value, keyed with the secret. Without
it nobody can compute or test a mapping, and two projects cannot be linked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from pydicom._uid_dict import UID_dictionary

from dicom_bridge.errors import DataRefused, SettingsRefused
from dicom_bridge.sop_classes import LABELMAP_STORAGE

MINIMUM_SECRET = 16
WEEKS = 520
# Newer than pydicom 3.0's dictionary: Label Map and Height Map Segmentation Storage (PS3.6, 2024).
_NEWER_UIDS = frozenset({LABELMAP_STORAGE, "1.2.840.10008.5.1.4.1.1.66.8"})
_STANDARD_UIDS = frozenset(UID_dictionary) | _NEWER_UIDS


@dataclass(frozen=True, slots=True)
class Pseudonymizer:
    """Maps identities of one project by keyed hash.

    Attributes:
        secret: the project's secret at this node, 16 bytes or more; never leaves the node.
        project: the project's name; part of every hash.

    Raises:
        SettingsRefused: the secret is too short or the project has no name.
    """

    secret: bytes = field(repr=False)
    project: str

    def __post_init__(self) -> None:
        if len(self.secret) < MINIMUM_SECRET:
            message = f"a project secret of at least {MINIMUM_SECRET} bytes is needed"
            raise SettingsRefused(f"{message}, got {len(self.secret)}: make a new one")
        if not self.project:
            raise SettingsRefused("the project has no name: give one")

    def uid(self, original: str) -> str:
        """The new UID ``2.25.<128 bits>`` of an original one (PS3.5 B.2).

        UIDs that the standard registers (SOP classes, well-known frames of reference) stay.

        Raises:
            DataRefused: the original is empty.

        Example:
            >>> p = Pseudonymizer(b"0" * 16, "demo")
            >>> p.uid("1.2.3") == p.uid("1.2.3"), p.uid("1.2.840.10008.1.2.1")
            (True, '1.2.840.10008.1.2.1')
        """
        value = original.strip(" \0")
        if value in _STANDARD_UIDS:
            return value
        if not value:
            raise DataRefused("an identifying UID is empty: the object cannot be told from others")
        return f"2.25.{int.from_bytes(self._digest('uid', value)[:16], 'big')}"

    def patient(self, issuer: str, patient_id: str) -> str:
        """The patient's pseudonym: 10 characters of [a-z2-7], used as ``sub-<label>``.

        Args:
            issuer: IssuerOfPatientID as in the header or the PACS, empty where there is none.
            patient_id: PatientID as it is; surrounding blanks do not count.
        """
        return self._label("patient", 10, issuer.strip(" \0"), patient_id.strip(" \0"))

    def study(self, study_uid: str) -> str:
        """The study's label: 8 characters of [a-z2-7], used as ``ses-<label>``."""
        return self._label("study", 8, study_uid.strip(" \0"))

    def study_key(self, study_uid: str) -> str:
        """The node's own id of a study: ``st`` and 12 hexadecimal digits, safe in logs."""
        return "st" + self._digest("study-key", study_uid.strip(" \0")).hex()[:12]

    def day_offset(self, issuer: str, patient_id: str) -> int:
        """Days by which this patient's dates move: whole weeks back, -7 to -3640, never 0."""
        digest = self._digest("days", issuer.strip(" \0"), patient_id.strip(" \0"))
        return -7 * (1 + int.from_bytes(digest[:8], "big") % WEEKS)

    def _label(self, kind: str, length: int, *values: str) -> str:
        return base64.b32encode(self._digest(kind, *values)).decode("ascii").lower()[:length]

    def _digest(self, kind: str, *values: str) -> bytes:
        parts = (self.project, kind, *values)
        message = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
        return hmac.digest(self.secret, message, hashlib.sha256)
