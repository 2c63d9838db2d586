"""The enrolment token: what a hospital needs to join once, sent by another channel than the net.

It names the project's authority by fingerprint, so the site knows the coordinator before it says
anything; it is valid once and until it ends; the coordinator keeps only a hash of its secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from federation.canonical import canonical_json
from federation.clock import parse_stamp, stamp
from federation.errors import EnrolmentRefused, SettingsRefused
from federation.pki import check_site_name

TOKEN_FORMAT: Final = 1
PREFIX: Final = "clinode-enrol-1."
MAX_TOKEN_CHARS: Final = 4096
SECRET_BYTES: Final = 32
_HEX = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """The token's content.

    Attributes:
        token_id: public name of the token, 16 hexadecimal digits.
        site: the site it is for.
        project: the project it opens.
        address: ``host:port`` of the enrolment listener.
        authority: SHA-256 of the project authority's certificate (DER), hexadecimal.
        expires: end of its validity, UTC.
        secret: 32 random bytes; shown in no log.
    """

    token_id: str
    site: str
    project: str
    address: str
    authority: str
    expires: datetime
    secret: bytes = field(repr=False)

    def to_text(self) -> str:
        """One line of printable characters; :func:`parse_token` reads it."""
        document = canonical_json(
            {
                "format": TOKEN_FORMAT,
                "token_id": self.token_id,
                "site": self.site,
                "project": self.project,
                "address": self.address,
                "authority": self.authority,
                "expires": stamp(self.expires),
                "secret": base64.b64encode(self.secret).decode(),
            }
        )
        return PREFIX + base64.urlsafe_b64encode(document).decode().rstrip("=")


def make_token(
    site: str, project: str, address: str, authority: str, expires: datetime
) -> EnrolmentToken:
    """A fresh token with a random id and secret.

    Args:
        site: the site it is for.
        project: the project it opens.
        address: ``host:port`` of the enrolment listener.
        authority: fingerprint of the project's authority.
        expires: end of its validity, UTC.
    """
    return EnrolmentToken(
        token_id=secrets.token_hex(8),
        site=check_site_name(site),
        project=project,
        address=address,
        authority=authority,
        expires=expires,
        secret=secrets.token_bytes(SECRET_BYTES),
    )


def parse_token(text: str | Path) -> EnrolmentToken:
    """Read a token's text, or a file that holds it.

    Raises:
        EnrolmentRefused: it is cut, changed, or of another format version.
    """
    if isinstance(text, Path):
        try:
            with text.open(encoding="ascii") as stream:
                text = stream.read(MAX_TOKEN_CHARS + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise EnrolmentRefused("the token's file cannot be read as text") from error
    text = "".join(text.split())
    if len(text) > MAX_TOKEN_CHARS or not text.startswith("clinode-enrol-"):
        raise EnrolmentRefused("this is no enrolment token: it starts with clinode-enrol-")
    if not text.startswith(PREFIX):
        raise EnrolmentRefused("the token was made by another version of the coordinator")
    body = text.removeprefix(PREFIX)
    try:
        document = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if document["format"] != TOKEN_FORMAT:
            raise ValueError("format")
        token = EnrolmentToken(
            token_id=str(document["token_id"]),
            site=check_site_name(str(document["site"])),
            project=str(document["project"]),
            address=str(document["address"]),
            authority=str(document["authority"]),
            expires=parse_stamp(str(document["expires"])),
            secret=base64.b64decode(document["secret"], validate=True),
        )
    except (ValueError, KeyError, TypeError, binascii.Error, SettingsRefused) as error:
        raise EnrolmentRefused(
            "the token is damaged: copy the whole line as the coordinator printed it"
        ) from error
    whole = (
        _HEX.fullmatch(token.authority)
        and _ADDRESS.fullmatch(token.address)
        and len(token.secret) == SECRET_BYTES
        and token.expires.tzinfo is not None
    )
    if not whole:
        raise EnrolmentRefused("the token is damaged: a field does not have its form")
    return token
