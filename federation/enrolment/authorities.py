"""More than one authority for a while: how a project passes from one to its successor.

The coordinator announces its bundle over mutual TLS, the authority that signs now first. A site
keeps the bundle when it comes from whom it trusts already, so every step overlaps the one before:
present, present and next, next and former, next. Nobody travels with a key, no site is enrolled
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from federation.errors import EnrolmentRefused
from federation.pki import fingerprint

MOST: Final = 4
MAX_BUNDLE_BYTES: Final = 16_384


def read_bundle(pem: bytes) -> list[x509.Certificate]:
    """The authorities of a bundle, the signing one first.

    Raises:
        EnrolmentRefused: there are none, too many, or one is no authority.
    """
    try:
        if len(pem) > MAX_BUNDLE_BYTES:
            raise ValueError("too large")
        found = x509.load_pem_x509_certificates(pem)
        for one in found:
            rules = one.extensions.get_extension_for_class(x509.BasicConstraints).value
            if not rules.ca or not isinstance(one.public_key(), ec.EllipticCurvePublicKey):
                raise ValueError("no authority")
            one.verify_directly_issued_by(one)
    except Exception as error:  # edge: any defect of foreign bytes is one cause
        raise EnrolmentRefused("the coordinator announces what is no authority") from error
    if not 0 < len(found) <= MOST:
        raise EnrolmentRefused(f"the coordinator announces {len(found)} authorities, at most 4 go")
    return found


def bundle_pem(authorities: Sequence[x509.Certificate]) -> bytes:
    """A bundle as it travels and is kept."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in authorities)


def accepted(present: bytes, announced: bytes, project: str) -> bytes | None:
    """What a site keeps of an announcement that came over mutual TLS.

    Args:
        present: the bundle that it relies on.
        announced: what the coordinator says.
        project: the site's project.

    Returns:
        The new bundle; None where it is the same, or an older coordinator announces nothing.

    Raises:
        EnrolmentRefused: the announcement has no authority in common with what is relied on, is
            another project's, or is no bundle.
    """
    if not announced or announced == present:
        return None
    known = {fingerprint(one) for one in read_bundle(present)}
    found = read_bundle(announced)
    if not any(fingerprint(one) in known for one in found):
        raise EnrolmentRefused(
            "the coordinator announces authorities of which this site knows none: nothing is "
            "changed; ask the coordinator's operator"
        )
    for one in found:
        named = one.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if [str(name.value) for name in named] != [project]:
            raise EnrolmentRefused("the coordinator announces another project's authority")
    return bundle_pem(found)


def issuer_of(
    certificate: x509.Certificate, authorities: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    """Which of the authorities signed a certificate; None where none did."""
    for one in authorities:
        try:
            certificate.verify_directly_issued_by(one)
        except Exception:  # noqa: S112  # edge: whatever does not fit, another one may
            continue
        return one
    return None
