"""Enrolment: one-time tokens, and certificates for keys that never leave their site."""
