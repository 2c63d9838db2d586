"""Keyed names for what must not be named: patients across projects and received instances.

All are HMAC-SHA256 (RFC 2104) under the node's own secrets: the same input gives the same name,
and without the secret nobody can compute or test one.
"""

from __future__ import annotations

import hashlib
import hmac


def _keyed(secret: bytes, purpose: str, *values: str) -> str:
    message = b"\x00".join([purpose.encode(), *(value.encode() for value in values)])
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def patient_key(site_secret: bytes, issuer: str, patient_id: str) -> str:
    """A patient's name in all projects of this site: ``pt`` and 16 hexadecimal digits.

    Examples:
        >>> patient_key(b"s" * 32, "", "1") == patient_key(b"s" * 32, "", " 1 ")
        True
    """
    return "pt" + _keyed(site_secret, "patient", issuer.strip(), patient_id.strip())[:16]


def patient_marks(site_secret: bytes, issuer: str, patient_id: str) -> tuple[bytes, bytes]:
    """What a withdrawn patient leaves behind: the marks of her identity and of her bare number.

    Args:
        site_secret: the site's secret, without which no mark can be made or tested.
        issuer: IssuerOfPatientID, empty where the PACS gives none.
        patient_id: PatientID.

    Returns:
        The mark of issuer and number, 32 bytes, and that of the number whatever the issuer.

    Examples:
        >>> patient_marks(b"s" * 32, "A", "1")[1] == patient_marks(b"s" * 32, "", "1")[1]
        True
    """
    exact = bytes.fromhex(_keyed(site_secret, "tombstone", issuer.strip(), patient_id.strip()))
    return exact, bytes.fromhex(_keyed(site_secret, "tombstone number", patient_id.strip()))


def study_mark(site_secret: bytes, study_uid: str) -> bytes:
    """What a withdrawn study leaves behind, 32 bytes."""
    return bytes.fromhex(_keyed(site_secret, "tombstone study", study_uid.strip(" \0")))


def split_rank(site_secret: bytes, patient: str) -> str:
    """The place of a patient in the order by which the site's test set is drawn."""
    return _keyed(site_secret, "split", patient)


def validation_rank(site_secret: bytes, plan_hash: str, patient: str) -> str:
    """The place of a patient in the order by which a plan's validation cases are drawn."""
    return _keyed(site_secret, "validation", plan_hash, patient)


def instance_key(project_secret: bytes, uid: str) -> str:
    """The name of a received instance or series in the spool and the state: 32 digits."""
    return _keyed(project_secret, "instance", uid.strip())[:32]


def result_uid(project_secret: bytes, study_key: str, model_id: str, purpose: str) -> str:
    """The UID of a result object: ``2.25.`` and 128 bits (PS3.5 B.2).

    The same study, model and purpose give the same UID, so that a repeated step cannot make a
    second object in the PACS.
    """
    digits = _keyed(project_secret, "result", study_key, model_id, purpose)[:32]
    return f"2.25.{int(digits, 16)}"
