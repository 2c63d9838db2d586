"""Who signs: a key in a file, or one that never leaves a hardware module.

The coordinator needs two signatures only: the authority's under certificates (ECDSA on P-256 with
SHA-256, DER as in RFC 3279) and the plan key's under plans (Ed25519, RFC 8032). Both go through
`Signer`, so both keys may live behind PKCS#11 or a TPM. TLS keys cannot: gRPC takes PEM bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Never, Protocol, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import SettingsRefused
from federation.keyfile import load_key

Public = TypeVar("Public", ec.EllipticCurvePublicKey, Ed25519PublicKey, covariant=True)


class Signer(Protocol[Public]):
    """A key that signs; nothing else is asked of it, least of all itself."""

    def public_key(self) -> Public:
        """The key's public half."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """Sign ``data`` (the whole message, not its hash)."""
        ...


AuthoritySigner = Signer[ec.EllipticCurvePublicKey]
"""Signs certificates: ECDSA with SHA-256, DER."""
PlanSigner = Signer[Ed25519PublicKey]
"""Signs plans: Ed25519, 64 bytes. An `Ed25519PrivateKey` is one."""


class KeySource(Protocol):
    """Where the coordinator's two signing keys are."""

    def authority(self) -> AuthoritySigner:
        """The project authority's key.

        Raises:
            SettingsRefused: it is not there, or not usable.
        """
        ...

    def plan(self) -> PlanSigner:
        """The key under plans. Errors as `authority`."""
        ...


class FileAuthority:
    """An authority's key from a file.

    Args:
        key: the key.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""
        return self._key.public_key()

    def sign(self, data: bytes, /) -> bytes:
        """ECDSA with SHA-256, DER."""
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


class FileKeys:
    """Both keys from PEM files in the home.

    Args:
        authority: the authority's key file.
        plan: the plan key's file.
        passphrase: what covers them; None for plain files of mode 0600.
    """

    def __init__(self, authority: Path, plan: Path, passphrase: bytes | None = None) -> None:
        self._authority = authority
        self._plan = plan
        self._passphrase = passphrase

    def authority(self) -> AuthoritySigner:
        """The authority's key."""
        key = self._load(self._authority)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SettingsRefused(f"{self._authority.name} holds no ECDSA key")
        return FileAuthority(key)

    def plan(self) -> PlanSigner:
        """The plan key."""
        key = self._load(self._plan)
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingsRefused(f"{self._plan.name} holds no Ed25519 key")
        return key

    def _load(self, path: Path) -> ec.EllipticCurvePrivateKey | Ed25519PrivateKey:
        try:
            return load_key(path, self._passphrase)
        except OSError as error:
            raise SettingsRefused(
                f"{path.name} cannot be read ({error.strerror}): put it back from the backup; it"
                " is never made anew in a home that is in use, because every site relies on it"
            ) from error


class SignerKey(ec.EllipticCurvePrivateKey):
    """A `Signer` in the form in which `cryptography` builds certificates with it.

    Args:
        signer: does the work; only signing by ECDSA with SHA-256 is passed on.
    """

    def __init__(self, signer: AuthoritySigner) -> None:
        self._signer = signer

    def sign(
        self,
        data: Any,  # noqa: ANN401 - the base class takes any buffer
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        """Sign by the module behind."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise SettingsRefused("the authority signs with SHA-256 only")
        return self._signer.sign(bytes(data))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""
        return self._signer.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        """The key's curve."""
        return self.public_key().curve

    @property
    def key_size(self) -> int:
        """Bits of the key."""
        return self.public_key().key_size

    def exchange(self, *_: object) -> Never:
        """Not the authority's work."""
        raise SettingsRefused("the authority's key signs and does nothing else")

    def private_numbers(self) -> Never:
        """The key does not leave its place."""
        raise SettingsRefused("the authority's key cannot be taken out of its place")

    def private_bytes(self, *_: object) -> Never:
        """The key does not leave its place."""
        raise SettingsRefused("the authority's key cannot be taken out of its place")

    def __copy__(self) -> SignerKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SignerKey:
        return self


def check_fits(signer: AuthoritySigner, certificate: Path) -> x509.Certificate:
    """The authority's certificate, which must be that of ``signer``.

    Raises:
        SettingsRefused: it is missing, damaged, or another key's.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise SettingsRefused(
            f"{certificate.name} cannot be read ({error.strerror}): it is public, every enrolled"
            " site has a copy as keys/ca.crt; put that or the backup's here"
        ) from error
    except ValueError as error:
        raise SettingsRefused(
            f"{certificate.name} is damaged: every enrolled site has a copy as keys/ca.crt; put"
            " that or the backup's here"
        ) from error
    if cast("object", signer.public_key()) != found.public_key():
        raise SettingsRefused(
            f"the authority's key and {certificate.name} do not belong together: put both back"
            " from one backup; a new authority would shut every site out"
        )
    return found
