"""Enrolment: one-time tokens, and certificates for keys that never leave their site."""

from federation.enrolment.client import SiteIdentity, enrol, load_identity
from federation.enrolment.token import EnrolmentToken, make_token, parse_token

__all__ = [
    "EnrolmentToken",
    "SiteIdentity",
    "enrol",
    "load_identity",
    "make_token",
    "parse_token",
]
