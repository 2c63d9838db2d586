"""The tables of the settings file about the way to the federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from appliance.settings_base import Section


class ProxySection(Section):
    """The HTTP proxy that the node goes out through, by CONNECT."""

    url: Annotated[str, Field(pattern=r"\Ahttps?://[^\s@/]{1,500}/?\z")]
    """``http://proxy.example.org:3128``; with ``https`` the proxy itself is spoken to by TLS."""
    authorities: Path | None = None
    """Certificates (PEM) that vouch for an ``https`` proxy; empty uses the system's."""
    user: Annotated[str, Field(max_length=200)] = ""
    """User for basic authentication; needs `password_file`."""
    password_file: Path | None = None
    """File with that user's password."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file belong together: give both or neither")
        return self


class AmendmentsSection(Section):
    """Changes of a run under way that the node takes without asking a person."""

    learning_rate_factor: Annotated[float, Field(ge=1.0, le=1000.0)] = 1.0
    """Largest learning rate, as a multiple of the one that was approved."""
    rounds: Annotated[int, Field(ge=0, le=5000)] = 0
    """Largest number of rounds; as many as were approved are always taken."""


class FederationSection(Section):
    """The way to the coordinator, and what the node's part in it rests on."""

    proxy: ProxySection | None = None
    """None takes the proxy that the environment names (``https_proxy``, ``no_proxy``), if any."""
    amendments: AmendmentsSection | None = None
    """None asks the custodian about every change of a run under way."""
    key_passphrase: Annotated[str, Field(max_length=300)] = ""
    """Where the passphrase that covers the site's key is: empty for none, ``credential:NAME``
    (systemd's ``LoadCredential=``), ``file:PATH``, ``environment:NAME`` or ``prompt``."""
    certificate_warning_days: Annotated[int, Field(ge=1, le=365)] = 30
    """Days before its end from which a certificate that was not renewed is warned of."""
    authority_warning_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Days before its end from which the project's authority is warned of."""
