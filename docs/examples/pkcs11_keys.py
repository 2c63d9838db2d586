"""A `KeySource` whose two keys live in a PKCS#11 token: an example, not part of the product.

Needs python-pkcs11 (0.10.1) and a module; tried with SoftHSM2 2.6.1. The keys are made there, once:

    pkcs11-tool --module $M --token-label clinode --login --keypairgen --key-type EC:prime256v1 \
        --label clinode-authority --usage-sign
    pkcs11-tool --module $M --token-label clinode --login --keypairgen --key-type EC:edwards25519 \
        --label clinode-plan --usage-sign

Then `init_coordinator(home, settings, keys=TokenKeys(...))` makes the home, and
`Coordinator(home, CoordinatorOptions(keys=TokenKeys(...)))` runs it.
"""

from __future__ import annotations

import hashlib

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature


class TokenKeys:
    """Both signing keys in one token.

    Args:
        module: the vendor's library, such as ``/usr/lib/softhsm/libsofthsm2.so``.
        token: the token's label.
        pin: opens it.
    """

    def __init__(self, module: str, token: str, pin: str) -> None:
        found = pkcs11.lib(module).get_token(token_label=token)
        self._session = found.open(user_pin=pin)

    def authority(self) -> TokenAuthority:
        """The project authority's key."""
        return TokenAuthority(*self._pair("clinode-authority"))

    def plan(self) -> TokenPlan:
        """The key under plans."""
        return TokenPlan(*self._pair("clinode-plan"))

    def _pair(self, label: str) -> tuple[pkcs11.PrivateKey, bytes]:
        private = self._session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label=label)
        public = self._session.get_key(pkcs11.ObjectClass.PUBLIC_KEY, label=label)
        # EC_POINT is a DER octet string around the point (PKCS#11 2.40, section 2.3.3).
        return private, bytes(public[pkcs11.Attribute.EC_POINT])[2:]


class TokenAuthority:
    """ECDSA on P-256 with SHA-256, DER."""

    def __init__(self, key: pkcs11.PrivateKey, point: bytes) -> None:
        self._key = key
        self._point = point

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key's public half."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self._point)

    def sign(self, data: bytes, /) -> bytes:
        """Sign a whole message; PKCS#11 gives r and s side by side."""
        raw = self._key.sign(hashlib.sha256(data).digest(), mechanism=pkcs11.Mechanism.ECDSA)
        r, s = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
        return encode_dss_signature(r, s)


class TokenPlan:
    """Ed25519."""

    def __init__(self, key: pkcs11.PrivateKey, point: bytes) -> None:
        self._key = key
        self._point = point

    def public_key(self) -> Ed25519PublicKey:
        """The key's public half."""
        return Ed25519PublicKey.from_public_bytes(self._point)

    def sign(self, data: bytes, /) -> bytes:
        """Sign a whole message."""
        return bytes(self._key.sign(data, mechanism=pkcs11.Mechanism.EDDSA))
